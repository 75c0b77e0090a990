"""Recurrent layers with measured activations, step by step: the reference form.

What multiplies weights is rounded to codes whose range is measured when it runs: the input of a
layer all at once (of the first layer, outside: it is an operand), the hidden state before every
step, over the batch and both directions. Cell states and gates stay float.

Sequences of different lengths are packed as PyTorch packs them: the rows of a step follow those of
the step before, the longest sequence first, so that fewer rows are left with every one that ends.
Reading it backwards, a sequence begins at its own end, and step t has the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qfx.semantics import affine as ops

MeasuredCodes: TypeAlias = "tuple[torch.dtype, int, int, bool]"
"""How a value is quantized when it is measured: dtype, smallest and largest code, symmetric."""

State: TypeAlias = "tuple[Tensor, ...]"
TensorPair: TypeAlias = "tuple[Tensor, Tensor]"
CellStep: TypeAlias = "Callable[[Tensor, Tensor, State], State]"


def pairs(parts: Sequence[object]) -> list[tuple[Any, Any]]:
    """Those of the input and of the hidden state, by layer and direction."""
    return list(zip(parts[::2], parts[1::2], strict=True))


def rounded(input: Tensor, codes: MeasuredCodes) -> Tensor:
    """What the codes of ``input`` stand for, its range being measured."""
    dtype, low, high, symmetric = codes
    bounds: dict[str, Any] = {"dtype": dtype, "quant_min": low, "quant_max": high}
    qparams = ops.dynamic_qparams(input, symmetric=symmetric, **bounds)
    return ops.dequantize(ops.quantize(input, *qparams, **bounds), *qparams)


def stepped(step: CellStep, states: int, codes: MeasuredCodes) -> Callable[..., State]:
    """A layer at a time, a step at a time, both directions at once."""

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
        x = x.transpose(0, 1) if batch_first else x
        ways = 2 if bidirectional else 1
        length = x.shape[:2] if sizes is None else ()
        rows = [x.shape[1]] * x.shape[0] if sizes is None else sizes.tolist()
        x = x.flatten(0, 1) if sizes is None else x
        if hx is None:
            shape = (num_layers * ways, rows[0], weights[1].shape[1])
            hx = (x.new_zeros(shape),) * states
        last = []
        for layer in range(num_layers):
            own = slice(layer * ways, (layer + 1) * ways)
            x = rounded(x, codes) if layer else x
            parts = pairs(weights)[own], pairs(biases)[own]
            x, final = _layer(step, x, *parts, tuple(s[own] for s in hx), codes, rows)
            last.append(final)
        y = x.reshape(*length, x.shape[-1]) if length else x
        y = y.transpose(0, 1) if batch_first else y
        return (y, *(torch.cat(each) for each in zip(*last, strict=True)))

    return run


def _layer(
    step: CellStep,
    x: Tensor,
    weights: Sequence[TensorPair],
    biases: Sequence[TensorPair],
    state: State,
    codes: MeasuredCodes,
    sizes: Sequence[int],
) -> tuple[Tensor, State]:
    """One layer on rows (N, features), ``sizes`` of each step in turn.

    States are (directions, batch, hidden); a sequence that has ended keeps its own.
    """
    of_input, recurrent = (torch.stack(w) for w in zip(*weights, strict=True))
    backwards = reversed_rows(sizes, x.device) if len(weights) == 2 else None
    ways = x.unsqueeze(0) if backwards is None else torch.stack([x, x[backwards]])
    projected = ways @ of_input.mT
    offset: Tensor | float = 0.0
    if biases:
        first, second = (torch.stack(b).unsqueeze(1) for b in zip(*biases, strict=True))
        projected, offset = projected + first, second
    hidden = []
    for row in torch.split(projected, list(sizes), 1):
        going = tuple(s[:, : row.shape[1]] for s in state)
        made = step(row, rounded(going[0], codes) @ recurrent.mT + offset, going)
        ended = (s[:, row.shape[1] :] for s in state)
        state = tuple(torch.cat(both, 1) for both in zip(made, ended, strict=True))
        hidden.append(made[0])
    y = torch.cat(hidden, 1)
    return y[0] if backwards is None else torch.cat([y[0], y[1][backwards]], -1), state


def reversed_rows(sizes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(N,) where each row of packed sequences stands when each sequence is read backwards.

    Args:
        sizes: how many rows each step has, never more than the step before.
        device: of the result.
    """
    if all(size == sizes[0] for size in sizes):  # torch.export can't trace what is below
        return (
            torch.arange(len(sizes) * sizes[0], device=device)
            .view(len(sizes), -1)
            .flip(0)
            .flatten()
        )
    steps = torch.tensor(sizes)
    starts = steps.cumsum(0) - steps
    time = torch.arange(len(sizes)).repeat_interleave(steps)
    place = torch.arange(int(steps.sum())) - starts[time]
    lengths = (steps.unsqueeze(1) > torch.arange(sizes[0])).sum(0)
    return (starts[lengths[place] - 1 - time] + place).to(device)


def one_step(step: CellStep, codes: MeasuredCodes) -> Callable[..., State]:
    """A cell."""

    def run(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], hx: State) -> State:
        parts = pairs(weights), pairs(biases)
        state = tuple(s.unsqueeze(0) for s in hx)
        _, last = _layer(step, x, *parts, state, codes, [x.shape[0]])
        return tuple(s.squeeze(0) for s in last)

    return run


def lstm_step(x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(x: Tensor, h: Tensor, state: State) -> State:
    (rx, zx, nx), (rh, zh, nh) = x.chunk(3, -1), h.chunk(3, -1)
    n = (nx + (rx + rh).sigmoid() * nh).tanh()
    return (n + (zx + zh).sigmoid() * (state[0] - n),)


RNN_STEPS: dict[str, CellStep] = {
    "tanh": lambda x, h, state: ((x + h).tanh(),),
    "relu": lambda x, h, state: ((x + h).relu(),),
}
