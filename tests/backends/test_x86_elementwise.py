"""Elementwise functions of codes against exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qfx import ops
from qfx.backends import x86_elementwise as elementwise

FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    torch.sigmoid,
    torch.tanh,
    F.hardsigmoid,
    F.hardswish,
    F.silu,
    F.gelu,
    F.elu,
    F.mish,
    F.leaky_relu,
]


def codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def steps_apart(a: Tensor, b: Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def real(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return (q.double() - zero_point) * scale


@pytest.mark.parametrize("function", FUNCTIONS)
def test_lookup_is_the_function_of_the_reference(function: Callable[[Tensor], Tensor]) -> None:
    table = elementwise.pack_lookup(function, 0.05, 120, 0.02, 14)
    q = codes(4096)
    expected = ops.quantize(function(ops.dequantize(q, 0.05, 120)), 0.02, 14)
    assert torch.equal(elementwise.lookup(q, table), expected)


@pytest.mark.parametrize("shape", [(), (1,), (17,), (3, 5), (2, 3, 4, 5), (0, 3), (1, 3, 7, 7)])
def test_lookup_takes_any_shape(shape: tuple[int, ...]) -> None:
    table = elementwise.pack_lookup(torch.neg, 1.0, 128, 1.0, 127)
    q = codes(*shape)
    assert torch.equal(elementwise.lookup(q, table), 255 - q)


def test_lookup_keeps_the_memory_format() -> None:
    table = elementwise.pack_lookup(torch.neg, 1.0, 128, 1.0, 127)
    dense = codes(2, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    assert elementwise.lookup(dense, table).stride() == dense.stride()
    for q in (dense, dense[1:], dense[:, 1:], dense.transpose(0, 3), codes(7)[1:]):
        assert torch.equal(elementwise.lookup(q, table), 255 - q)


def test_lookup_saturates_at_quant_max() -> None:
    table = elementwise.pack_lookup(torch.abs, 1.0, 0, 1.0, 0, quant_max=127)
    assert elementwise.lookup(codes(512), table).max() == 127


def test_requantize() -> None:
    q = codes(4096)
    expected = ops.quantize(real(q, 0.031, 120), 0.017, 33)
    assert steps_apart(elementwise.requantize(q, 0.031, 120, 0.017, 33), expected) <= 1


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3, 4, 5), (2, 3, 4, 5)),
        ((2, 3, 4, 5), (2, 3, 1, 1)),
        ((3, 1), (1, 4)),
        ((0, 3), (0, 3)),
    ],
)
def test_add_and_mul(left: tuple[int, ...], right: tuple[int, ...], relu: bool) -> None:
    a, b = codes(*left), codes(*right, seed=1)
    qparams = (0.031, 120, b, 0.017, 60, 0.05, 77)
    cases = {
        elementwise.add: real(a, 0.031, 120) + real(b, 0.017, 60),
        elementwise.mul: real(a, 0.031, 120) * real(b, 0.017, 60),
    }
    for function, y in cases.items():
        got = function(a, *qparams, relu=relu)
        expected = ops.quantize(y.relu() if relu else y, 0.05, 77)
        assert got.shape == expected.shape
        assert got.numel() == 0 or steps_apart(got, expected) <= 1


def test_add_is_exact_but_for_ties() -> None:
    a, b = codes(1 << 16), codes(1 << 16, seed=1)
    got = elementwise.add(a, 0.0313, 120, b, 0.0171, 60, 0.0507, 77)
    expected = ops.quantize(real(a, 0.0313, 120) + real(b, 0.0171, 60), 0.0507, 77)
    assert torch.equal(got, expected)


def test_add_and_mul_keep_channels_last() -> None:
    a = codes(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    for function in (elementwise.add, elementwise.mul):
        got = function(a, 0.1, 3, a, 0.1, 3, 0.2, 5)
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_mul_takes_a_float_gate_and_leaves_it_alone() -> None:
    a = codes(2, 8, 4, 4)
    gate = torch.rand(2, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    before = gate.clone()
    got = elementwise.mul(a, 0.031, 120, gate, 1.0, 0, 0.02, 90)
    expected = ops.quantize(real(a, 0.031, 120) * gate.double(), 0.02, 90)
    assert steps_apart(got, expected) <= 1
    assert torch.equal(gate, before)


@pytest.mark.parametrize("dim", [(2, 3), (-1,), (0, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_mean(dim: tuple[int, ...], keepdim: bool) -> None:
    q = codes(2, 17, 7, 7)
    got = elementwise.mean(q, 0.03, 17, dim, keepdim)
    expected = real(q, 0.03, 17).mean(dim, keepdim)
    assert torch.allclose(got.double(), expected, rtol=1e-6, atol=1e-6)
    assert got.shape == expected.shape


def test_functions_ignore_the_default_dtype() -> None:
    a, gate = codes(33), torch.rand(33, generator=torch.Generator().manual_seed(0))

    def results() -> list[Tensor]:
        return [
            elementwise.add(a, 0.1, 3, a, 0.1, 3, 0.2, 5),
            elementwise.mul(a, 0.1, 3, gate, 1.0, 0, 0.2, 5),
            elementwise.requantize(a, 0.1, 3, 0.2, 5),
            elementwise.mean(a, 0.1, 3, (0,)),
            elementwise.pack_lookup(F.gelu, 0.05, 120, 0.02, 14),
        ]

    expected = results()
    torch.set_default_dtype(torch.float64)
    try:
        got = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_functions_compile_to_the_same_codes() -> None:
    table = elementwise.pack_lookup(F.gelu, 0.05, 120, 0.02, 14)

    def function(q: Tensor) -> tuple[Tensor, ...]:
        return (
            elementwise.lookup(q, table),
            elementwise.add(q, 0.031, 120, q, 0.017, 60, 0.05, 77, relu=True),
            elementwise.requantize(q, 0.031, 120, 0.017, 33),
        )

    q = codes(2, 3, 4, 4)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for got, expected in zip(compiled(q), function(q), strict=True):
        assert steps_apart(got, expected) <= 1
