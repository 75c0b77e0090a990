"""The clip range of least squared quantization error of each channel, or group, of a weight.

Every candidate range is quantized with its real scale and zero point, and the one of least error
is kept (after Choukroun et al. 2019, arXiv:1902.06822; Nagel et al. 2021, arXiv:2106.08295, section
3.1). Candidates are shares of the range seen: coarse ones first, then finer ones around each
channel's best, and for affine codes around its best low end and high end apart. The range seen is
the first of them, so the result is never worse than min/max. It pays most where codes are few.

The work is done in blocks of channels that stay in the cache: 17 candidates (33 for affine codes),
each six passes over the weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.quant.observers.per_channel import PerChannelMinMaxObserver
from qfx.quant.observers.registry import register_observer
from qfx.quant.qparams import scale_and_zero_point
from qfx.semantics import affine as ops

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec

_COARSE = torch.linspace(1.0, 0.2, 9, dtype=torch.float32)
_FINE = 1 + torch.tensor([-0.04, -0.03, -0.02, -0.01, 0.01, 0.02, 0.03, 0.04])
_BLOCK = 2**16  # values searched at a time


@register_observer("per_channel_mse")
class PerChannelMSEObserver(PerChannelMinMaxObserver):
    """The clip range of least squared quantization error, per channel or group.

    Made for constant weights, which are seen once: then the range is the best one. Of several
    tensors it is the mean of their best ranges, and merging two observers gives the mean over
    the tensors of both.
    """

    per_tensor = "mse"

    def record(self, x: Tensor) -> None:
        values = self.values(x)
        low, high = self.extremes(values)
        rows = values.reshape(-1, values.shape[-1])
        best = best_ranges(rows, low.flatten(), high.flatten(), self.spec)
        ends = best[0].view_as(low), best[1].view_as(high)
        self._average(*ends, 1 / (int(self.batches) + 1))

    def absorb(self, other: PerChannelMinMaxObserver) -> None:
        mine, theirs = int(self.batches), int(other.batches)
        device = self.min_val.device
        ends = other.min_val.to(device), other.max_val.to(device)
        self._average(*ends, theirs / (mine + theirs))

    def _average(self, low: Tensor, high: Tensor, share: float) -> None:
        before = self.ends_before(low)
        if share < 1:
            low, high = before[0].lerp(low, share), before[1].lerp(high, share)
        self.hold(low, high)


def best_ranges(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The range of each row that errs least when the row is quantized.

    Args:
        rows: (R, N) float32 values.
        low: (R,) smallest value of each row.
        high: (R,) largest value of each row.
        spec: the codes: bounds, symmetry, powers of two.

    Returns:
        (R,) low and high ends, on the device of ``rows``.
    """
    height = max(_BLOCK // rows.shape[1], 1)
    blocks = (torch.split(part, height) for part in (rows, low, high))
    found = [_Search(r, a, b, spec).run() for r, a, b in zip(*blocks, strict=True)]
    return torch.cat([low for low, _ in found]), torch.cat([high for _, high in found])


class _Search:
    """The best ranges so far of some rows, and their errors."""

    def __init__(self, rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> None:
        self.rows = rows
        # Ranges shrink towards what they must hold.
        if spec.offset:
            self.centre = (low + high) / 2
            self.low, self.high = low, high
        else:
            self.centre = torch.zeros_like(low)
            self.low, self.high = low.clamp(max=0.0), high.clamp(min=0.0)
        self.spec = spec
        self.error = torch.full_like(low, torch.inf)

    def run(self) -> tuple[Tensor, Tensor]:
        self._try(_COARSE, _COARSE)
        self._try(_FINE, _FINE)
        if not self.spec.symmetric:
            self._try(_FINE, torch.ones_like(_FINE))
            self._try(torch.ones_like(_FINE), _FINE)
        return self.low, self.high

    def _try(self, lows: Tensor, highs: Tensor) -> None:
        """Try K shares of the best ranges."""
        low, high = self._shares(lows, self.low), self._shares(highs, self.high)
        scale, zero_point = scale_and_zero_point(low, high, self.spec)
        for candidate in zip(low, high, scale, zero_point, strict=True):
            self._keep_better(*candidate)

    def _shares(self, shares: Tensor, ends: Tensor) -> Tensor:
        """(K, R) ends that are K shares as far from the centre as the (R,) ``ends``."""
        return self.centre + shares.to(ends.device).unsqueeze(1) * (ends - self.centre)

    def _keep_better(self, low: Tensor, high: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        quant_min, quant_max = self.spec.bounds
        restored = ops.fake_quantize(
            self.rows, scale, zero_point, quant_min=quant_min, quant_max=quant_max, axis=0
        )
        error = restored.sub_(self.rows).square_().sum(1)
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)
