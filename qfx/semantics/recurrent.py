"""What recurrent layers compute, in float and with quantized activations (reference form).

    gates_t = W_ih x_t + b_ih,  W_hh h_(t-1) + b_hh          x: input of the layer, h: hidden state
    LSTM  i, f, g, o   c_t = s(f) c_(t-1) + s(i) tanh(g)     h_t = s(o) tanh(c_t)
    GRU   r, z, n      n_t = tanh(n_x + s(r) n_h)            h_t = n_t + s(z) (h_(t-1) - n_t)
    RNN                                                      h_t = tanh(x + h), or relu

where a gate is the sum of its two parts and s is the logistic function: Hochreiter & Schmidhuber
1997, Cho et al. 2014 (arXiv:1406.1078), with PyTorch's order of gates. Float layers are PyTorch's.

With ``measured``, activations are rounded before they are multiplied:
:mod:`qfx.semantics.recurrent_steps`.

Weights are W_ih, W_hh of each layer and direction in turn, biases likewise or none.

``packed`` is what a ``PackedSequence`` holds beside its data, which is the input then: the rows of
each step, and the orders of the batch (see :mod:`qfx.semantics.recurrent_steps`). The result is
packed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qfx.errors import ConfigError
from qfx.semantics.recurrent_steps import (
    RNN_STEPS,
    MeasuredCodes,
    State,
    TensorPair,
    gru_step,
    lstm_step,
    one_step,
    pairs,
    stepped,
)

Packed: TypeAlias = "tuple[Tensor, Tensor | None, Tensor | None]"
"""``batch_sizes``, ``sorted_indices`` and ``unsorted_indices`` of a PackedSequence."""

_NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_OWN: Mapping[str, Callable[..., Any]] = {
    name: getattr(torch, name) for name in (*_NAMES, *(f"{name}_cell" for name in _NAMES))
}
"""PyTorch's functions, as they are while none is patched."""


# -- operations ------------------------------------------------------------------------------------
def lstm(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: TensorPair | None = None,
    packed: Packed | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    measured: MeasuredCodes | None = None,
) -> tuple[Tensor | PackedSequence, TensorPair]:
    """As ``nn.LSTM``: the sequence of hidden states, and the last hidden and cell states."""
    layout = num_layers, bidirectional, batch_first
    run = _whole(_OWN["lstm"]) if measured is None else stepped(lstm_step, 2, measured)
    y, h, c = _sequence(run, input, weights, biases, hx, packed, *layout)
    return y, (h, c)


def gru(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    packed: Packed | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    measured: MeasuredCodes | None = None,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """As ``nn.GRU``: the sequence of hidden states, and the last ones."""
    layout = num_layers, bidirectional, batch_first
    run = _whole(_OWN["gru"]) if measured is None else stepped(gru_step, 1, measured)
    state = None if hx is None else (hx,)
    y, h = _sequence(run, input, weights, biases, state, packed, *layout)
    return y, h


def rnn(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    packed: Packed | None = None,
    *,
    nonlinearity: str = "tanh",
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    measured: MeasuredCodes | None = None,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """As ``nn.RNN``: the sequence of hidden states, and the last ones."""
    layout = num_layers, bidirectional, batch_first
    if measured is None:
        run = _whole(_OWN[f"rnn_{nonlinearity}"])
    else:
        run = stepped(RNN_STEPS[nonlinearity], 1, measured)
    state = None if hx is None else (hx,)
    y, h = _sequence(run, input, weights, biases, state, packed, *layout)
    return y, h


def lstm_cell(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: TensorPair | None = None,
    *,
    measured: MeasuredCodes | None = None,
) -> TensorPair:
    """As ``nn.LSTMCell``: the next hidden and cell state."""
    run = _cell(_OWN["lstm_cell"]) if measured is None else one_step(lstm_step, measured)
    h, c = _unbatched(run, input, weights, biases, hx, 2)
    return h, c


def gru_cell(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    *,
    measured: MeasuredCodes | None = None,
) -> Tensor:
    """As ``nn.GRUCell``: the next hidden state."""
    run = _cell(_OWN["gru_cell"]) if measured is None else one_step(gru_step, measured)
    return _unbatched(run, input, weights, biases, None if hx is None else (hx,), 1)[0]


def rnn_cell(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    measured: MeasuredCodes | None = None,
) -> Tensor:
    """As ``nn.RNNCell``: the next hidden state."""
    if measured is None:
        run = _cell(_OWN[f"rnn_{nonlinearity}_cell"])
    else:
        run = one_step(RNN_STEPS[nonlinearity], measured)
    return _unbatched(run, input, weights, biases, None if hx is None else (hx,), 1)[0]


# -- batches and directions ------------------------------------------------------------------------
def _sequence(
    run: Callable[..., State],
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    hx: State | None,
    packed: Packed | None,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    """``run`` on a batch; without a batch dimension, on a batch of one."""
    if packed is not None:

        def run_packed(states: State) -> State:
            layout = num_layers, bidirectional, False
            return run(input, weights, biases, states or None, *layout, packed[0])

        shape = num_layers * (2 if bidirectional else 1), weights[1].shape[1]
        return in_packed_order(run_packed, hx or (), packed, *shape)
    batched = input.dim() == 3
    if not batched:
        input, batch_first = input.unsqueeze(1), False
        hx = None if hx is None else tuple(s.unsqueeze(1) for s in hx)
    length, batch, _ = input.transpose(0, 1).shape if batch_first else input.shape
    rows = num_layers * (2 if bidirectional else 1)
    check(length, hx or (), (rows, batch, weights[1].shape[1]))
    y, *last = run(input, weights, biases, hx, num_layers, bidirectional, batch_first)
    return (y, *last) if batched else (y.squeeze(1), *(s.squeeze(1) for s in last))


def in_packed_order(
    run: Callable[[State], State], hx: State, packed: Packed, rows: int, hidden: int
) -> tuple[Any, ...]:
    """``run`` on initial states in the order of packed sequences, final ones in that of the batch.

    Args:
        run: takes the initial states, none if they are zero, and returns data and final states.
        hx: initial states in the order of the batch, or none.
        packed: how the sequences are packed.
        rows: layers times directions.
        hidden: number of hidden units.

    Returns:
        A PackedSequence, and the final states.
    """
    sizes, sorted_indices, unsorted_indices = packed
    check(sizes.numel(), hx, (rows, int(sizes[0]), hidden))
    if sorted_indices is not None:
        hx = tuple(state.index_select(1, sorted_indices) for state in hx)
    y, *last = run(hx)
    if unsorted_indices is not None:
        last = [state.index_select(1, unsorted_indices) for state in last]
    return PackedSequence(y, *packed), *last


def _unbatched(
    run: Callable[..., State],
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    hx: State | None,
    states: int,
) -> State:
    """``run`` of a cell on a batch; without a batch dimension, on a batch of one."""
    batched = input.dim() == 2
    rows = input if batched else input.unsqueeze(0)
    if hx is None:
        hx = (input.new_zeros(rows.shape[0], weights[1].shape[1]),) * states
    elif not batched:
        hx = tuple(s.unsqueeze(0) for s in hx)
    check(1, hx, (rows.shape[0], weights[1].shape[1]))
    made = run(rows, weights, biases, hx)
    return made if batched else tuple(s.squeeze(0) for s in made)


def check(length: int, states: Sequence[Tensor], shape: tuple[int, ...]) -> None:
    """Refuse what PyTorch's modules refuse: no step at all, and initial states of another shape.

    Args:
        length: of the sequence.
        states: initial states.
        shape: that each of them must have.
    """
    if length == 0:
        raise ConfigError(
            "a recurrent layer was called with a sequence of no steps; give it at least one"
        )
    for state in states:
        if tuple(state.shape) != shape:
            raise ConfigError(
                f"a recurrent layer was called with an initial state of shape {tuple(state.shape)}"
                f" where it takes {shape}; give it one row for each input of the batch"
            )


# -- float -----------------------------------------------------------------------------------------
def _whole(function: Callable[..., State]) -> Callable[..., State]:
    """PyTorch's own layers."""

    def run(
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        hx: State | None,
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
        sizes: Tensor | None = None,
    ) -> State:
        if hx is None:
            batch = x.shape[0 if batch_first else 1] if sizes is None else int(sizes[0])
            rows = num_layers * (2 if bidirectional else 1)
            zeros = x.new_zeros(rows, batch, weights[1].shape[1])
            hx = (zeros, zeros) if function is _OWN["lstm"] else (zeros,)
        each = [pairs(weights), pairs(biases)] if biases else [pairs(weights)]
        flat = [tensor for both in zip(*each, strict=True) for pair in both for tensor in pair]
        state = hx if function is _OWN["lstm"] else hx[0]
        flags = bool(biases), num_layers, 0.0, False, bidirectional
        if sizes is not None:
            return function(x, sizes, state, flat, *flags)
        return function(x, state, flat, *flags, batch_first)

    return run


def _cell(function: Callable[..., Any]) -> Callable[..., State]:
    """PyTorch's own cells."""

    def run(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], hx: State) -> State:
        state = hx if len(hx) == 2 else hx[0]
        made = function(x, state, *weights, *(biases or (None, None)))
        return made if len(hx) == 2 else (made,)

    return run
