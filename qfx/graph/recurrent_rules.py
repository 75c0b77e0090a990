"""What recurrent layers yield, in a batch: with ``rows`` layers times directions,

input (length, batch, features)   ->   output (length, batch, directions * hidden)
states (rows, batch, hidden)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from qfx.graph.meta import TensorInfo, Value
from qfx.graph.shape_arithmetic import Dims, fit, have, like


def sequence_rule(gates: int, states: int) -> Callable[..., Value]:
    """The rule of a layer over sequences with so many gates, and states to remember."""

    def sequence(
        input: TensorInfo,
        weights: Sequence[TensorInfo],
        biases: Sequence[TensorInfo],
        hx: object,
        packed: object,
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        measured: object,
        **_: object,
    ) -> Value:
        directions = 2 if bidirectional else 1
        hidden = _hidden(input, weights, biases, gates, measured)
        if hidden is None or packed is not None or len(input.shape) != 3:
            return None
        rows = num_layers * directions
        above = [hidden * directions] * (rows - directions)
        reads = [weight.shape[1] for weight in weights[::2]]
        if reads != [input.shape[2]] * directions + above or len(weights) != 2 * rows:
            return None
        state = like(input, (rows, input.shape[0 if batch_first else 1], hidden))
        out = like(input, (*input.shape[:2], hidden * directions))
        if state is None or out is None or not _starts(input, hx, states, state.shape):
            return None
        return out, state if states == 1 else (state,) * states

    return sequence


def cell_rule(gates: int, states: int) -> Callable[..., Value]:
    """The rule of one step."""

    def cell(
        input: TensorInfo,
        weights: Sequence[TensorInfo],
        biases: Sequence[TensorInfo],
        hx: object,
        measured: object,
        **_: object,
    ) -> Value:
        hidden = _hidden(input, weights, biases, gates, measured)
        if hidden is None or len(input.shape) != 2 or len(weights) != 2:
            return None
        state = like(input, (input.shape[0], hidden))
        is_right = weights[0].shape[1] == input.shape[1]
        if state is None or not is_right or not _starts(input, hx, states, state.shape):
            return None
        return state if states == 1 else (state,) * states

    return cell


def _hidden(
    input: TensorInfo,
    weights: Sequence[TensorInfo],
    biases: Sequence[TensorInfo],
    gates: int,
    measured: object,
) -> int | None:
    """How many hidden units there are, if the weights fit each other and the biases them."""
    if len(weights) < 2 or not fit(input, *weights, *biases):
        return None
    if any(len(weight.shape) != 2 for weight in weights):
        return None
    if measured is not None and input.dtype != torch.float32:
        return None
    hidden = weights[1].shape[1]
    made = all(weight.shape[0] == gates * hidden for weight in weights)
    made = made and all(weight.shape[1] == hidden for weight in weights[1::2])
    return hidden if made and have((gates * hidden,), *biases) else None


def _starts(input: TensorInfo, hx: Any, states: int, shape: Dims) -> bool:
    """Whether initial states are left out, or are as they must be."""
    given = (hx,) if isinstance(hx, TensorInfo) else hx
    if given is None:
        return True
    return len(given) == states and fit(input, *given) and have(shape, *given)
