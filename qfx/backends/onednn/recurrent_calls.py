"""Recurrent layers on integers as calls of a graph, compiled or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qfx.backends.onednn.as_convolutions import widths
from qfx.backends.onednn.cells import State
from qfx.backends.onednn.recurrent import PARTS, run_layers
from qfx.library import define
from qfx.semantics.recurrent import Packed, in_packed_order


# -- as calls of a graph ---------------------------------------------------------------------------
def _at_numbers(x: Tensor, scale: Tensor, zero_point: Tensor, *rest: Any) -> list[Tensor]:
    return list(run_layers(x, float(scale), int(zero_point), *rest))


def _fake(x: Tensor, scale: Tensor, zero_point: Tensor, *rest: Any) -> list[Tensor]:
    """What :func:`run_layers` returns, without values."""
    parts, _, kind = rest[:3]
    (length, batch, _), (size, _), rows = x.shape, widths(parts[3]), len(parts) // PARTS
    states = 2 if kind == "lstm" else 1
    ways = rows // rest[3]
    y = x.new_empty((length, batch, ways * size), dtype=torch.float32)
    return [y, *(y.new_empty(rows, batch, size) for _ in range(states))]


_compiled = define(
    "qrecurrent(Tensor x, Tensor x_scale, Tensor x_zp, Tensor[] parts, Tensor[] hx, str kind,"
    " int num_layers, int low, int high, bool symmetric)",
    _at_numbers,
    _fake,
    "Tensor[]",
)


def _states(hx: Any) -> list[Tensor]:
    if hx is None:
        return []
    return [hx] if isinstance(hx, Tensor) else list(hx)


def sequence(
    x: Tensor,
    scale: object,
    zero_point: object,
    parts: Sequence[Tensor],
    hx: object,
    packed: Packed | None,
    kind: str,
    num_layers: int,
    batch_first: bool,
    *codes: object,
) -> tuple[Tensor | PackedSequence, Any]:
    """``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` on codes, compiled or not, with or without a batch.

    Args:
        x: uint8, shaped as the module takes it.
        scale: of ``x``.
        zero_point: of ``x``.
        parts: as :func:`run_layers`.
        hx: initial states as the module takes them, or None.
        packed: how ``x`` is packed; see :mod:`qfx.semantics.recurrent`.
        kind: as :func:`run_layers`.
        num_layers: number of layers.
        batch_first: as in the module.
        codes: as :func:`run_layers`.

    Returns:
        What the module returns.
    """
    if packed is not None:
        return _on_packed(x, scale, zero_point, parts, _states(hx), packed, kind, num_layers, codes)
    run, states, batched = _runner(), _states(hx), x.dim() == 3
    if not batched:
        x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
    elif batch_first:
        x = x.transpose(0, 1)
    y, *last = run(x.contiguous(), scale, zero_point, parts, states, kind, num_layers, *codes)
    if not batched:
        y, last = y.squeeze(1), [s.squeeze(1) for s in last]
    elif batch_first:
        y = y.transpose(0, 1)
    return y, tuple(last) if kind == "lstm" else last[0]


def _on_packed(
    x: Tensor,
    scale: Any,
    zero_point: Any,
    parts: Sequence[Tensor],
    hx: list[Tensor],
    packed: Packed,
    kind: str,
    num_layers: int,
    codes: tuple[Any, ...],
) -> tuple[PackedSequence, Any]:
    def run(states: State) -> tuple[Tensor, ...]:
        low, high, symmetric = codes
        head = x.contiguous(), scale, zero_point, parts, states, kind, num_layers
        return run_layers(*head, low, high, symmetric, packed[0].tolist())

    y, *last = in_packed_order(run, tuple(hx), packed, len(parts) // PARTS, widths(parts[3])[0])
    return y, tuple(last) if kind == "lstm" else last[0]


def cell(
    x: Tensor,
    scale: object,
    zero_point: object,
    parts: Sequence[Tensor],
    hx: object,
    kind: str,
    *codes: object,
) -> Any:
    """``nn.LSTMCell``, ``nn.GRUCell`` or ``nn.RNNCell`` on codes: a sequence of one step."""
    run, states, batched = _runner(), _states(hx), x.dim() == 2
    if not batched:
        x, states = x.unsqueeze(0), [s.unsqueeze(0) for s in states]
    steps = x.contiguous().unsqueeze(0), scale, zero_point
    _, *last = run(*steps, parts, [s.unsqueeze(0) for s in states], kind, 1, *codes)
    made = tuple(s.squeeze(0) if batched else s.squeeze(0).squeeze(0) for s in last)
    return made if kind == "lstm" else made[0]


def _runner() -> Any:
    return _compiled if torch.compiler.is_compiling() else run_layers
