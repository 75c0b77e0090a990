"""How far an output is off: as a whole, and each channel by its own measure.

    whole    =  |y' - y|^2 / |y|^2
    channels =  mean over channels c of  |y'_c - y_c|^2 / |y_c - mean(y_c)|^2
    error    =  sqrt(whole * channels)

What reads an output may take its channels as they are, or as a norm, or the weights behind it, make
them alike; then one that is a hundred times as large as the others counts as much as they do. So
neither measure is to be bought by the other. Channels that hardly vary count by the mean of all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.vocab import OpDef

_LEAST = 1e-4  # of the mean power of all channels
_TINY = torch.finfo(torch.float32).tiny


class OutputErrors:
    """How far other results of one call are off.

    Args:
        op: what is called.
        result: what it yields.
    """

    def __init__(self, op: OpDef, result: Tensor) -> None:
        axis = op.channel_axis
        self.axis = -1 if axis is None or result.dim() < -axis else axis
        self.result = self._rows(result.float())
        power = (self.result - self.result.mean(0)).square_().sum(0)
        self.power = power + _LEAST * power.mean() + _TINY
        self.whole = self.result.square().sum() + _TINY

    def halves(self, other: Tensor) -> Tensor:
        """(2, 2) how far ``other``, a result in place of the right one, is off.

        Of the even rows, and of the odd ones: the error, and the root of ``whole`` alone.
        """
        errors = (self._rows(other.float()) - self.result).square_()
        sums = torch.stack([errors[::2].sum(0), errors[1::2].sum(0)])
        whole = sums.sum(1) / self.whole
        return torch.stack([(sums / self.power).mean(1) * whole, whole], 1).sqrt_().double()

    def _rows(self, x: Tensor) -> Tensor:
        """(rows, channels)."""
        return (
            x.movedim(self.axis, -1).reshape(-1, x.shape[self.axis]) if x.dim() else x.reshape(1, 1)
        )
