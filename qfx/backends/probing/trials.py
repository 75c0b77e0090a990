"""What probes are made of: a kernel with what is fused to it, and one run of it beside the truth.

A result on the scale of codes is right when

    |q - clamp(y / scale + zp)| <= 1/2 + TOLERANCE

where y is the real value: what exact arithmetic gives before it is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SIZES = (1, 15, 16, 17, 4096)
"""Numbers of elements below, at and above a vector, and many."""

TOLERANCE = 0.02
"""Codes beyond the half that rounding takes: float32 sums, approximations of erf."""


@dataclass(frozen=True)
class Combination:
    """A kernel with what is fused to it.

    Attributes:
        kernel: as in backend tables, e.g. "onednn.qconv2d".
        post: post-ops by their names in :data:`qfx.semantics.post.POST_OPS`, in order.
        dtype: of the result: uint8 or float32.
    """

    kernel: str
    post: tuple[str, ...] = ()
    dtype: torch.dtype = torch.uint8

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{'+'.join((self.kernel, *self.post))} -> {dtype}"


@dataclass(frozen=True)
class ProbeRun:
    """One run of a kernel: what it gave, and the exact result on the scale of codes.

    Attributes:
        case: what was run, for the message.
        got: codes, or float32 values divided by the step that is tolerated.
        exact: float64, clamped to the range of codes.
    """

    case: str
    got: Tensor
    exact: Tensor

    def fault(self) -> str:
        """What is wrong, or ""."""
        if self.got.shape != self.exact.shape:
            return f"{self.case}: shape {list(self.got.shape)}, not {list(self.exact.shape)}"
        error = (self.got.double() - self.exact).abs()
        if error.numel() == 0 or bool(error.max() <= 0.5 + TOLERANCE):
            return ""
        at = int(error.argmax())
        return (
            f"{self.case}: gave {self.got.reshape(-1)[at].item():g}, "
            f"exact is {self.exact.reshape(-1)[at].item():.2f}"
        )


Probe = Callable[[Combination], Iterator[ProbeRun]]
