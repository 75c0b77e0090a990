"""What two models hold under the same names, and how it differs: shapes, dtypes, contents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx

from qfx.graph.text import dtype_text


class OtherTensor(NamedTuple):
    """A parameter or buffer that differs.

    Attributes:
        name: what both models call it.
        how: ``f32[4,4] -> f32[6,4]``, or ``3 of 16 values``.
    """

    name: str
    how: str


def other_tensors(a: fx.GraphModule, b: fx.GraphModule) -> Iterator[OtherTensor]:
    """What both hold and is not equal; NaN equals NaN."""
    theirs = dict(_held(b))
    for name, mine in _held(a):
        other = theirs.get(name)
        how = "" if other is None or other is mine else _difference(mine, other)
        if how:
            yield OtherTensor(name, how)


def _held(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _difference(a: Tensor, b: Tensor) -> str:
    before, after = (f"{dtype_text(t.dtype)}{str(list(t.shape)).replace(' ', '')}" for t in (a, b))
    if before != after:
        return f"{before} -> {after}"
    if not (a.layout is b.layout is torch.strided) or a.is_quantized or a.device != b.device:
        return ""  # what only kernels understand
    same = (a == b) | ((a != a) & (b != b))
    off = a.numel() - int(same.sum())
    return f"{off:,} of {a.numel():,} values" if off else ""
