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
from torch import Tensor, fx

from qfx.vocab import OpDef

_LEAST = 1e-4  # of the mean power of all channels
_TINY = torch.finfo(torch.float32).tiny


class OutputErrors:
    """Of one call: how far other results are off.

    Args:
        node: the call.
        result: what it yields.
    """

    def __init__(self, node: fx.Node, result: Tensor) -> None:
        axis = node.target.channel_axis if isinstance(node.target, OpDef) else None
        self.axis = -1 if axis is None or result.dim() < -axis else axis
        self.result = result.float()
        rows = self._rows(self.result)
        power = (rows - rows.mean(1, keepdim=True)).square().sum(1)
        self.power = power + _LEAST * power.mean() + _TINY
        self.whole = self.result.square().sum() + _TINY

    def halves(self, other: Tensor) -> Tensor:
        """(2, 2) how far ``other``, a result in place of the right one, is off.

        Of the even rows, and of the odd ones: the error, and the root of ``whole`` alone.
        """
        errors = self._rows((other.float() - self.result).square_())
        return torch.stack([self._of(errors[:, ::2]), self._of(errors[:, 1::2])]).double()

    def _of(self, errors: Tensor) -> Tensor:
        sums = errors.sum(1)
        whole = sums.sum() / self.whole
        return torch.stack([(sums / self.power).mean() * whole, whole]).sqrt()

    def _rows(self, x: Tensor) -> Tensor:
        if x.dim() == 0:
            return x.reshape(1, 1)
        return x.movedim(self.axis, 0).flatten(1) if x.dim() > 1 else x.unsqueeze(0)
