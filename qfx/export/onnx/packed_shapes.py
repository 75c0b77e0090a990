"""Shapes of packed sequences, followed without data: how long sequences are, only data tells.

The longest is taken to be as long as there are steps, and all of them as long as it; in the other
run (:mod:`qfx.export.onnx.sizes`) they are shorter, so that what follows of lengths differs there
from what follows of any size of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qfx import vocab
from qfx.errors import ConfigError
from qfx.vocab import bound_plainly


class PackedParts(NamedTuple):
    """What a ``PackedSequence`` holds: it refuses tensors without memory, and what is no tensor."""

    data: Any
    batch_sizes: Any
    sorted_indices: Any = None
    unsorted_indices: Any = None


class PackedShapes:
    """Stands for operations on packed sequences in a run on tensors without memory.

    Args:
        shorter: how many steps less the longest sequence has than there are; each operation that
            packs adds another such number.
    """

    def __init__(self, shorter: int) -> None:
        self._shorter = shorter
        self._packed = 0

    def call(self, target: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a call yields, in a tuple of one; None where it is none on packed sequences."""
        if target is PackedSequence:
            return (PackedParts(*args, **kwargs),)
        if target is getattr and type(args[0]) in (PackedParts, tuple):
            return (getattr(PackedParts(*args[0]), args[1]),)  # a tuple, as an input of a piece
        if target is torch.as_tensor:  # to the CPU, where lengths must be
            return (_on_cpu(args[0], kwargs.get("dtype")),)
        rule = _RULES.get(target)
        given = None if rule is None else bound_plainly(target, tuple(args), dict(kwargs))  # type: ignore[arg-type]
        if rule is None or given is None:
            return None
        return rule(self, given)

    def pack(self, given: Mapping[str, Any]) -> Any:
        """Rows, and the sizes of steps, of sequences that are all as long as the longest."""
        input: Tensor = given["input"]
        steps, batch, *rest = input.transpose(0, 1).shape if given["batch_first"] else input.shape
        self._packed += 1
        steps = max(1, steps - self._shorter * self._packed)
        rows = input.new_empty(steps * batch, *rest)
        return ((rows, input.new_empty(steps, dtype=torch.int64)),)

    def pad(self, given: Mapping[str, Any]) -> Any:
        """Sequences of the longest one's length, or of the length that is asked for."""
        rows, sizes, total = given["input"], given["batch_sizes"], given["total_length"]
        batch, length = _batch(rows, sizes), total if total > 0 else sizes.shape[0]
        shape = (batch, length) if given["batch_first"] else (length, batch)
        padded = rows.new_empty(*shape, *rows.shape[1:])
        return ((padded, rows.new_empty(batch, dtype=torch.int64)),)

    def sequence(self, given: Mapping[str, Any], states: int = 1) -> Any:
        """What a recurrent layer yields for packed sequences; None for others."""
        if given["packed"] is None:
            return None
        rows, packed, hidden = given["input"], given["packed"], given["weights"][1].shape[1]
        if rows.shape[1:] != given["weights"][0].shape[1:]:
            raise ConfigError(f"a recurrent layer was given rows of shape {tuple(rows.shape)}")
        ways = 2 if given["bidirectional"] else 1
        y = rows.new_empty(rows.shape[0], ways * hidden)
        state = rows.new_empty(given["num_layers"] * ways, _batch(rows, packed[0]), hidden)
        return ((PackedParts(y, *packed), state if states == 1 else (state,) * states),)


def _on_cpu(value: Any, dtype: torch.dtype | None) -> Tensor:
    """Lengths, as a tensor without memory."""
    if isinstance(value, Tensor):
        return value.to(dtype or value.dtype)
    return torch.as_tensor(value, dtype=dtype, device="meta")


def _batch(rows: Tensor, sizes: Tensor) -> int:
    return max(1, rows.shape[0] // max(1, sizes.shape[0]))


_RULES: Mapping[object, Callable[[PackedShapes, Mapping[str, Any]], Any]] = {
    vocab.PACK_PADDED: PackedShapes.pack,
    vocab.PAD_PACKED: PackedShapes.pad,
    **dict.fromkeys((vocab.GRU, vocab.RNN), PackedShapes.sequence),
    vocab.LSTM: partial(PackedShapes.sequence, states=2),
}
