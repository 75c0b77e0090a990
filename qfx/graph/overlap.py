"""Tensors whose elements share memory: expanded ones, and views of strides that meet.

Nobody may write to them element by element, yet their values can be put back: equal positions get
equal values. And tensors of one memory, of which writing to one changes the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.private_attributes import version_of


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements of ``tensor`` may lie at one address."""
    if tensor.layout is not torch.strided:
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride if size > 0 else 0
    return False


def overwrite(tensor: Tensor, values: Tensor) -> None:
    """Copy ``values`` into ``tensor``; where it overlaps itself, those of one place are equal."""
    if not overlaps_itself(tensor):
        tensor.copy_(values)
        return
    steps = zip(tensor.stride(), tensor.shape, strict=True)
    span = 1 + sum((size - 1) * stride for stride, size in steps)
    memory = tensor.as_strided((span,), (1,))
    addresses = torch.arange(span, device=tensor.device).as_strided(tensor.shape, tensor.stride())
    memory[addresses.reshape(-1)] = values.reshape(-1).to(memory)


def memory_of(tensor: Tensor) -> int:
    """The address of the memory behind ``tensor``, by which those that share it are known; or 0."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return 0
    return tensor.untyped_storage().data_ptr()


def version(tensor: Tensor) -> int:
    """How often ``tensor``, or what it shares memory with, was written to."""
    return version_of(tensor)
