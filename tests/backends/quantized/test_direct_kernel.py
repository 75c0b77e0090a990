"""Transposed convolutions that fbgemm's direct kernel gets wrong: no kernel of its own is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import qfx
from qfx.backends.onednn import transposed_convs as x86_transpose
from tests.cases.flow import quantized, randn, seeded, sqnr, targets

GEOMETRIES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "U-Net": ((8, 8, 2), {"stride": 2}),
    "16 to 8": ((16, 8, 2), {"stride": 2}),
    "stride 1": ((8, 16, 2), {}),
    "mixed strides": ((8, 8, 2), {"stride": (2, 1)}),
    "stride 3": ((8, 8, 2), {"stride": 3}),
    "2x4": ((16, 24, (2, 4)), {"stride": 2}),
    "2x1": ((8, 8, (2, 1)), {}),
    "output padding": ((8, 8, 2), {"stride": 2, "output_padding": 1}),
    "no bias": ((8, 8, 2), {"stride": 2, "bias": False}),
}
OTHERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "3x3": ((8, 8, 3), {"stride": 2}),
    "4 channels": ((4, 8, 2), {"stride": 2}),
    "padding": ((8, 8, 2), {"stride": 2, "padding": 1}),
    "groups": ((16, 16, 2), {"stride": 2, "groups": 2}),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_right_on_every_backend(name: str, relu: bool, backend: str) -> None:
    sizes, geometry = GEOMETRIES[name]
    up = seeded(lambda: nn.ConvTranspose2d(*sizes, **geometry))
    model = nn.Sequential(up, nn.ReLU()) if relu else up
    x = randn(2, sizes[0], 5, 6)
    qmodel = quantized(model.eval(), x, backend)
    small = x[:1, :, :1, :2]
    assert sqnr(model(small), qmodel(small)) > 25
    assert x86_transpose.weave in targets(qmodel)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_woven_too(name: str) -> None:
    sizes, geometry = OTHERS[name]
    model = seeded(lambda: nn.ConvTranspose2d(*sizes, **geometry))
    qmodel = quantized(model, randn(2, sizes[0], 5, 6), "fbgemm")
    assert x86_transpose.weave in targets(qmodel)


def test_one_weight_for_two_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.up(torch.relu(self.up(x))))

    model, x = seeded(Twice), randn(1, 8, 4, 4)
    qmodel = qfx.quantize(model, x, backend="fbgemm")
    assert sqnr(model(x), qmodel(x)) > 25
    assert sum("packed" in str(n.target) for n in qmodel.graph.nodes) == 2
    assert len({n.target for n in qmodel.graph.nodes if "packed" in str(n.target)}) == 1
