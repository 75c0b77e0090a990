"""The mean and the peak of each channel of what passes through: for bias correction, and scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Reach:
    """Which positions of its input one position of a layer's output reads; by default, its own.

    Args:
        kernel: extents of a convolution's kernel; empty for a linear layer.
        stride, padding, dilation: as of the convolution.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def reads(self, live: Tensor) -> Tensor:
        """Where the output reads a live position; ``live`` is bool, with one channel."""
        if not self.kernel:
            return live
        taps = torch.ones(1, 1, *self.kernel, device=live.device)
        geometry: Sequence[Any] = (self.stride, self.padding, self.dilation)
        return _CONVOLUTIONS[len(self.kernel)](live.to(taps.dtype), taps, None, *geometry) > 0


class ChannelMean(nn.Module):
    """Hands its input through and keeps the running mean, and the peak, per channel.

    Args:
        axis: channel axis; negative counts from the end.
        reach: with it, outputs that read zeros only are counted.

    Attributes:
        total: (C,) float64 sums; empty before data.
        count: values per channel so far.
        peak: (C,) largest magnitudes so far; empty before data.
        silent: outputs so far that read zeros only.
    """

    hands_on: ClassVar[bool] = True  # as graph.inference asks
    total: Tensor
    count: Tensor
    peak: Tensor
    silent: Tensor

    def __init__(self, axis: int, reach: Reach | None = None) -> None:
        super().__init__()
        self.axis = axis
        self.reach = reach
        self.register_buffer("total", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("peak", torch.zeros(0, dtype=torch.float32))
        self.register_buffer("silent", torch.zeros((), dtype=torch.int64))

    @property
    def seen(self) -> bool:
        """Whether there is a mean."""
        return bool(self.count > 0)

    def mean(self) -> Tensor:
        """(C,) float64 means of what was seen."""
        return self.total / self.count

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Add ``x`` to the means if in training mode, and return it."""
        if not self.training or x.numel() == 0:
            return x
        others = [d for d in range(x.dim()) if d != self.axis % x.dim()]
        channels = x.shape[self.axis]
        sums = (x.sum(others) if others else x).double()
        if self.total.numel() == 0:
            self.total, self.peak = torch.zeros_like(sums), torch.zeros_like(sums).float()
        self.total.add_(sums)
        ends = (x.amax(others), x.amin(others)) if others else (x, x)
        self.peak.copy_(torch.maximum(self.peak, torch.maximum(ends[0], -ends[1]).float()))
        self.count.add_(x.numel() // channels)
        if self.reach is not None:
            live = (x != 0).any(self.axis, keepdim=True)
            if not live.all():
                self.silent.add_((~self.reach.reads(live)).sum())
        return x

    def reset(self) -> None:
        """Forget everything seen."""
        self.total, self.peak = self.total.new_zeros(0), self.peak.new_zeros(0)
        self.count.zero_()
        self.silent.zero_()

    @torch.no_grad()
    def merge(self, other: ChannelMean) -> None:
        """Take over what ``other``, a recorder of the same value, has seen."""
        if not other.seen:
            return
        if self.total.numel() == 0:
            self.total, self.peak = torch.zeros_like(other.total), torch.zeros_like(other.peak)
        self.total.add_(other.total)
        self.peak.copy_(torch.maximum(self.peak, other.peak))
        self.count.add_(other.count)
        self.silent.add_(other.silent)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Take the number of channels of the incoming state: before data it is unknown.

        State without peaks is taken, too: earlier versions had none.
        """
        total = state_dict.get(prefix + "total")
        if total is not None:
            state_dict.setdefault(prefix + "peak", torch.zeros_like(total, dtype=torch.float32))
        for name in ("total", "peak"):
            incoming, held = state_dict.get(prefix + name), self.get_buffer(name)
            if incoming is not None and incoming.shape != held.shape:
                setattr(self, name, held.new_zeros(incoming.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
