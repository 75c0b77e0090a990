"""Convolutions on inputs that their kernel overhangs, where oneDNN's kernels give garbage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.backends.onednn.overhang import lacks_room, least_sizes, outer_padding
from tests.cases.flow import Branches, randn, run, seeded, sqnr, steps, targets

BACKENDS = ("x86", "fbgemm", "qnnpack")


def conv2d(*args: Any, **geometry: Any) -> nn.Module:
    return seeded(lambda: nn.Conv2d(*args, **geometry))


def conv3d(*args: Any, **geometry: Any) -> nn.Module:
    return seeded(lambda: nn.Conv3d(*args, **geometry))


def up3d(*args: Any, **geometry: Any) -> nn.Module:
    return seeded(lambda: nn.ConvTranspose3d(*args, **geometry))


CASES = {
    "one column": (conv2d(8, 8, 3, stride=(1, 2)), (1, 8, 8, 9), (1, 8, 8, 4)),
    "one column, stride 2": (conv2d(34, 16, (4, 3), stride=2), (1, 34, 16, 16), (2, 34, 12, 3)),
    "two columns": (conv2d(8, 8, 3, stride=(1, 2)), (1, 8, 8, 9), (1, 8, 8, 5)),
    "one row": (conv3d(6, 2, (2, 3, 3), (1, 3, 1), (1, 0, 0)), (2, 6, 4, 9, 5), (2, 6, 1, 3, 5)),
    "one column in 3d": (conv3d(8, 8, 2, stride=(1, 1, 2)), (1, 8, 4, 6, 6), (1, 8, 4, 6, 3)),
    "depth 1": (conv3d(16, 16, 3, padding=1), (1, 16, 4, 6, 6), (1, 16, 1, 6, 6)),
    "depth 2": (conv3d(16, 16, 3, padding=1), (1, 16, 4, 6, 6), (1, 16, 2, 6, 6)),
    "taps miss": (conv3d(8, 8, (3, 2, 2), 1, 1, (1, 1, 2)), (2, 8, 3, 4, 5), (2, 8, 3, 4, 1)),
    "wide padding": (
        conv2d(16, 16, (1, 2), padding=(1, 0), groups=16),
        (2, 16, 2, 5),
        (1, 16, 3, 4),
    ),
    "upsampling": (up3d(5, 10, (5, 2, 4), stride=(2, 3, 1)), (1, 5, 1, 4, 4), (2, 5, 1, 4, 4)),
    "groups": (
        up3d(4, 4, (4, 1, 4), (3, 1, 3), (0, 0, 2), groups=4),
        (2, 4, 1, 7, 7),
        (1, 4, 2, 7, 7),
    ),
}


@pytest.mark.parametrize(  # for the others there are no dynamic kernels: see quantized_dynamic
    ("backend", "method"), [*((backend, "static") for backend in BACKENDS), ("x86", "dynamic")]
)
def test_small_inputs(backend: str, method: str) -> None:
    transposed = (backend, method) == ("x86", "static")  # nor others of those
    cases = [c for c in CASES.items() if transposed or "Transpose" not in str(c[1][0])]
    model = Branches(layer for _, (layer, *_) in cases)
    example, small = ([randn(*shapes[i]) for _, (_, *shapes) in cases] for i in range(2))
    qmodel = qfx.quantize(
        model,
        (example,),
        backend=backend,
        method=method,
        calibration_data=[(example,), (small,)] if method == "static" else None,
    )
    decisions = [s.decision for s in qmodel.report.sites if s.macs]
    assert decisions == ["quantized"] * len(cases)
    for inputs in (example, small):
        results = [run(each, (inputs,)) for each in (model, qmodel, qmodel.reference)]
        sizes = steps(qmodel) if method == "static" else [torch.inf] * len(cases)
        for (name, _), size, expected, ours, meant in zip(cases, sizes, *results, strict=True):
            assert sqnr(expected, ours) > 15, name  # biases alone, where the taps miss
            assert (ours - meant).abs().max() <= 1.01 * size + 1e-6, name


class Residual(nn.Module):
    def __init__(self, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, stride=stride)
        self.second = nn.Conv2d(8, 8, 3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x) + self.second(x))


@pytest.mark.parametrize("width", [3, 4, 5, 9])
def test_residuals_of_small_results(width: int) -> None:
    model, example, x = seeded(Residual, (1, 2)), randn(1, 8, 8, 9), randn(2, 8, 8, width, seed=1)
    qmodel = qfx.quantize(model, example, backend="x86", calibration_data=[example, x])
    assert sqnr(model(x), qmodel(x)) > 30


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_compiled(method: str) -> None:
    torch._dynamo.reset()
    names = ("one column", "wide padding", "depth 1")
    models, *shapes = zip(*(CASES[name] for name in names), strict=True)
    example, small = ([randn(*shape) for shape in each] for each in shapes)
    qmodel = qfx.quantize(Branches(models), (example,), backend="x86", method=method)
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for inputs in (example, small):
            for name, expected, y in zip(names, qmodel(inputs), compiled(inputs), strict=True):
                assert sqnr(expected, y) > 60, name


def test_usual_convolutions_call_the_kernel_itself() -> None:
    model = conv2d(8, 8, 3, padding=1)
    qmodel = qfx.quantize(model, randn(1, 8, 8, 8), backend="x86")
    assert torch.ops.onednn.qconv2d_pointwise.default in targets(qmodel)


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (((3, 3), (1, 1), (1, 1), (1, 1)), []),
        (((3, 3), (1, 2), (0, 0), (1, 1)), [0, 5]),
        (((3, 3), (1, 2), (1, 1), (1, 1)), [0, 3]),
        (((3, 3), (1, 1), (1, 1), (1, 2)), [0, 5]),
        (((3, 3), (1, 1), (0, 0), (1, 2)), []),
        (((3, 3, 1), (1, 1, 1), (1, 1, 0), (1, 1, 1)), [3, 3, 0]),
        (((3, 3, 3), (1, 1, 1), (0, 0, 0), (1, 1, 1)), []),
        (((3,), (2,), (1,), (1,)), [3]),
    ],
)
def test_least_sizes(geometry: tuple[tuple[int, ...], ...], expected: list[int]) -> None:
    assert least_sizes(*geometry) == expected


def test_lacks_room() -> None:
    x = randn(1, 8, 8, 4)
    assert lacks_room(x, [0, 5])
    assert not lacks_room(x, [0, 4])
    assert not lacks_room(x, [])


def test_outer_padding() -> None:
    assert outer_padding((1, 3), (1, 1), (1, 1)) == ([0, 1], [0, 0, 1, 1])
    assert outer_padding((2, 3), (1, 2), (1, 1)) == ([1, 2], [])
