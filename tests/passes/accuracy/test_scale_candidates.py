"""Scales that smoothing tries: which channels each base leaves alone, and how far a cut goes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.quant.observers import MinMaxObserver
from qfx_passes.accuracy import channel_scales
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.scale_candidates import WeightColumns, candidates
from tests.cases.flow import randn

PEAK = torch.tensor([1.0, 2.0, 2.0, 4.0, 64.0])


def found(columns: Tensor | None = None, rms: Tensor | None = None) -> dict[str, Tensor]:
    flat = torch.ones_like(PEAK)
    norm = flat if columns is None else columns
    made = candidates(PEAK, flat if rms is None else rms, WeightColumns(norm, norm))
    return {each.told: each.scale for each in made}


def test_the_first_is_none_and_all_have_a_mean_of_one() -> None:
    scales = found()
    assert next(iter(scales)) == "none"
    for scale in scales.values():
        torch.testing.assert_close(scale.log().mean().exp(), torch.tensor(1.0))


def test_even_leaves_alone_what_does_not_stand_out() -> None:
    scale = found()["even, cut=0.4"]
    torch.testing.assert_close(scale[:4], scale[:1].expand(4))
    torch.testing.assert_close(scale[4] / scale[0], torch.tensor(4.0))  # 64 / (64 * 32^-0.4)


def test_balanced_starts_from_what_errs_least() -> None:
    rms, columns = torch.tensor([1.0, 4.0, 1.0, 1.0, 16.0]), torch.tensor([1.0, 1.0, 4.0, 1.0, 1.0])
    scale = found(columns, rms)["balanced, cut=0.4"]
    torch.testing.assert_close(scale[1] / scale[0], torch.tensor(2.0))
    torch.testing.assert_close(scale[2] / scale[0], torch.tensor(0.5))


@pytest.mark.parametrize("number", [0.0, torch.inf], ids=["dead", "endless"])
def test_scales_are_finite(number: float) -> None:
    peak = PEAK.clone()
    peak[0] = number
    for _, scale in candidates(peak, torch.zeros(5), WeightColumns(torch.zeros(5), torch.zeros(5))):
        assert bool((scale.isfinite() & (scale > 0)).all())


class Widened(nn.Module):
    """A GELU with a few large channels, and a layer that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        with torch.no_grad():
            self.up.weight[::8] *= 30.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


def test_ranges_leave_room_the_more_the_fewer_values_were_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms = {}
    applied = channel_scales.apply

    def noting(site: ScalableActivation, number: int, rw: qfx.Rewriter) -> None:
        observer = site.ranges[number]
        assert type(observer) is MinMaxObserver
        top = site.recorder.peak / site.candidates[number].scale
        rooms[int(site.recorder.count)] = float(observer.max_val / top.amax())
        applied(site, number, rw)

    monkeypatch.setattr(channel_scales, "apply", noting)
    torch.manual_seed(0)
    model = Widened().eval()
    for batches in (4, 8):
        data = [randn(4, 5, 16, seed=i) for i in range(batches)]
        qfx.quantize(model, data[0], calibration_data=data, backend="reference")
    assert rooms == {80: pytest.approx(1 + 32 / 80), 160: pytest.approx(1 + 32 / 160)}
