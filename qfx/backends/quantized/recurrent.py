"""Recurrent layers of ``torch.ops.quantized``: float in and out, measured and quantized inside.

``quantized_lstm`` and ``quantized_gru`` take cell parameters that are packed once under an engine;
cells are run as sequences of one step, since the kernels made for cells always keep to 7 bits. No
such kernel runs plain RNNs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.rnn import PackedSequence

from qfx import vocab
from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.backends.packing_engine import engine
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized.saturation import reduces
from qfx.graph import meta
from qfx.quant.reference_form import QuantizedWeight
from qfx.semantics.recurrent import Packed, check, in_packed_order
from qfx.semantics.recurrent_steps import pairs

_ops = torch.ops.quantized


def lstm(
    input: Tensor,
    hx: object,
    params: list[Any],
    hidden: int,
    layers: int,
    ways: int,
    first: bool,
    packed: Packed | None = None,
) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
    """``nn.LSTM`` on packed cell parameters, with or without a batch.

    Args:
        input: as the module takes it.
        hx: initial states as the module takes them, or None.
        params: packed parameters of each layer and direction in turn.
        hidden: number of hidden units.
        layers: number of layers.
        ways: number of directions.
        first: ``batch_first`` of the module.
        packed: how ``input`` is packed; see :mod:`qfx.semantics.recurrent`.
    """
    if packed is not None:
        y, h, c = _on_packed(_lstm_rows, input, hx, params, hidden, layers, ways, packed)
        return y, (h, c)
    x, states, batched = _batch(input, hx)
    _check(x, states, layers * ways, hidden, first and batched)
    layout = True, layers, 0.0, False, ways == 2, first and batched
    hx = states or [_zeros(x, layers * ways, hidden, first and batched)] * 2
    made = torch.quantized_lstm(x, hx, params, *layout, dtype=torch.qint8, use_dynamic=True)
    y, h, c = made if batched else (tensor.squeeze(1) for tensor in made)
    return y, (h, c)


def gru(
    input: Tensor,
    hx: object,
    params: list[Any],
    hidden: int,
    layers: int,
    ways: int,
    first: bool,
    packed: Packed | None = None,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """``nn.GRU`` on packed cell parameters, as :func:`lstm`."""
    if packed is not None:
        y, h = _on_packed(_gru_rows, input, hx, params, hidden, layers, ways, packed)
        return y, h
    x, states, batched = _batch(input, hx)
    _check(x, states, layers * ways, hidden, first and batched)
    layout = True, layers, 0.0, False, ways == 2, first and batched
    hx = states or [_zeros(x, layers * ways, hidden, first and batched)]
    made = torch.quantized_gru(x, hx[0], params, *layout)
    y, h = made if batched else (tensor.squeeze(1) for tensor in made)
    return y, h


def _on_packed(
    rows: Callable[..., tuple[Tensor, ...]],
    data: Tensor,
    hx: Any,
    params: list[Any],
    hidden: int,
    layers: int,
    ways: int,
    packed: Packed,
) -> tuple[Any, ...]:
    """A layer on the rows of packed sequences, which the kernels take as PyTorch's own do."""
    sizes = packed[0]

    def run(states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        zeros = data.new_zeros(layers * ways, int(sizes[0]), hidden)
        layout = True, layers, 0.0, False, ways == 2
        return rows(data, sizes, states or (zeros, zeros), params, layout)

    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    return in_packed_order(run, states, packed, layers * ways, hidden)


def _lstm_rows(
    data: Tensor,
    sizes: Tensor,
    hx: tuple[Tensor, ...],
    params: list[Any],
    layout: tuple[object, ...],
) -> tuple[Tensor, ...]:
    options = {"dtype": torch.qint8, "use_dynamic": True}
    y, h, c = torch.quantized_lstm(data, sizes, hx, params, *layout, **options)
    return y, h, c


def _gru_rows(
    data: Tensor,
    sizes: Tensor,
    hx: tuple[Tensor, ...],
    params: list[Any],
    layout: tuple[object, ...],
) -> tuple[Tensor, ...]:
    y, h = torch.quantized_gru(data, sizes, hx[0], params, *layout)
    return y, h


def lstm_cell(input: Tensor, hx: Any, params: list[Any], hidden: int) -> tuple[Tensor, Tensor]:
    """``nn.LSTMCell``: a sequence of one step."""
    states = None if hx is None else tuple(s.unsqueeze(0) for s in hx)
    _, (h, c) = lstm(input.unsqueeze(0), states, params, hidden, 1, 1, False)
    return h.squeeze(0), c.squeeze(0)


def gru_cell(input: Tensor, hx: Any, params: list[Any], hidden: int) -> Tensor:
    """``nn.GRUCell``: a sequence of one step."""
    state = None if hx is None else hx.unsqueeze(0)
    return gru(input.unsqueeze(0), state, params, hidden, 1, 1, False)[1].squeeze(0)


def _batch(input: Tensor, hx: Any) -> tuple[Tensor, list[Tensor], bool]:
    """Input and initial states (none if they are zero) with a batch; whether they had one."""
    states = [] if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)
    if input.dim() == 3:
        return input, states, True
    return input.unsqueeze(1), [s.unsqueeze(1) for s in states], False


def _check(x: Tensor, states: list[Tensor], rows: int, hidden: int, batch_first: bool) -> None:
    """ConfigError for states that don't fit the batch; kernels say little about it."""
    batch, length = x.shape[:2] if batch_first else x.shape[1::-1]
    check(length, states, (rows, batch, hidden))


def _zeros(x: Tensor, rows: int, hidden: int, batch_first: bool) -> Tensor:
    return x.new_zeros(rows, x.shape[0 if batch_first else 1], hidden)


_KERNELS: dict[vocab.OpDef, Callable[..., Any]] = {
    vocab.LSTM: lstm,
    vocab.GRU: gru,
    vocab.LSTM_CELL: lstm_cell,
    vocab.GRU_CELL: gru_cell,
}
OPS = tuple(_KERNELS)
"""The layers that have kernels."""


def layer(op: vocab.OpDef, engine_name: str) -> Emit:
    """Emits the call of a recurrent layer or cell.

    Packed for the engine itself, unlike other dynamic layers: a step has few rows, for which the
    fixed cost of oneDNN's kernels is most of the time, twice that of fbgemm's.
    """

    def emit(em: Emitter, site: LoweringSite) -> fx.Node:
        operand, hx = site.arguments["input"], site.arguments["hx"]
        assert isinstance(operand, fx.Node)
        value = site.inputs[operand][0].args[0]
        layout: tuple[Any, ...] = ()
        if op in vocab.SEQUENCES:
            ways = 2 if site.arguments["bidirectional"] else 1
            layout = (
                *(site.arguments["num_layers"], ways, site.arguments["batch_first"]),
                site.arguments["packed"],
            )
        hidden = site.weights[1].integers.shape[1]
        args = value, hx, list(_packed(em, site, engine_name)), hidden, *layout
        return em.rw.call(_KERNELS[op], *args, origins=(site.node,), value=meta.value_of(site.node))

    return emit


def _packed(em: Emitter, site: LoweringSite, engine_name: str) -> Iterator[fx.Node]:
    """Reads of the packed cell parameters of each layer and direction."""
    nodes: Any = site.arguments["biases"]
    of_cell: list[tuple[fx.Node, ...]] = [*pairs(nodes)] or [()] * (len(site.weights) // 2)
    for weights, read in zip(pairs(site.weights), of_cell, strict=True):
        biases = [em.rw.tensor(node).detach() for node in read]
        names = (*(w.name for w in weights), *(str(node.target) for node in read))
        yield em.packed(("cell", *names), partial(_cell, weights, biases, engine_name))


def _cell(weights: tuple[QuantizedWeight, ...], biases: list[Tensor], engine_name: str) -> object:
    """The packed parameters of one layer and direction."""
    both = biases or [torch.zeros(w.integers.shape[0], dtype=torch.float32) for w in weights]
    with engine(engine_name):
        packed = [
            _ops.linear_prepack(q.quantized_weight(weight), bias)
            for weight, bias in zip(weights, both, strict=True)
        ]
        return _ops.make_quantized_cell_params_dynamic(*packed, *both, reduces(engine_name))
