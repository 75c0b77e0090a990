"""The one float dtype that quantized models compute in, and what to say of the others.

Scales, and what kernels hand out, are float32: quantized values turned into half would be rounded
again by as much as they were quantized by, and kernels take no other dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qfx.errors import BackendError

COMPUTED_IN = torch.float32
HALVES = (torch.float16, torch.bfloat16)


def probe_conversion(fn: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What ``fn``, as given to ``nn.Module._apply``, makes of a tensor; None where it raises."""
    try:
        return fn(torch.empty(0, dtype=COMPUTED_IN))
    except Exception:  # a device that is not even there
        return None


def refuse_conversion(made: Tensor | None, kind: str) -> None:
    """BackendError if a conversion ``made`` tensors of another dtype, for a ``kind`` of model."""
    if made is None or made.dtype == COMPUTED_IN:
        return
    raise BackendError(
        f"A {kind} model computes in {COMPUTED_IN} and cannot be turned into {made.dtype}. Keep it "
        f"as it is, give it {COMPUTED_IN} inputs, and convert what it returns."
    )
