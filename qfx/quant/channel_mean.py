"""The mean of each channel of what passes through, for bias correction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ChannelMean(nn.Module):
    """Hands its input through and keeps the running mean per channel.

    Args:
        axis: channel axis; negative counts from the end.

    Attributes:
        total: (C,) float64 sums; empty before data.
        count: values per channel so far.
    """

    total: Tensor
    count: Tensor

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("total", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def seen(self) -> bool:
        """Whether there is a mean."""
        return bool(self.count > 0)

    def mean(self) -> Tensor:
        """(C,) float64 means of what was seen."""
        return self.total / self.count

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Add ``x`` to the means, and return it."""
        if x.numel() == 0:
            return x
        others = [d for d in range(x.dim()) if d != self.axis % x.dim()]
        channels = x.shape[self.axis]
        sums = (x.sum(others) if others else x).double()
        if self.total.numel() == 0:
            self.total = torch.zeros_like(sums)
        self.total.add_(sums)
        self.count.add_(x.numel() // channels)
        return x

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the number of channels of the incoming state: before data it is unknown."""
        incoming = state_dict.get(prefix + "total")
        if incoming is not None and incoming.shape != self.total.shape:
            self.total = self.total.new_zeros(incoming.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
