"""What the accelerator computes: int8 in and out, sums in int32, scales shifted, never multiplied.

Scales are powers of two, so from the sum to the result there is one shift,

    y = clamp(round((sum(x * w) + b) * 2**-shift)),    2**-shift = s_x * s_w / s_y

Float64 holds int32 exactly, so these simulations are exact, whatever the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shift: int,
    lowest: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """int8 (N, C, H, W) by int8 weights; ``lowest`` is 0 where a relu is part of it."""
    held = None if bias is None else bias.double()
    total = F.conv2d(x.double(), weight.double(), held, stride, padding, dilation, groups)
    return _shifted(total, shift, lowest)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, shift: int, lowest: int) -> Tensor:
    """int8 (N, K) by int8 weights (O, K)."""
    held = None if bias is None else bias.double()
    return _shifted(F.linear(x.double(), weight.double(), held), shift, lowest)


def add(x: Tensor, y: Tensor, x_shift: int, y_shift: int, lowest: int) -> Tensor:
    """The sum of two int8 tensors, each shifted to the scale of the result."""
    total = torch.ldexp(x.double(), -_exponent(x_shift)) + torch.ldexp(
        y.double(), -_exponent(y_shift)
    )
    return _shifted(total, 0, lowest)


def _shifted(total: Tensor, shift: int, lowest: int) -> Tensor:
    scaled = torch.ldexp(total, -_exponent(shift))
    return torch.round(scaled).clamp(lowest, 127).to(torch.int8)


def _exponent(shift: int) -> Tensor:
    return torch.tensor(shift)
