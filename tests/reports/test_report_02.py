"""Arithmetic that Python does on sizes was frozen at the size of the example, or not captured.

``int(x.shape[0] / 4)``, ``round(h / 2)``, ``divmod(h, 2)``, ``len(x)``, ``max(h, w)``: the graph
computes it. What Python itself decides by a size (``range``, ``if``) is a guard that says where.
"""

from __future__ import annotations

import builtins
import copy
import math
from collections.abc import Callable
from math import ceil, floor, sqrt
from math import prod as product

import pytest
import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

import qfx
from qfx import vocab
from tests.cases.flow import randn, seeded

Function = Callable[[Tensor], Tensor]

SYMBOLIC: dict[str, Function] = {
    "int of a quotient": lambda y: y * int(y.shape[0] / 4 + 1),
    "int of a power": lambda y: y[:, :, : int(y.shape[2] ** 0.5)],
    "int of a root": lambda y: y[:, :, : int(math.sqrt(y.shape[2]))],
    "int of a product": lambda y: F.interpolate(y, size=(int(y.shape[2] * 0.5), 4)),
    "int of a size": lambda y: y.reshape(int(y.shape[0]), -1),
    "int of a comparison": lambda y: y * int(y.shape[2] > y.shape[3]),
    "int of a function": lambda y: y * sum(map(int, [s / 2 for s in y.shape[2:]])),
    "float": lambda y: y / float(y.shape[2]),
    "float of an expression": lambda y: y * float(y.shape[2] // 3) ** -0.5,
    "round": lambda y: y[..., : round(y.shape[3] / 2)],
    "round to digits": lambda y: y * round(y.shape[3] / 3, 1),
    "divmod": lambda y: y * divmod(y.shape[2], 3)[0] + divmod(y.shape[2], 3)[1],
    "divmod of a number": lambda y: y * divmod(100, y.shape[2])[1],
    "len": lambda y: y.reshape(len(y), -1) * len(y.shape),
    "max": lambda y: F.pad(y, (0, max(y.shape[2], y.shape[3]) - y.shape[3])),
    "min": lambda y: y[:, :, : min(y.shape[2], 7)] * min(3, y.shape[0]),
    "max of a shape": lambda y: y * max(y.shape[2:]),
    "min of a list": lambda y: y * min([y.shape[2], y.shape[3], 11.5]),
    "max of a generator": lambda y: y * max(s + 1 for s in y.shape[2:]),
    "abs": lambda y: y * abs(y.shape[2] - y.shape[3]),
    "sum": lambda y: y / sum(y.shape),
    "ceil and floor": lambda y: y * math.ceil(y.shape[2] / 3) + math.floor(y.shape[3] / 5),
    "imported": lambda y: y * ceil(y.shape[2] / 3) + floor(y.shape[3] / 5) * sqrt(y.shape[0]),
    "prod": lambda y: y.reshape(y.shape[0], math.prod(y.shape[1:])) / product(y.shape[2:]),
    "trunc and log": lambda y: y * math.trunc(y.shape[2] / 3) * math.log(y.shape[2], 2),
    "gcd and hypot": lambda y: y * math.gcd(y.shape[2], 4) / math.hypot(y.shape[2], y.shape[3]),
    "operators": lambda y: y * (-y.shape[2] % 5 + (y.shape[3] << 1) - (y.shape[2] ^ 3)),
    "one after the other": lambda y: y[:, :, : int(int(y.shape[2] / 2) * 1.5)],
    "Size": lambda y: y.view(torch.Size((y.shape[0], -1))),
    "Size of a list": lambda y: y.reshape(torch.Size([y.shape[0] * 4, *y.shape[2:]])),
    "Size of a generator": lambda y: y.reshape((-1, *Size(s for s in y.shape[2:]))),
    "Size of a map": lambda y: torch.zeros(torch.Size(map(int, y.shape))) + y,
    "Size of a Size": lambda y: y * torch.Size(y.shape).numel() * len(Size(y.shape[1:])),
    "Sizes compared": lambda y: y * int(y.shape[2:] == torch.Size((y.shape[3], 8))),
    "a sum of Sizes": lambda y: y.new_ones(Size((y.shape[0],)) + y.shape[1:]) + y,
    "broadcast_shapes": lambda y: torch.zeros(torch.broadcast_shapes(y.shape, (1, 4, 1, 1))) + y,
    "tensor": lambda y: y + torch.arange(int(y.shape[3])).to(y.dtype) / float(y.shape[3]),
}
OTHERS = [(2, 3, 9, 8), (1, 3, 8, 8), (5, 3, 8, 16), (7, 3, 17, 12)]


class Sized(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def decided(graph_module: torch.fx.GraphModule) -> list[str]:
    """What the guards of a graph hold it to, ranks aside."""
    guards = [n for n in graph_module.graph.nodes if n.target is vocab.GUARD]
    return [str(n.kwargs["what"]) for n in guards if "dimensions" not in n.kwargs["what"]]


@pytest.mark.sweep(first=9)
@pytest.mark.parametrize("name", SYMBOLIC)
def test_stays_symbolic(name: str) -> None:
    model, x = seeded(lambda: Sized(SYMBOLIC[name])), randn(2, 3, 8, 8)
    captured, _ = qfx.run_passes(model, [], x)
    canonical, _ = qfx.run_passes(model, [qfx.get_pass("canonicalize")()], x)
    assert not decided(captured)
    for shape in OTHERS:
        other = randn(*shape)
        expected = model(other)
        assert torch.equal(captured(other), expected)
        torch.testing.assert_close(canonical(other), expected)


def test_numbers_are_canonical_and_survive_lowering() -> None:
    def scaled(y: Tensor) -> Tensor:
        return y * (max(int(y.shape[0] / 2), 1) + round(len(y) / 3))

    quantized = qfx.quantize(seeded(lambda: Sized(scaled)), randn(2, 3, 8, 8))
    for graph_module in (copy.deepcopy(quantized), quantized.reference):
        for shape in OTHERS:
            assert graph_module(randn(*shape)).shape == (shape[0], 4, *shape[2:])
        called = {n.target for n in graph_module.graph.nodes if n.op == "call_function"}
        assert {vocab.SCALARS[f] for f in (max, int, round)} <= called
        assert not called & {max, int, round, len}


@pytest.mark.slow
def test_compiles_for_every_size() -> None:
    def halved(y: Tensor) -> Tensor:
        return y[:, :, : max(int(y.shape[2] / 2), 1)] * round(y.shape[3] / 3)

    model = seeded(lambda: Sized(halved))
    graph_module, _ = qfx.run_passes(model, [], randn(2, 3, 8, 8))
    compiled = torch.compile(graph_module, backend="eager", dynamic=True, fullgraph=True)
    for size in (8, 12, 15):
        x = randn(2, 3, size, size)
        torch.testing.assert_close(compiled(x), model(x))


def looped(y: Tensor) -> Tensor:
    return y + sum(y[i].mean() for i in range(y.shape[0]))


def iterated(y: Tensor) -> Tensor:
    return y + sum(image.mean() for image in y)


def branched(y: Tensor) -> Tensor:
    return y * 2 if int(y.shape[0] / 2) > 1 else y


def chosen(y: Tensor) -> Tensor:
    return y[..., : y.shape[2] if y.shape[2] < y.shape[3] else y.shape[3]]


@pytest.mark.parametrize("function", [looped, iterated, branched, chosen])
def test_what_python_decides_is_a_guard_that_names_the_line(function: Function) -> None:
    model, x = seeded(lambda: Sized(function)), randn(2, 3, 8, 8)
    quantized = qfx.quantize(model, x, backend="reference")
    assert quantized(randn(2, 3, 8, 8)).shape == model(x).shape
    line = function.__code__.co_firstlineno + 1
    with pytest.raises(
        qfx.ConfigError, match=rf"test_report_02.py:{line} = .*capture the model anew"
    ):
        quantized(randn(4, 3, 8, 12))


def test_numbers_of_data_stay_in_the_graph() -> None:
    def longest(y: Tensor) -> Tensor:
        lengths = (y > 0).sum((1, 2, 3)) // 64 + 1
        return y[..., : int(lengths.max())] * len(y.mean(1).nonzero())

    model = seeded(lambda: Sized(longest))
    graph_module, _ = qfx.run_passes(model, [], randn(2, 3, 8, 8))
    for bias in (-1.0, 0.0, 1.0):
        x = randn(3, 3, 8, 8) + bias
        assert torch.equal(graph_module(x), model(x))


# -- what stands in for built-ins ------------------------------------------------------------------
def test_stand_ins_are_built_ins_to_everything_else() -> None:
    class Checked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            half = int(x.shape[0] / 2)
            assert isinstance(half, int)
            assert type(half) is int
            assert int is int
            assert float in (int, float)
            assert isinstance(True, (int, str))
            assert issubclass(bool, int)
            assert {int: 1, float: 2}[int] == 1
            assert int("ff", 16) == 255
            assert f"{int} {float!r}" == "<class 'int'> <class 'float'>"
            assert max([3, 4], key=lambda v: -v) == 3
            assert max((), default=7) == 7
            assert len("abc") == min(v for v in (5, 3, 4))
            assert isinstance(x.shape, torch.Size)
            assert type(torch.Size((2, 3))) is torch.Size
            assert torch.Size() == torch.Size([]) == Size(())
            return x * half + torch.ones(3, dtype=int) + torch.zeros(half, 1, dtype=float)

    graph_module, _ = qfx.run_passes(Checked(), [], randn(2, 3))
    x = randn(8, 3)[:2]
    assert torch.equal(graph_module(x), Checked()(x))
    names = ("isinstance", "len", "max", "min", "type", "int", "float")
    assert not any(name in globals() for name in names)
    assert (ceil, sqrt, product) == (math.ceil, math.sqrt, math.prod)
    assert type(x.shape) is Size is torch.Size
    assert torch.is_tensor is builtins.__dict__.get("is_tensor", torch.is_tensor)


def test_stand_ins_go_when_capture_fails() -> None:
    def fails(y: Tensor) -> Tensor:
        if int(y.sum()) > 3:
            raise KeyError(type(y))
        return y + object()

    asked = torch.is_grad_enabled, torch.is_tensor
    with pytest.raises(qfx.CaptureError):
        qfx.run_passes(seeded(lambda: Sized(fails)), [], randn(2, 3, 8, 8))
    assert not any(name in globals() for name in ("isinstance", "int", "type"))
    assert (torch.is_grad_enabled, torch.is_tensor) == asked


def test_a_module_that_captures_only_without_stand_ins_is_captured() -> None:
    """``Tensor.type`` takes classes of numbers for dtypes, and these only."""

    def typed(y: Tensor) -> Tensor:
        ones = torch.ones(4, dtype=torch.uint8).to(int)
        return y * int(y.shape[0] / 2) + ones.sum()

    model = seeded(lambda: Sized(typed))
    graph_module, _ = qfx.run_passes(model, [], randn(2, 3, 8, 8))
    assert torch.equal(graph_module(randn(3, 3, 8, 8)), model(randn(3, 3, 8, 8)))
