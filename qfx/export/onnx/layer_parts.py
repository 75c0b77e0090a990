"""Linear layers of which nothing but parts is read: queries, keys and values of one layer.

They are written as a layer for each part; OpenVINO otherwise copies the result apart in every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx import vocab
from qfx.export.onnx.values import Dequantized, Info, Operand
from qfx.graph import meta
from qfx.vocab import bound, is_op

if TYPE_CHECKING:
    from qfx.export.onnx.writer import Writer


def parts_read(w: Writer) -> list[int]:
    """The sizes of the parts that alone are read of the layer being written; empty if none are.

    A layer with post-ops is written as one: these are computed of the whole.
    """
    assert w.node is not None
    readers = list(w.node.users)
    info = meta.tensor_info(w.node)
    if len(readers) != 1 or info is None or not is_op(readers[0], vocab.CHUNK, vocab.SPLIT):
        return []
    if w.node.kwargs.get("post") or bound(readers[0])["dim"] not in (-1, len(info.shape) - 1):
        return []
    made = meta.value_of(readers[0])
    parts = made if isinstance(made, Sequence) else ()
    return [part.shape[-1] for part in parts if isinstance(part, meta.TensorInfo)]


def rows(weight: Operand, sizes: Sequence[int]) -> list[Dequantized]:
    """A stored weight as one for each part of its outputs; empty if it is none."""
    if not isinstance(weight, Dequantized) or not weight.stored or weight.axis not in (None, 0):
        return []
    if weight.group_size is not None or not sizes:
        return []
    numbers = zip(
        _rows(weight.codes, sizes),
        _rows(weight.scale, sizes),
        _rows(weight.zero_point, sizes),
        sizes,
        strict=True,
    )
    return [
        replace(
            weight,
            codes=codes,
            scale=scale,
            zero_point=zero_point,
            info=Info(
                (size, *weight.info.shape[1:]), (size, *weight.info.example[1:]), weight.info.dtype
            ),
            name=f"{weight.name}_{index}",
            written={},
        )
        for index, (codes, scale, zero_point, size) in enumerate(numbers)
    ]


def _rows(numbers: Operand, sizes: Sequence[int]) -> list[Operand]:
    """What of numbers belongs to each part: all of it, where they are for all outputs."""
    if isinstance(numbers, Tensor) and numbers.dim():
        return list(torch.split(numbers, list(sizes)))
    return [numbers] * len(sizes)
