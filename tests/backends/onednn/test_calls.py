"""Kernel calls give the same codes eagerly and compiled, and compile without graph breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from qfx.backends.onednn import calls, kernels, packing

ZERO = torch.zeros(1, dtype=torch.int32)
SCALES = torch.full((8,), 2e-3)


def codes(*shape: int) -> Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def weight(*shape: int) -> Tensor:
    return (codes(*shape).int() - 128).to(torch.int8)


LINEAR = packing.pack_linear(weight(8, 8), (1, 8))
GEOMETRY = ([1, 1], [1, 1], [1, 1], 1)
CONV = packing.pack_conv(weight(8, 8, 3, 3), SCALES, 0.05, 6, *GEOMETRY, (1, 8, 5, 5))


GEOMETRY1D = ([1], [1], [1], 1)
CONV1D = packing.pack_conv(weight(8, 8, 3), SCALES, 0.05, 6, *GEOMETRY1D, (1, 8, 5))


def linear(x: Tensor) -> Tensor:
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO)
    return calls.linear(*head, None, 1.0, 0, torch.float32, "gelu", [], "none")


def linear_add(x: Tensor) -> Tensor:
    residual = x.flip(0)
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, residual, None)
    return calls.linear_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "")


def linear_add_float(x: Tensor) -> Tensor:
    residual = x.flip(0).float()
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, residual, None)
    return calls.linear_add(*head, 1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], "")


def conv2d_add(x: Tensor) -> Tensor:
    residual = kernels.clone_channels_last(x)
    head = (x, 0.05, 6, CONV, SCALES, ZERO, residual, None, *GEOMETRY)
    return calls.conv2d_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "", [])


def conv1d(x: Tensor, least: tuple[int, ...] = ()) -> Tensor:
    scale, zero_point = torch.tensor(0.05), torch.tensor(6)
    numbers = (scale, zero_point) if torch.compiler.is_compiling() else (0.05, 6)
    head = (x, *numbers, CONV1D, SCALES, ZERO, None, *GEOMETRY1D)
    return calls.conv1d(*head, 0.1, 3, torch.uint8, "relu", [], "", list(least))


def conv1d_with_room(x: Tensor) -> Tensor:
    return conv1d(x, (9,))


def pointwise(x: Tensor) -> Tensor:
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO)
    return calls.pointwise(*head, None, 0.1, 3, torch.uint8, "relu", [], "")


def pointwise_add(x: Tensor) -> Tensor:
    residual = kernels.clone_channels_last(x.flip(0))
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, residual, None)
    return calls.pointwise_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "")


CASES = [
    (linear, (3, 8)),
    (linear, (2, 3, 8)),
    (linear_add, (3, 8)),
    (linear_add_float, (3, 8)),
    (conv2d_add, (2, 8, 5, 5)),
    (conv1d, (2, 8, 5)),
    (conv1d, (0, 8, 5)),
    (conv1d_with_room, (2, 8, 5)),
    (pointwise, (2, 8, 5, 5)),
    (pointwise_add, (2, 8, 5, 5)),
]


def each_of_them(inputs: list[Tensor]) -> list[Tensor]:
    return [function(x) for (function, _), x in zip(CASES, inputs, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_compiled_equals_eager(grad: Callable[[], torch.no_grad]) -> None:
    torch._dynamo.reset()
    with grad():
        inputs = [codes(*shape) for _, shape in CASES]
        compiled = torch.compile(each_of_them, backend="aot_eager", fullgraph=True)
        results = compiled(inputs), each_of_them(inputs)
    for case, got, expected in zip(CASES, *results, strict=True):
        assert torch.equal(got, expected), case
        assert got.stride() == expected.stride(), case


def broadcast_linear(x: Tensor, residual: Tensor) -> Tensor:
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, residual, None)
    return calls.linear_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "")


def broadcast_linear_float(x: Tensor, residual: Tensor) -> Tensor:
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, residual.float(), None)
    return calls.linear_add(*head, 1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], "")


def broadcast_conv2d(x: Tensor, residual: Tensor) -> Tensor:
    head = (x, 0.05, 6, CONV, SCALES, ZERO, residual, None, *GEOMETRY)
    return calls.conv2d_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "", [])


SUMS: list[tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = [
    (broadcast_linear, (3, 8), (1, 8)),
    (broadcast_linear, (1, 8), (3, 8)),
    (broadcast_linear, (2, 3, 8), (2, 1, 8)),
    (broadcast_linear, (2, 1, 8), (1, 3, 8)),
    (broadcast_linear_float, (3, 8), (1, 8)),
    (broadcast_linear_float, (2, 3, 8), (2, 3, 8)),
    (broadcast_conv2d, (2, 8, 5, 5), (1, 8, 5, 5)),
    (broadcast_conv2d, (1, 8, 5, 5), (2, 8, 5, 5)),
    (broadcast_conv2d, (2, 8, 5, 5), (2, 8, 5, 5)),  # NCHW: the result is channels_last
]


def every_sum(operands: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [function(*pair) for (function, *_), pair in zip(SUMS, operands, strict=True)]


def operands_of_sums() -> list[tuple[Tensor, Tensor]]:
    return [(codes(*x), codes(*residual)) for _, x, residual in SUMS]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compilers_know_the_shape_of_a_sum_that_broadcasts(dynamic: bool) -> None:
    torch._dynamo.reset()
    seen: list[Tensor] = []

    def keep(graph_module: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            seen.extend(graph_module(*(mode.from_tensor(t) for t in examples)))
        return graph_module.forward

    compiled = torch.compile(every_sum, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    results = compiled(operands_of_sums()), every_sum(operands_of_sums())
    torch._dynamo.reset()
    torch.compile(every_sum, backend=keep, fullgraph=True)(operands_of_sums())
    for case, got, expected, fake in zip(SUMS, *results, seen, strict=True):
        assert torch.equal(got, expected), case
        assert got.stride() == expected.stride(), case
        assert (fake.shape, fake.stride(), fake.dtype) == (got.shape, got.stride(), got.dtype), case


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # Inductor's own
def test_linear_goes_through_inductor() -> None:
    torch._dynamo.reset()
    x = codes(3, 8)
    assert torch.equal(torch.compile(linear, fullgraph=True)(x), linear(x))


def test_a_compiled_sum_leaves_the_residual_alone() -> None:
    torch._dynamo.reset()

    def function(x: Tensor, residual: Tensor) -> Tensor:
        head = (x, 0.05, 6, CONV, SCALES, ZERO, residual, None, *GEOMETRY)
        return calls.conv2d_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "none", [], "", [])

    x, residual = codes(1, 8, 5, 5), kernels.channels_last(codes(1, 8, 5, 5))
    before = residual.clone()
    torch.compile(function, backend="aot_eager", fullgraph=True)(x, residual)
    assert torch.equal(residual, before)


def add_pixels(x: Tensor, residual: Tensor) -> Tensor:
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, kernels.clone_channels_last(residual), None)
    return calls.pointwise_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "")


def add_rows(x: Tensor, residual: Tensor) -> Tensor:
    head = (x, 0.05, 6, LINEAR, SCALES, ZERO, residual.clone(), None)
    return calls.linear_add(*head, 0.1, 3, torch.uint8, 0.05, 9, "sum", 1.0, "relu", [], "")


def add_images(x: Tensor, residual: Tensor, least: tuple[int, ...] = ()) -> Tensor:
    head = (x, 0.05, 6, CONV, SCALES, ZERO, kernels.clone_channels_last(residual), None, *GEOMETRY)
    tail = (0.05, 9, "sum", 1.0, "relu", [], "", list(least))
    return calls.conv2d_add(*head, 0.1, 3, torch.uint8, *tail)


def add_images_with_room(x: Tensor, residual: Tensor) -> Tensor:
    return add_images(x, residual, (7, 7))


@pytest.mark.parametrize(
    ("add", "shape", "smaller"),
    [
        (add_images, (2, 8, 5, 5), (2, 8, 1, 1)),
        (add_images, (2, 8, 5, 5), (1, 1, 5, 5)),
        (add_images_with_room, (2, 8, 5, 5), (2, 8, 1, 1)),
        (add_pixels, (2, 8, 5, 5), (2, 8, 1, 1)),
        (add_pixels, (2, 8, 5, 5), (2, 1, 5, 5)),
        (add_rows, (2, 3, 8), (2, 1, 8)),
        (add_rows, (2, 3, 8), (2, 3, 1)),
    ],
)
def test_a_residual_of_another_shape_is_spread_over_the_result(
    add: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], smaller: tuple[int, ...]
) -> None:
    # The kernels write to its memory as if it had the shape of the result.
    x, residual = codes(*shape), codes(*smaller)
    assert torch.equal(add(x, residual), add(x, residual.expand(shape).contiguous()))


@pytest.mark.parametrize(
    ("add", "shape"),
    [(add_images, (2, 8, 5, 5)), (add_pixels, (2, 8, 5, 5)), (add_rows, (2, 3, 8))],
)
def test_a_residual_that_does_not_fit_is_refused(
    add: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    channels = -1 if add is add_rows else 1
    with pytest.raises(RuntimeError, match="expanded size"):
        add(codes(*shape), codes(*shape).narrow(channels, 0, 3).contiguous())
