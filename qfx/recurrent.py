"""What recurrent layers compute, in float and with quantized activations (reference form).

    gates_t = W_ih x_t + b_ih,  W_hh h_(t-1) + b_hh          x: input of the layer, h: hidden state
    LSTM  i, f, g, o   c_t = s(f) c_(t-1) + s(i) tanh(g)     h_t = s(o) tanh(c_t)
    GRU   r, z, n      n_t = tanh(n_x + s(r) n_h)            h_t = n_t + s(z) (h_(t-1) - n_t)
    RNN                                                      h_t = tanh(x + h), or relu

where a gate is the sum of its two parts and s is the logistic function: Hochreiter & Schmidhuber
1997, Cho et al. 2014 (arXiv:1406.1078), with PyTorch's order of gates. Float layers are PyTorch's.

With ``measured``, what multiplies weights is rounded to codes whose range is measured when it runs:
the input of a layer all at once (of the first layer, outside: it is an operand), the hidden state
before every step, over the batch and both directions. Cell states and gates stay float.

Weights are W_ih, W_hh of each layer and direction in turn, biases likewise or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant import ops

Codes: TypeAlias = "tuple[torch.dtype, int, int, bool]"
"""How a value is quantized when it is measured: dtype, smallest and largest code, symmetric."""

State: TypeAlias = "tuple[Tensor, ...]"
Pair: TypeAlias = "tuple[Tensor, Tensor]"
Step: TypeAlias = "Callable[[Tensor, Tensor, State], State]"


# -- operations ------------------------------------------------------------------------------------
def lstm(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Pair | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    measured: Codes | None = None,
) -> tuple[Tensor, Pair]:
    """As ``nn.LSTM``: the sequence of hidden states, and the last hidden and cell states."""
    layout = num_layers, bidirectional, batch_first
    run = _whole(torch._VF.lstm) if measured is None else _stepped(_lstm_step, 2, measured)
    y, h, c = _sequence(run, input, weights, biases, hx, *layout)
    return y, (h, c)


def gru(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    measured: Codes | None = None,
) -> Pair:
    """As ``nn.GRU``: the sequence of hidden states, and the last ones."""
    layout = num_layers, bidirectional, batch_first
    run = _whole(torch._VF.gru) if measured is None else _stepped(_gru_step, 1, measured)
    y, h = _sequence(run, input, weights, biases, None if hx is None else (hx,), *layout)
    return y, h


def rnn(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    measured: Codes | None = None,
) -> Pair:
    """As ``nn.RNN``: the sequence of hidden states, and the last ones."""
    layout = num_layers, bidirectional, batch_first
    if measured is None:
        run = _whole(getattr(torch._VF, f"rnn_{nonlinearity}"))
    else:
        run = _stepped(_RNN_STEPS[nonlinearity], 1, measured)
    y, h = _sequence(run, input, weights, biases, None if hx is None else (hx,), *layout)
    return y, h


def lstm_cell(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Pair | None = None,
    *,
    measured: Codes | None = None,
) -> Pair:
    """As ``nn.LSTMCell``: the next hidden and cell state."""
    run = _cell(torch._VF.lstm_cell) if measured is None else _one_step(_lstm_step, measured)
    h, c = _unbatched(run, input, weights, biases, hx, 2)
    return h, c


def gru_cell(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    *,
    measured: Codes | None = None,
) -> Tensor:
    """As ``nn.GRUCell``: the next hidden state."""
    run = _cell(torch._VF.gru_cell) if measured is None else _one_step(_gru_step, measured)
    return _unbatched(run, input, weights, biases, None if hx is None else (hx,), 1)[0]


def rnn_cell(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    hx: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    measured: Codes | None = None,
) -> Tensor:
    """As ``nn.RNNCell``: the next hidden state."""
    if measured is None:
        run = _cell(getattr(torch._VF, f"rnn_{nonlinearity}_cell"))
    else:
        run = _one_step(_RNN_STEPS[nonlinearity], measured)
    return _unbatched(run, input, weights, biases, None if hx is None else (hx,), 1)[0]


# -- batches and directions ------------------------------------------------------------------------
def _sequence(
    run: Callable[..., State],
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    hx: State | None,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> State:
    """``run`` on a batch; without a batch dimension, on a batch of one."""
    batched = input.dim() == 3
    if not batched:
        input, batch_first = input.unsqueeze(1), False
        hx = None if hx is None else tuple(s.unsqueeze(1) for s in hx)
    length, batch, _ = input.transpose(0, 1).shape if batch_first else input.shape
    rows = num_layers * (2 if bidirectional else 1)
    check(length, hx or (), (rows, batch, weights[1].shape[1]))
    y, *last = run(input, weights, biases, hx, num_layers, bidirectional, batch_first)
    return (y, *last) if batched else (y.squeeze(1), *(s.squeeze(1) for s in last))


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


def pairs(parts: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Those of the input and of the hidden state, by layer and direction."""
    return list(zip(parts[::2], parts[1::2], strict=True))


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
    ) -> State:
        if hx is None:
            batch = x.shape[0 if batch_first else 1]
            rows = num_layers * (2 if bidirectional else 1)
            zeros = x.new_zeros(rows, batch, weights[1].shape[1])
            hx = (zeros, zeros) if function is torch._VF.lstm else (zeros,)
        each = [pairs(weights), pairs(biases)] if biases else [pairs(weights)]
        flat = [tensor for both in zip(*each, strict=True) for pair in both for tensor in pair]
        state = hx if function is torch._VF.lstm else hx[0]
        flags = bool(biases), num_layers, 0.0, False, bidirectional, batch_first
        return function(x, state, flat, *flags)

    return run


def _cell(function: Callable[..., Any]) -> Callable[..., State]:
    """PyTorch's own cells."""

    def run(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], hx: State) -> State:
        state = hx if len(hx) == 2 else hx[0]
        made = function(x, state, *weights, *(biases or (None, None)))
        return made if len(hx) == 2 else (made,)

    return run


# -- with measured activations ---------------------------------------------------------------------
def rounded(input: Tensor, codes: Codes) -> Tensor:
    """What the codes of ``input`` stand for, its range being measured."""
    dtype, low, high, symmetric = codes
    bounds: dict[str, Any] = {"dtype": dtype, "quant_min": low, "quant_max": high}
    qparams = ops.dynamic_qparams(input, symmetric=symmetric, **bounds)
    return ops.dequantize(ops.quantize(input, *qparams, **bounds), *qparams)


def _stepped(step: Step, states: int, codes: Codes) -> Callable[..., State]:
    """A layer at a time, a step at a time, both directions at once."""

    def run(
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        hx: State | None,
        num_layers: int,
        bidirectional: bool,
        batch_first: bool,
    ) -> State:
        x = x.transpose(0, 1) if batch_first else x
        ways = 2 if bidirectional else 1
        if hx is None:
            shape = (num_layers * ways, x.shape[1], weights[1].shape[1])
            hx = (x.new_zeros(shape),) * states
        last = []
        for layer in range(num_layers):
            own = slice(layer * ways, (layer + 1) * ways)
            x = rounded(x, codes) if layer else x
            parts = pairs(weights)[own], pairs(biases)[own]
            x, final = _layer(step, x, *parts, tuple(s[own] for s in hx), codes)
            last.append(final)
        y = x.transpose(0, 1) if batch_first else x
        return (y, *(torch.cat(each) for each in zip(*last, strict=True)))

    return run


def _layer(
    step: Step,
    x: Tensor,
    weights: Sequence[Pair],
    biases: Sequence[Pair],
    state: State,
    codes: Codes,
) -> tuple[Tensor, State]:
    """One layer on (length, batch, features); states are (directions, batch, hidden)."""
    of_input, recurrent = (torch.stack(w) for w in zip(*weights, strict=True))
    ways = torch.stack([x, x.flip(0)]) if len(weights) == 2 else x.unsqueeze(0)
    projected = torch.einsum("dtbi,dgi->tdbg", ways, of_input)
    offset: Tensor | float = 0.0
    if biases:
        first, second = (torch.stack(b).unsqueeze(1) for b in zip(*biases, strict=True))
        projected, offset = projected + first, second
    hidden = []
    for row in projected:
        state = step(row, rounded(state[0], codes) @ recurrent.mT + offset, state)
        hidden.append(state[0])
    y = torch.stack(hidden, 1)
    return torch.cat([y[0], *(each.flip(0) for each in y[1:])], -1), state


def _one_step(step: Step, codes: Codes) -> Callable[..., State]:
    """A cell."""

    def run(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], hx: State) -> State:
        parts = pairs(weights), pairs(biases)
        state = tuple(s.unsqueeze(0) for s in hx)
        _, last = _layer(step, x.unsqueeze(0), *parts, state, codes)
        return tuple(s.squeeze(0) for s in last)

    return run


def _lstm_step(x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_step(x: Tensor, h: Tensor, state: State) -> State:
    (rx, zx, nx), (rh, zh, nh) = x.chunk(3, -1), h.chunk(3, -1)
    n = (nx + (rx + rh).sigmoid() * nh).tanh()
    return (n + (zx + zh).sigmoid() * (state[0] - n),)


_RNN_STEPS: dict[str, Step] = {
    "tanh": lambda x, h, state: ((x + h).tanh(),),
    "relu": lambda x, h, state: ((x + h).relu(),),
}
