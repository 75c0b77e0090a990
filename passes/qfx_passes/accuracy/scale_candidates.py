"""Which scales are tried for the channels of an activation.

Rounding x / s to steps that are the same for all channels, and W diag(s) to steps that are the same
for each of its rows, makes an output err by

    R^2 sum_c s_c^2 |W_c|^2  +  r^2 sum_c E[x_c^2] / s_c^2         R = max_c peak(x_c) / s_c

times constants, r^2 the sum of squares of the largest weights of the rows. For R and r that stay, a
channel does best by ``s_c = k sqrt(rms(x_c) / |W_c|)``, and no s_c may be less than peak(x_c) / R.
So from a base each channel is raised as far as R asks for:

    s_c = max(base_c, peak(x_c) / R)

with the base above ("balanced"), and with a base of 1 ("even"), which leaves alone all channels but
those with outliers (Wei et al. 2023, arXiv:2304.09145, section 4.2). R lies between the largest and
the median of peak(x_c) / base_c, on a scale of logarithms: by ``cut`` of the way.

Both let the largest channels all end at R, where each may go beyond what was seen of it;
``s = peak(x)^alpha / peak(W)^(1 - alpha)`` (Xiao et al. 2022, arXiv:2211.10438) leaves most of them
some room. Which is best is measured (:mod:`qfx_passes.accuracy.channel_scales`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CUTS = {"even": (0.4, 0.7), "balanced": (0.4,)}
_ALPHAS = (0.5, 0.75)
_LEAST, _MOST = 2.0**-20, 2.0**20
_TINY = 1e-6


class ScaleCandidate(NamedTuple):
    """Scales of channels.

    Attributes:
        told: how they were found.
        scale: (C,) of each channel.
    """

    told: str
    scale: Tensor


class WeightColumns(NamedTuple):
    """Of the weights that read each channel.

    Attributes:
        norm: (C,) root of the sum of squares.
        peak: (C,) largest magnitude.
    """

    norm: Tensor
    peak: Tensor


def candidates(peak: Tensor, rms: Tensor, columns: WeightColumns) -> list[ScaleCandidate]:
    """Scales to try, the first of them none; the geometric mean of each is 1.

    Args:
        peak: (C,) largest magnitudes of the channels.
        rms: (C,) roots of their mean squares.
        columns: of the weights that read them.
    """
    peak, rms = peak.clamp(min=_TINY), rms.clamp(min=_TINY)
    ones = torch.ones_like(peak)
    bases = {"even": ones, "balanced": (rms / columns.norm.clamp(min=_TINY)).sqrt()}
    found = [ScaleCandidate("none", ones)]
    for name, base in bases.items():
        top, typical = (peak / base).amax(), (peak / base).median()
        for cut in _CUTS[name]:
            raised = torch.maximum(base, peak / (top * (typical / top) ** cut))
            found.append(ScaleCandidate(f"{name}, cut={cut:g}", _about_one(raised)))
    for alpha in _ALPHAS:
        scale = peak**alpha / columns.peak.clamp(min=_TINY) ** (1 - alpha)
        found.append(ScaleCandidate(f"alpha={alpha:g}", _about_one(scale)))
    return found


def _about_one(scale: Tensor) -> Tensor:
    """Relative to the geometric mean; 1 where there is no such number."""
    return (scale / scale.log().mean().exp()).nan_to_num(1.0).clamp(_LEAST, _MOST)
