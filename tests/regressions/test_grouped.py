"""Grouped convolutions that oneDNN's AMX kernel gets wrong: refused, or run by another engine."""

from __future__ import annotations

import pytest
from torch import nn

import qfx
from qfx.backends.x86_grouped import is_suspect
from tests.cases.flow import randn, seeded, sqnr

CASES = {
    "2 groups": (lambda: nn.Conv2d(2, 96, 3, padding=1, groups=2), (1, 2, 8, 8)),
    "larger than the example": (lambda: nn.Conv2d(4, 48, 3, padding=1, groups=2), (1, 4, 5, 5)),
    "16 channels, 5x5": (lambda: nn.Conv2d(32, 128, 5, padding=2, groups=2), (1, 32, 8, 8)),
    "transposed": (
        lambda: nn.ConvTranspose2d(2, 32, 4, (1, 3), 2, groups=2), (1, 2, 8, 8),
    ),
    "one channel a group": (lambda: nn.Conv2d(2, 80, 3, groups=2), (1, 2, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", CASES)
def test_groups_are_right_or_float(name: str, backend: str) -> None:
    make, shape = CASES[name]
    channels = shape[1]
    model = seeded(lambda: nn.Sequential(make(), nn.ReLU(), nn.LazyConv2d(4, 1)))
    model(randn(*shape))
    example, large = randn(*shape), randn(1, channels, 28, 28)
    qmodel = qfx.quantize(model.eval(), example, backend=backend, calibration_data=[example, large])
    for x in (example, large):
        assert sqnr(qmodel.reference(x), qmodel(x)) > 30
    site = qmodel.report.sites[0]
    assert site.decision == "quantized" or "groups" in site.message


def test_usual_groups_are_not_suspect() -> None:
    assert is_suspect((96, 1, 3, 3), 2)
    assert not is_suspect((96, 2, 3, 3), 1)
    assert not is_suspect((64, 4, 3, 3), 32)
    assert not is_suspect((96, 48, 1, 1), 2)
