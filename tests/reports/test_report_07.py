"""Pads and interpolation that fbgemm and qnnpack can't do were quantized, and raised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr


class Between(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Tensor], dims: int) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first, self.fn, self.last = kind(4, 4, 1), fn, kind(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fn(self.first(x)))


IMAGE, VOLUME = (1, 4, 6, 6), (1, 4, 4, 5, 6)
FLOAT: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], str]] = {
    "reflect 3d": (lambda x: F.pad(x, (1, 1, 1, 1, 1, 1), "reflect"), VOLUME, "one or two dims"),
    "antialias": (
        lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True), IMAGE,
        "antialias=True",
    ),
    "crop and pad": (lambda x: F.pad(x, (1, -1)), VOLUME, "crops or pads, not both"),
    "pool, no batch": (lambda x: F.max_pool3d(x[0], 2)[None], VOLUME, "need a batch dimension"),
    "mean pool, no batch": (
        lambda x: F.avg_pool3d(x[0], 2)[None], VOLUME, "need a batch dimension"
    ),
    "shuffle": (lambda x: F.channel_shuffle(x, 2), VOLUME, "takes 4 dims"),
}  # fmt: skip
INTEGER: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "reflect 2d": (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), IMAGE),
    "no antialias": (lambda x: F.interpolate(x, size=(4, 4), mode="bilinear"), IMAGE),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1, 1, 0)), VOLUME),
    "crop": (lambda x: F.pad(x, (-1, -1, 0, -1)), VOLUME),
    "crop and pad an image": (lambda x: F.pad(x, (1, -1, -1, 2)), IMAGE),
    "pool": (lambda x: F.max_pool3d(x, 2), VOLUME),
    "shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGE),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", FLOAT)
def test_what_no_kernel_takes_is_float_with_a_reason(name: str, backend: str) -> None:
    fn, shape, text = FLOAT[name]
    model, x = seeded(lambda: Between(fn, len(shape) - 2)), randn(*shape)
    qmodel = qfx.quantize(model, x, backend=backend)
    refused = [s for s in qmodel.report.sites if s.decision == "float" and text in s.message]
    assert [(s.reason, s.remedy) for s in refused] == [("unsupported", "leave it float")]
    with torch.no_grad():
        assert sqnr(model(x), qmodel(x)) > 25


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", INTEGER)
def test_what_kernels_take_is_quantized(name: str, backend: str) -> None:
    fn, shape = INTEGER[name]
    model, x = seeded(lambda: Between(fn, len(shape) - 2)), randn(*shape)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert all(site.decision == "quantized" for site in qmodel.report.sites), qmodel.report
    with torch.no_grad():
        assert sqnr(model(x), qmodel(x)) > 25
