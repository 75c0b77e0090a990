"""Packed sequences, which ONNX has none of: they stay padded, beside their lengths.

    rows (sum of lengths, ...)   stand for   padded (steps, batch, ...), lengths (batch,)

Recurrent layers of ONNX take lengths. What else reads the rows, or the sizes of steps, is given
them: the rows that a mask picks out, and the sums of that mask.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.nn.utils.rnn import PackedSequence

from qfx import vocab
from qfx.export.onnx.packed_shapes import PackedParts
from qfx.export.onnx.values import Dequantized, Dim, Info, Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


@dataclass(frozen=True, eq=False)
class Lengths:
    """How long the sequences of a batch are.

    Attributes:
        each: (batch,), int64, the longest first.
        like: padded sequences (steps, batch, ...), for the sizes.
    """

    each: Operand
    like: Operand

    def steps(self, w: Writer) -> Number | int:
        """How many steps they are padded to."""
        return w.size(self.like, 0)

    def longest(self, w: Writer) -> Number:
        """The length of the longest."""
        return Number(w.op("ReduceMax", self.each, w.vector([0]), keepdims=1), int)

    def mask(self, w: Writer) -> ir.Value:
        """(steps, batch): where sequences have not ended."""
        steps = w.op(
            "Range", w.scalar(0, torch.int64), w.cast(self.steps(w), torch.int64),
            w.scalar(1, torch.int64),
        )  # fmt: skip
        info = w.info(self.like)
        made = w.op("Less", w.op("Unsqueeze", steps, w.vector([1])), self.each)
        w.tell(made, Info(info.shape[:2], info.example[:2], torch.bool))
        return made


@dataclass(frozen=True, eq=False)
class PackedRows:
    """The rows of packed sequences.

    Attributes:
        padded: (steps, batch, ...).
        lengths: of the sequences.
        info: of the rows.
    """

    padded: Operand
    lengths: Lengths
    info: Info

    def value(self, w: Writer) -> ir.Value:
        """The rows, step by step, without those of sequences that have ended."""
        flat = w.op("Reshape", self.padded, w.vector([-1, *self.info.example[1:]]))
        picked = w.op("Reshape", self.lengths.mask(w), w.vector([-1]))
        made = w.op("Compress", flat, picked, axis=0)
        w.tell(made, self.info)
        return made


@dataclass(frozen=True, eq=False)
class StepSizes:
    """How many sequences have not ended, at each step.

    Attributes:
        lengths: of the sequences.
        info: of the sizes.
    """

    lengths: Lengths
    info: Info

    def value(self, w: Writer) -> ir.Value:
        """The sizes of the steps that the longest sequence has."""
        ends = w.vector([self.lengths.longest(w)])
        mask = w.op("Slice", self.lengths.mask(w), w.vector([0]), ends, w.vector([0]))
        counts = w.op("Cast", mask, to=int(w.dtype(torch.int64)))
        made = w.op("ReduceSum", counts, w.vector([1]), keepdims=0)
        w.tell(made, self.info)
        return made


def as_values(w: Writer, given: Any) -> Any:
    """Arguments for those who know of no packed sequences: with tensors in place of their parts."""
    if isinstance(given, (PackedRows, StepSizes)):
        return given.value(w)
    if isinstance(given, PackedParts):
        return PackedParts(*(as_values(w, part) for part in given))
    if type(given) in (tuple, list):
        return type(given)(as_values(w, item) for item in given)
    if type(given) is dict:
        return {name: as_values(w, item) for name, item in given.items()}
    return given


def knows(node: fx.Node) -> bool:
    """Whether what ``node`` calls knows of packed sequences."""
    return node.target in _KNOW


_KNOW = (
    *vocab.SEQUENCES, *(vocab.PAD_PACKED, vocab.GETITEM, vocab.SIZE), getattr, PackedSequence,
)  # fmt: skip


def attribute(w: Writer, of: Any, name: str) -> Any:
    """A field of a packed sequence."""
    if isinstance(of, tuple):
        return getattr(PackedParts(*of), name)
    raise CannotWrite(f"the attribute {name} of a value", "Compute it outside of the model.")


def pack(w: Writer, input: Operand, lengths: Operand, batch_first: bool) -> Any:
    rows, sizes = w.results
    info = w.info(input)
    padded = input
    if batch_first:
        order = [1, 0, *range(2, info.rank)]
        padded = w.op("Transpose", input, perm=order)
        shape, example = ([each[i] for i in order] for each in (info.shape, info.example))
        w.tell(padded, Info(tuple(shape), tuple(example), info.dtype))
    known = Lengths(w.cast(lengths, torch.int64), padded)
    return PackedRows(padded, known, rows), StepSizes(known, sizes)


def pad(
    w: Writer,
    input: Any,
    batch_sizes: Any,
    batch_first: bool,
    padding_value: float,
    total_length: Number | int,
) -> Any:
    padded, _ = w.results
    lengths = lengths_of(batch_sizes)
    rows = padded_rows(w, input, lengths)
    info = w.info(rows)
    steps = info.shape[0]
    mask = w.op("Unsqueeze", lengths.mask(w), w.vector(range(2, info.rank)))
    made = w.op("Where", mask, rows, w.scalar(padding_value, info.dtype))
    w.tell(made, info)
    if padded.shape[1 if batch_first else 0] == _longest(batch_sizes):
        ends = w.vector([lengths.longest(w)])
        made = w.op("Slice", made, w.vector([0]), ends, w.vector([0]))
    elif padded.shape[1 if batch_first else 0] != steps:
        raise CannotWrite(
            "sequences that are padded to another length than they had before they were packed",
            "Pad them to total_length=x.size(1) (x.size(0) without batch_first), or leave it out.",
        )
    if batch_first:
        made = w.op("Transpose", made, perm=[1, 0, *range(2, info.rank)])
    return made, lengths.each


def _longest(batch_sizes: Any) -> Dim | None:
    """How the size is called that the longest sequence has."""
    return batch_sizes.info.shape[0] if isinstance(batch_sizes, StepSizes) else None


def lengths_of(batch_sizes: Any) -> Lengths:
    """The lengths of sequences, by the sizes of their steps."""
    if isinstance(batch_sizes, StepSizes):
        return batch_sizes.lengths
    raise CannotWrite(
        "packed sequences that the model is given, or makes by itself",
        "Give it padded sequences and their lengths, and pack them with pack_padded_sequence.",
    )


def padded_rows(w: Writer, rows: Any, lengths: Lengths) -> Operand:
    """(steps, batch, ...) of packed rows: as they were, or put back where they belong."""
    if isinstance(rows, PackedRows):
        return rows.padded
    if isinstance(rows, Dequantized):
        codes = padded_rows(w, rows.codes, lengths)
        info = dataclasses.replace(w.info(codes), dtype=rows.info.dtype)
        return dataclasses.replace(rows, codes=codes, info=info, written={})
    info, whole = w.info(rows), w.info(lengths.like)
    flat = w.op("Reshape", lengths.mask(w), w.vector([-1]))
    places = w.op("Transpose", w.op("NonZero", flat), perm=(1, 0))
    sizes = [w.size(lengths.like, dim) for dim in (0, 1)]
    width = info.example[1:]
    count = w.op("Reshape", w.op("Size", flat), w.vector([1]))
    empty = w.op("Expand", w.scalar(0, info.dtype), w.vector([Number(count, int), *width]))
    put = w.op("ScatterND", empty, places, rows)
    made = w.op("Reshape", put, w.vector([*sizes, *width]))
    w.tell(made, Info((*whole.shape[:2], *width), (*whole.example[:2], *width), info.dtype))
    return made
