"""Grouped convolutions whose kernel is wrong on AMX (RegNets) stayed float: 73 to 82 % of MACs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr
from tests.support.wrong_kernels import planted

pytestmark = pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86 here")


def on_amx(channels: int, outputs: int, groups: int) -> bool:
    """What the kernels of AMX get wrong."""
    return groups > 1 and channels // groups < 64 and outputs // groups > 16


class Block(nn.Module):
    """As RegNets have it: three groups of 24."""

    def __init__(self, groups: int = 3, outer: bool = True) -> None:
        super().__init__()
        width = 24 * groups
        self.before = nn.Conv2d(width, width, 1)
        self.grouped = nn.Conv2d(width, width, 3, stride=1, padding=1, groups=groups)
        self.after = nn.Conv2d(width, width, 1)
        self.outer = outer

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(self.before(x).relu()).relu()
        return torch.relu(x + self.after(y)) if self.outer else y


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("groups", [3, 7])
def test_groups_run_in_pieces(groups: int, method: str) -> None:
    model, x = seeded(lambda: Block(groups)), randn(1, 24 * groups, 14, 14)
    with planted(on_amx):
        qmodel = qfx.quantize(model, x, backend="x86", method=method)
        assert qmodel.report.coverage == 1.0
        assert "weave_groups" in qmodel.code
        for inputs in (x, randn(2, 24 * groups, 9, 11)):
            assert sqnr(qmodel.reference(inputs), qmodel(inputs)) > 30


def test_right_kernels_run_whole() -> None:
    with planted(lambda *_: False):
        qmodel = qfx.quantize(seeded(Block), randn(1, 72, 14, 14), backend="x86")
    assert "weave_groups" not in qmodel.code


CHAIN: dict[str, tuple[Callable[[int, int, int], bool], str]] = {
    "in pieces": (lambda channels, outputs, groups: outputs == 96, "weave_groups"),
    "two groups as one": (
        lambda channels, outputs, groups: groups == 4, "qconv2d_pointwise"
    ),
    "four groups as one": (
        lambda channels, outputs, groups: groups > 1, "qconv2d_pointwise"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAIN)
def test_the_first_form_that_is_right_runs(name: str) -> None:
    wrong, kernel = CHAIN[name]
    model = seeded(lambda: nn.Conv2d(32, 96, 3, padding=1, groups=4))
    x = randn(1, 32, 14, 14)
    with planted(wrong):
        qmodel = qfx.quantize(model, x, backend="x86")
        assert qmodel.report.coverage == 1.0
        assert kernel in qmodel.code
        assert sqnr(qmodel.reference(x), qmodel(x)) > 60


def test_a_residual_takes_groups_as_one() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(8, 48, 1)
            self.second = nn.Conv2d(48, 48, 3, padding=1, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return torch.relu(y + self.second(y))

    x = randn(1, 8, 14, 14)
    with planted(on_amx):
        qmodel = qfx.quantize(seeded(Net), x, backend="x86")
        assert qmodel.report.coverage == 1.0
        assert sqnr(qmodel.reference(x), qmodel(x)) > 30


def test_more_channels_where_there_are_no_groups() -> None:
    model, x = seeded(lambda: nn.Conv1d(16, 16, 8)), randn(1, 16, 40)
    with planted(lambda channels, outputs, groups: channels == 16):
        qmodel = qfx.quantize(model, x, backend="x86")
        assert qmodel.report.coverage == 1.0
        assert sqnr(qmodel.reference(x), qmodel(x)) > 60


def test_transposed_groups_are_joined() -> None:
    model = seeded(lambda: nn.ConvTranspose2d(8, 64, 4, 2, 1, groups=2))
    x = randn(1, 8, 9, 9)
    with planted(lambda channels, outputs, groups: groups == 2):
        qmodel = qfx.quantize(model, x, backend="x86")
        assert qmodel.report.coverage == 1.0
        assert sqnr(qmodel.reference(x), qmodel(x)) > 60


def test_groups_that_no_form_gets_right_are_float_with_a_reason() -> None:
    x = randn(1, 72, 14, 14)
    with planted(lambda channels, outputs, groups: channels == 72):
        model = seeded(lambda: nn.Sequential(nn.Conv2d(72, 72, 3, groups=3), nn.Conv2d(72, 4, 1)))
        qmodel = qfx.quantize(model, x, backend="x86")
        first, second = qmodel.report.sites
        assert (first.decision, first.reason) == ("float", "unsupported")
        assert "groups=3" in first.message
        assert second.decision == "quantized"
        assert sqnr(model(x), qmodel(x)) > 30
