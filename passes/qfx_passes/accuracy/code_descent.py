"""Codes and scales of a weight that are better still than those of one turn: one at a time.

The error of the output of a layer, W' the weight to come near to and q s its codes times scales, is

    tr (q s - W') H (q s - W')^T

so that, all else as it is, the best code of one input is ``round(q - R_i / (s H_ii))``, with
``R = (q s - W') H``, and the best factor for the scale of a group of codes, with ``p`` their values
and zeros elsewhere, is ``1 - (R . p) / (p H p)``. Sweeps over all inputs and all groups can only
let the error fall (Behdin et al. 2023, arXiv:2309.01885; of scales, Zhang et al. 2018,
arXiv:1807.10029, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 128
_FACTORS = (0.5, 2.0)  # of a scale, in one sweep


@dataclass
class ScaledCodes:
    """Codes with their scales.

    Attributes:
        codes: (G, O, K).
        scales: (G, O, S), each of K / S codes that follow one another.
    """

    codes: Tensor
    scales: Tensor

    def spread(self) -> Tensor:
        """(G, O, K) the scale of each code."""
        return self.scales.repeat_interleave(self.codes.shape[2] // self.scales.shape[2], 2)

    def values(self) -> Tensor:
        """(G, O, K) what the codes stand for."""
        return self.codes * self.spread()


def descend(
    start: ScaledCodes,
    target: Tensor,
    moments: Tensor,
    low: int,
    high: int,
    *,
    sweeps: int,
    moves_scales: bool = True,
) -> ScaledCodes:
    """Let the error fall, sweep by sweep.

    Args:
        start: what there is.
        target: (G, O, K) W'.
        moments: (G, K, K) H, damped.
        low: smallest code.
        high: largest code.
        sweeps: over all codes.
        moves_scales: whether scales may be others.
    """
    made = ScaledCodes(start.codes.clone(), start.scales.clone())
    for _ in range(sweeps):
        if moves_scales:
            _sweep_scales(made, target, moments)
        before = made.codes.clone()
        _sweep_codes(made, target, moments, low, high)
        if torch.equal(before, made.codes):
            break
    return made


def _sweep_scales(made: ScaledCodes, target: Tensor, moments: Tensor) -> None:
    """Give each scale the value that is best while all else stays."""
    size = made.codes.shape[2] // made.scales.shape[2]
    values = made.values()
    left = (values - target) @ moments
    for number in range(made.scales.shape[2]):
        part = slice(number * size, (number + 1) * size)
        held = values[..., part]
        power = (held @ moments[:, part, part] * held).sum(2)
        slope = (left[..., part] * held).sum(2)
        factor = torch.where(power > 0, 1 - slope / power, 1.0).clamp(*_FACTORS)
        made.scales[..., number] *= factor
        left += (held * (factor - 1).unsqueeze(2)) @ moments[:, part]


def _sweep_codes(made: ScaledCodes, target: Tensor, moments: Tensor, low: int, high: int) -> None:
    """Give each code the value that is best while all else stays."""
    codes, scales = made.codes, made.spread()
    left = (made.values() - target) @ moments
    diagonal = moments.diagonal(dim1=1, dim2=2).unsqueeze(1)
    steps = scales * diagonal
    for begin in range(0, codes.shape[2], _BLOCK):
        end = min(begin + _BLOCK, codes.shape[2])
        block = left[..., begin:end].clone()
        moved = torch.zeros_like(block)
        for i in range(begin, end):
            code = (codes[..., i] - block[..., i - begin] / steps[..., i]).round().clamp(low, high)
            by = (code - codes[..., i]) * scales[..., i]
            codes[..., i] = code
            moved[..., i - begin] = by
            block += by.unsqueeze(2) * moments[:, None, i, begin:end]
        left += moved @ moments[:, begin:end]
