"""``nn.ConvTranspose2d(4, 24, 32, 32)`` on fbgemm was quantized, and 54 times slower than float."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

import qfx
from tests.cases.flow import randn, seeded, sqnr

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "by 32": (lambda: nn.ConvTranspose2d(4, 24, 32, 32), (1, 4, 4, 4)),
    "by 8, overlapping": (lambda: nn.ConvTranspose2d(4, 8, 16, 8, 4), (1, 4, 5, 5)),
    "by 2": (lambda: nn.ConvTranspose2d(8, 16, 4, 2, 1), (2, 8, 6, 6)),
    "two rows": (lambda: nn.ConvTranspose2d(8, 16, 2, 2), (2, 8, 6, 6)),
    "extra": (lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1), (2, 8, 6, 6)),
    "groups": (lambda: nn.ConvTranspose2d(8, 16, 4, 2, 1, groups=2), (2, 8, 6, 6)),
    "no stride": (lambda: nn.ConvTranspose2d(8, 6, 3, 1, 1), (2, 8, 6, 6)),
    "uneven": (lambda: nn.ConvTranspose2d(8, 6, (3, 4), (1, 3), (1, 0)), (2, 8, 6, 6)),
    "no bias": (lambda: nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), (2, 8, 6, 6)),
    "1d": (lambda: nn.ConvTranspose1d(8, 6, 16, 8, 4), (2, 8, 9)),
    "3d": (lambda: nn.ConvTranspose3d(8, 6, 4, 2, 1), (1, 8, 4, 4, 4)),
    "3d, one row": (lambda: nn.ConvTranspose3d(8, 6, 3, 2, 1), (1, 8, 1, 1, 4)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", LAYERS)
def test_phases_are_right(name: str, backend: str) -> None:
    make, shape = LAYERS[name]
    model, x = seeded(lambda: nn.Sequential(make(), nn.ReLU())), randn(*shape)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert qmodel.report.coverage == 1.0
    assert "weave" in qmodel.code
    assert "conv_transpose" not in qmodel.code
    assert sqnr(qmodel.reference(x), qmodel(x)) > 38
    assert sqnr(model(x), qmodel(x)) > 25


SLOW: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dilated": (lambda: nn.ConvTranspose2d(8, 8, 3, 2, dilation=2), "dilation (2, 2)"),
    "depthwise": (lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8), "one channel a group"),
}


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", SLOW)
def test_slow_geometries_are_float_with_a_reason(name: str, backend: str) -> None:
    make, text = SLOW[name]
    model, x = seeded(lambda: nn.Sequential(make(), nn.Conv2d(8, 4, 1))), randn(1, 8, 6, 6)
    qmodel = qfx.quantize(model, x, backend=backend)
    first, second = qmodel.report.sites
    assert (first.decision, first.reason) == ("float", "slow-kernel")
    assert text in first.message
    assert "faster in float than in integers" in first.message
    assert first.remedy == "leave it float"
    assert second.decision == "quantized"
    assert sqnr(model(x), qmodel(x)) > 25
