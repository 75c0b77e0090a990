"""Recurrent layers on oneDNN's linear kernel, plain tensors only.

    gates     = x_codes W_ih + b                       the whole sequence, one call a direction
    gates[t] += h_codes W_hh                           a call a step
    h, c      = cell(gates[t], h, c)                   both directions in the same calls

The reverse direction reads the sequence backwards, so step t is the same place for both. Biases
are added with the input's part; of a GRU, that of the new gate with the hidden part, where the
reset gate multiplies it. A step is some 15 calls of 1-20 us (the kernel: 20 us at least), which is
all of the time below some hundred hidden units, where float layers are faster. So gates lie where
as few calls as possible do: those of an LSTM are packed as i, f, o, g.

Two directions are multiplied in one call for small batches: the hidden states of both by the
weights of both, of which the products of one with the other's are thrown away. The weights are read
once all the same, and reading them is what takes the time; at batch 32 it does not pay any more,
nor on CPUs without VNNI. There every product is a 1x1 convolution
(:mod:`~qfx.backends.onednn.as_convolutions`), which takes a quarter of the time for one row, and
that of two directions a convolution of two groups, which throws nothing away: its pixels are the
sequences of a batch, so that states and gates of both directions lie side by side.

Where no initial state is given, it is zero, and so is its product in the first step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qfx.backends.onednn.arguments import Linear, LinearAdd
from qfx.backends.onednn.as_convolutions import (
    POINTWISE,
    add_in_place,
    is_convolution,
    multiply,
    widths,
)
from qfx.backends.onednn.cells import CELLS, State
from qfx.backends.onednn.dynamic import quantize_dynamic
from qfx.errors import ConfigError
from qfx.quant.qparams import choose_numbers
from qfx.semantics.recurrent import check
from qfx.semantics.recurrent_steps import reversed_rows

_FLOAT = (1.0, 0, torch.float32)
_PLAIN: tuple[Any, ...] = ("none", [], "")
_IN_PLACE = (*_FLOAT, 1.0, 0, "sum", 1.0, *_PLAIN)

PARTS = 7
"""Tensors of a layer and direction: packed W_ih, its scales, the bias of the gates, packed W_hh (or
that of both directions), its scales, the bias of a GRU's new gate, zero points."""

CodeBounds: TypeAlias = "tuple[int, int, bool]"
"""Smallest and largest code, symmetric: how hidden states are measured."""


def _layer(
    kind: str,
    x: tuple[Tensor, float, int],
    parts: Sequence[Sequence[Tensor]],
    hx: State | None,
    codes: CodeBounds,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer on codes (length, batch, features) with their scale and zero point."""
    hidden, last = _steps(kind, _project(x, parts), parts, hx, codes)
    if len(parts) == 1:
        return hidden.squeeze(1), last
    return torch.cat([hidden[:, 0], hidden[:, 1].flip(0)], -1), last


def _steps(
    kind: str, gates: Tensor, parts: Sequence[Sequence[Tensor]], hx: State | None, codes: CodeBounds
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All hidden states (length, directions, batch, hidden), and the final states."""
    if _is_grouped(gates, parts):
        gates, hx = _beside(gates), hx and [_beside(state) for state in hx]
    cell = CELLS[kind](gates, hx, _new_bias(parts))
    add = _adder(gates, parts, codes)
    for t in range(gates.shape[0]):
        if cell.h is not None and cell.h.numel():
            add(t, cell.h)
        cell.step(t)
    return cell.hidden, cell.last()


def _packed_layer(
    kind: str,
    x: tuple[Tensor, float, int],
    parts: Sequence[Sequence[Tensor]],
    hx: State | None,
    codes: CodeBounds,
    sizes: Sequence[int],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As :func:`_layer`, on the rows (N, features) of packed sequences, ``sizes`` of each step.

    Steps with as many rows as each other are those of a layer on a smaller batch.
    """
    backwards = reversed_rows(sizes, x[0].device)
    rows, scale, zero_point = x
    projected = [
        _product(rows[backwards] if way else rows, scale, zero_point, _of_input(part), part[2])
        for way, part in enumerate(parts)
    ]
    made, state, last, first = [], hx, None, 0
    for size, steps in itertools.groupby(sizes):
        count = len(list(steps))
        taken = slice(first, first + count * size)
        gates = torch.stack([y[taken].view(count, size, y.shape[-1]) for y in projected], 1)
        hidden, state = _steps(kind, gates, parts, state and _first(state, size), codes)
        made.append(hidden.transpose(0, 1).flatten(1, 2))
        last = tuple(each.clone() for each in state) if last is None else last
        for whole, part in zip(last, state, strict=True):
            whole[:, :size] = part
        first = taken.stop
    assert last is not None
    y = torch.cat(made, 1)
    return torch.cat([y[0], *(each[backwards] for each in y[1:])], -1), last


def _first(state: State, size: int) -> State:
    """The states of the sequences that go on."""
    return [each[:, :size].contiguous() for each in state]


Weight: TypeAlias = "tuple[Tensor, Tensor, Tensor]"
"""Packed, its scales and zero points."""

Adder: TypeAlias = "Callable[[int, Tensor], None]"
"""Adds the hidden part of step t, given the hidden states (directions, batch, hidden)."""


def _is_joint(parts: Sequence[Sequence[Tensor]]) -> bool:
    """Whether the weights of both directions are packed as one."""
    return widths(parts[0][0])[1] != widths(parts[0][3])[1]


_FEW_GATES = 1 << 15
"""So many gates of a step a convolution adds faster than a call besides: it copies what it adds."""


def _is_grouped(gates: Tensor, parts: Sequence[Sequence[Tensor]]) -> bool:
    """Whether one convolution adds to all directions, each of which is a group of it."""
    if not is_convolution(parts[0][3]):
        return False
    _, ways, batch, width = gates.shape
    return batch * width <= _FEW_GATES if ways == 1 else _is_joint(parts)


def _beside(values: Tensor) -> Tensor:
    """(..., directions, batch, n), those of a sequence side by side in memory."""
    return values.transpose(-3, -2).contiguous().transpose(-3, -2)


def _adder(gates: Tensor, parts: Sequence[Sequence[Tensor]], codes: CodeBounds) -> Adder:
    """What adds to ``gates`` with weights packed by direction, or with those of both as one."""
    if not gates.numel():
        return lambda t, h: None
    if _is_grouped(gates, parts):
        return _grouped_adder(gates, parts[0], codes)
    if _is_joint(parts):
        return _joint_adder(gates, parts[0], codes)
    return _separate_adder(gates, parts, codes)


def _grouped_adder(gates: Tensor, part: Sequence[Tensor], codes: CodeBounds) -> Adder:
    """As few calls as possible: weights push the interpreter out of the cache in every step."""
    _, ways, batch, width = gates.shape
    images = gates.transpose(1, 2).view(-1, 1, 1, batch, ways * width)
    steps = images.permute(0, 1, 4, 2, 3).unbind(0)
    weight, tail = (part[3], part[4], part[6]), (None, *POINTWISE._replace(groups=ways), *_IN_PLACE)
    inputs, outputs = widths(part[3])
    if outputs != ways * width:
        raise ConfigError(  # the kernel would write beyond the gates
            f"a recurrent layer has {width} gates of its input and {outputs // ways} of its hidden "
            "states; give both the same number"
        )
    pixel = ways * inputs
    size, strides = (1, pixel, 1, batch), (pixel * batch, 1, pixel * batch, pixel)
    convolve = torch.ops.onednn.qconv2d_pointwise.binary

    def add(t: int, h: Tensor) -> None:
        image = h.as_strided(size, strides)
        convolve(*_measured(image, codes), *weight, steps[t], *tail)

    return add


def _joint_adder(gates: Tensor, part: Sequence[Tensor], codes: CodeBounds) -> Adder:
    packed, steps = (part[3], part[4], part[6]), gates.unbind(0)
    _, ways, batch, width = gates.shape
    # Row (direction, batch) of the product, and of it the columns of that direction:
    size, strides = (ways, batch, width), ((batch * ways + 1) * width, ways * width, 1)

    def add(t: int, h: Tensor) -> None:
        read, scale, zero_point = _measured(h, codes)
        y = _product(read.flatten(0, 1), scale, zero_point, packed)
        steps[t].add_(y.as_strided(size, strides))

    return add


def _separate_adder(gates: Tensor, parts: Sequence[Sequence[Tensor]], codes: CodeBounds) -> Adder:
    packed = [(p[3], p[4], p[6]) for p in parts]
    rows = [step.unbind(0) for step in gates.unbind(0)]

    def add(t: int, h: Tensor) -> None:
        read, scale, zero_point = _measured(h, codes)
        for own, each, row in zip(packed, read.unbind(0), rows[t], strict=True):
            add_in_place(LinearAdd(each, scale, zero_point, *own, row, None, *_IN_PLACE))

    return add


def _measured(h: Tensor, codes: CodeBounds) -> tuple[Tensor, float, int]:
    """:func:`~qfx.backends.onednn.dynamic.quantize_dynamic` in as few calls as possible.

    The scale is that of the largest value, so nothing is to be clamped where codes are rounded a
    little less than a half up: they end below ``high + 1``, and are cut off. That errs by 0.001
    steps more than rounding does.
    """
    least, most = torch.aminmax(h)
    low, high, symmetric = codes
    scale, zero_point = choose_numbers(least.item(), most.item(), low, high, symmetric=symmetric)
    shifted = torch.rsub(h, zero_point + _LESS_THAN_HALF, alpha=-1.0 / scale)
    return shifted.to(torch.uint8), scale, zero_point


_LESS_THAN_HALF = 0.499


def _of_input(part: Sequence[Tensor]) -> Weight:
    return part[0], part[1], part[6]


def _product(
    x: Tensor, scale: float, zero_point: int, weight: Weight, bias: Tensor | None = None
) -> Tensor:
    if not x.numel():
        return x.new_zeros((*x.shape[:-1], widths(weight[0])[1]), dtype=torch.float32)
    return multiply(Linear(x, scale, zero_point, *weight, bias, *_FLOAT, *_PLAIN))


def _project(x: tuple[Tensor, float, int], parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """The input's part of the gates: (length, directions, batch, gates)."""
    codes, scale, zero_point = x
    made = []
    for way, part in enumerate(parts):
        read, bias = codes.flip(0) if way else codes, part[2]
        y = _product(read, scale, zero_point, _of_input(part), bias)
        made.append(y.reshape(*codes.shape[:2], bias.numel()))  # an empty batch loses a dimension
    return made[0].unsqueeze(1) if len(made) == 1 else torch.stack(made, 1)


def _new_bias(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """The bias of the hidden part of a GRU's new gate: (directions, 1, hidden)."""
    return torch.stack([p[5] for p in parts]).unsqueeze(1)


@torch.no_grad()
def run_layers(
    x: Tensor,
    scale: float,
    zero_point: int,
    parts: Sequence[Tensor],
    hx: State,
    kind: str,
    num_layers: int,
    low: int,
    high: int,
    symmetric: bool,
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """All layers on codes (length, batch, features), or on the rows of packed sequences.

    Args:
        x: uint8.
        scale: of ``x``.
        zero_point: of ``x``.
        parts: :data:`PARTS` tensors of each layer and direction in turn.
        hx: initial states, (layers * directions, batch, hidden) each; none if they are zero.
        kind: "lstm", "gru", "tanh", "relu".
        num_layers: number of layers.
        low: smallest code of what is measured.
        high: largest code.
        symmetric: whether the zero point is the middle code.
        sizes: how many rows each step of packed sequences has.

    Returns:
        The sequence (length, batch, directions * hidden), and the final states.
    """
    codes = low, high, symmetric
    length, batch = x.shape[:2] if sizes is None else (len(sizes), sizes[0])
    rows = len(parts) // PARTS, batch, widths(parts[3])[0]
    check(length, hx, rows)  # a kernel would read and write beyond them
    layer = _layer if sizes is None else partial(_packed_layer, sizes=sizes)
    each = [parts[i : i + PARTS] for i in range(0, len(parts), PARTS)]
    ways = len(each) // num_layers
    y, last = x, []
    for first in range(0, len(each), ways):
        own = slice(first, first + ways)
        source = quantize_dynamic(y, *codes) if first else (x, scale, zero_point)
        y, final = layer(kind, source, each[own], [s[own] for s in hx] or None, codes)
        last.append(final)
    return (y, *(torch.cat(states) for states in zip(*last, strict=True)))
