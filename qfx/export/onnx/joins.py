"""What makes one tensor of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qfx.export.onnx.values import Operand

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


def cat(w: Writer, tensors: Sequence[Operand], *, dim: int) -> ir.Value:
    kept = [t for t in tensors if not (w.info(t).rank == 1 and w.info(t).example == (0,))]
    dtype = _common(w, kept)
    return w.op("Concat", *(w.cast(t, dtype) for t in kept), axis=dim)


def stack(w: Writer, tensors: Sequence[Operand], *, dim: int) -> ir.Value:
    dtype = _common(w, tensors)
    each = (w.op("Unsqueeze", w.cast(t, dtype), w.vector([dim])) for t in tensors)
    return w.op("Concat", *each, axis=dim)


def _common(w: Writer, tensors: Sequence[Operand]) -> torch.dtype:
    dtype = w.info(tensors[0]).dtype
    for other in tensors[1:]:
        dtype = torch.promote_types(dtype, w.info(other).dtype)
    return dtype
