"""How recurrent layers are written for x86: their packed parts, and one call a module.

Integer kernels cost a fixed time a step, from Python; torch's own layers don't. So layers of few
hidden units keep their weights in integers and make them float in front of the float layer: reason
``slow-kernel``. (Cells are called step by step either way.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.backends.onednn import as_convolutions, kernels, packing, recurrent_calls
from qfx.backends.onednn.operands import input_of
from qfx.backends.onednn.saturation import saturates
from qfx.backends.stored_weights.recurrent import mark_restored
from qfx.graph import meta
from qfx.quant.reasons import refusal
from qfx.quant.reference_form import QuantizedWeight
from qfx.semantics.recurrent_steps import pairs

FEWEST_UNITS = 256
_FLOAT = "nothing to do if size is what counts; for speed, leave it float"
"""Below so many hidden units float over restored weights is faster (``benchmarks.recurrent``)."""

JOINT_BATCH = 8
"""Largest batch of the example inputs for which the directions of a layer are packed as one.

Where sums of products saturate, the CPU has no instruction for them, and the products that are
thrown away take longer than reading the weights twice (2 x 1024 x 8192: 15.6 ms against 3.1 ms).
There a convolution of two groups multiplies both, as long as :data:`GROUPED_PRODUCTS` says.
"""

GROUPED_PRODUCTS = 1 << 22
"""Most products of a step and direction for which a convolution of two groups pays.

Microseconds of two convolutions / of one of two groups, LSTM, on one core of a Zen 3 (AVX2):

    units      batch 1      4            8            16           32
    256        274 / 117    279 / 146    312 / 193    376 / 290    478 / 453
    512        318 / 171    376 / 295    450 / 499    672 / 864
    1024       573 / 443    1017 / 1329
"""

_GROUP_UNIT = 8
"""What inputs and outputs of a group are multiples of, or the kernel is oneDNN's slowest."""

_KINDS = {
    **dict.fromkeys((vocab.LSTM, vocab.LSTM_CELL), "lstm"),
    **dict.fromkeys((vocab.GRU, vocab.GRU_CELL), "gru"),
}


def layer(op: vocab.OpDef) -> Emit:
    """Emits the call of a recurrent layer or cell."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node:
        if op in vocab.SEQUENCES and _hidden_units(site) < FEWEST_UNITS:
            return _in_float(em, site)
        codes, x = input_of(site)
        kind = _KINDS.get(op) or str(site.arguments["nonlinearity"])
        parts = tuple(_parts(em, site, kind))
        measured: Any = site.arguments["measured"]
        head = codes, x.scale, x.zero_point, parts, site.arguments["hx"]
        if op in vocab.CELLS:
            return _call(em, site, recurrent_calls.cell, *head, kind, *measured[1:])
        layout = kind, site.arguments["num_layers"], site.arguments["batch_first"]
        packed = site.arguments["packed"]
        return _call(em, site, recurrent_calls.sequence, *head, packed, *layout, *measured[1:])

    return emit


def _hidden_units(site: LoweringSite) -> int:
    return int(site.weights[1].integers.shape[1])


def _in_float(em: Emitter, site: LoweringSite) -> fx.Node:
    """The float layer on the float value, over weights that are made float when it runs."""
    node, op = site.node, site.node.target
    assert isinstance(op, vocab.OpDef)
    quantized = input_of(site)[0].args[0]
    assert isinstance(quantized, fx.Node)
    kwargs = {name: value for name, value in node.kwargs.items() if name != "measured"}
    weights = tuple(_restored(em, weight) for weight in node.args[1])  # type: ignore[union-attr]
    y = _call(em, site, op, quantized.args[0], weights, *node.args[2:], **kwargs)
    detail = f"below {FEWEST_UNITS} hidden units float is faster than a kernel call a step"
    told = f"its weight is kept in int8 and made float in front of {op.name}: {detail}"
    why = refusal("slow-kernel", detail=told, remedy=_FLOAT)
    mark_restored(y, "int8", why)
    return y


def _restored(em: Emitter, weight: Any) -> fx.Node:
    """``weight``, a DEQUANTIZE of the reference form, without zero points: they are zero."""
    kernel, value = kernels.dequantize_rows, meta.value_of(weight)
    return em.rw.call(kernel, *weight.args[:2], origins=(weight,), value=value)


def _call(
    em: Emitter, site: LoweringSite, kernel: Callable[..., object], *args: object, **kwargs: object
) -> fx.Node:
    value = meta.value_of(site.node)
    return em.rw.call(kernel, *args, origins=(site.node,), value=value, **kwargs)


def _parts(em: Emitter, site: LoweringSite, kind: str) -> Iterator[fx.Node]:
    """The :data:`~qfx.backends.onednn.recurrent.PARTS` of each layer and direction."""
    biases: Any = site.arguments["biases"]
    weights = pairs(site.weights)
    of_direction: list[tuple[fx.Node, ...]] = [*pairs(biases)] or [()] * len(weights)
    ways = 2 if _is_joint(site) else 1
    for i, ((of_input, _), nodes) in enumerate(zip(weights, of_direction, strict=True)):
        names = tuple(str(node.target) for node in nodes)
        tensors = [em.rw.tensor(node) for node in nodes]
        bias, new = _biases(kind, tensors, of_input.integers.shape[0])
        key = ("recurrent", kind, of_input.name, *names)
        first = i - i % ways
        yield from _weight(em, kind, [of_input], _rows(site))
        yield em.packed((*key, "bias"), _constant(_ordered(kind, bias)))
        yield from _weight(em, kind, [w for _, w in weights[first : first + ways]], ways)
        yield em.packed((*key, "new"), _constant(new))
        yield em.packed(("recurrent", "zeros"), _constant(torch.zeros(1, dtype=torch.int8)))


def _rows(site: LoweringSite) -> int:
    """How many inputs there are in the whole sequence."""
    info = meta.tensor_info(input_of(site)[0])
    assert info is not None
    return prod(info.shape[:-1])


def _is_joint(site: LoweringSite) -> bool:
    """Whether both directions are packed as one."""
    if not site.arguments.get("bidirectional"):  # cells never are
        return False
    batch = _batch(site)
    if not saturates():
        return batch <= JOINT_BATCH
    weight = site.weights[1].integers
    return batch * weight.numel() <= GROUPED_PRODUCTS and weight.shape[1] % _GROUP_UNIT == 0


def _batch(site: LoweringSite) -> float:
    """How many sequences there are in a step, on average."""
    info = meta.tensor_info(input_of(site)[0])
    assert info is not None
    packed: Any = site.arguments["packed"]
    if packed is not None:
        steps = meta.tensor_info(packed[0])
        assert steps is not None
        return info.shape[0] / max(1, steps.numel)
    if len(info.shape) == 2:
        return 1
    return info.shape[0 if site.arguments["batch_first"] else 1]


def _constant(value: Tensor) -> Callable[[], object]:
    return lambda: value


def _weight(em: Emitter, kind: str, weights: list[QuantizedWeight], rows: int) -> Iterator[fx.Node]:
    """Weights packed as one for so many rows, and their scales."""

    def packed() -> object:
        integers = torch.cat([_ordered(kind, w.integers) for w in weights])
        if len(weights) > 1 and saturates():
            return packing.pack_as_convolution([integers], rows, shifted=True, groups=len(weights))
        return as_convolutions.pack([integers], [rows, integers.shape[1]], None)

    key = ("recurrent", kind, *(w.name for w in weights))
    yield em.packed(key, packed)
    yield em.packed((*key, "scales"), _constant(torch.cat([_scales(kind, w) for w in weights])))


def _scales(kind: str, weight: QuantizedWeight) -> Tensor:
    """One scale per row, in the order of :func:`_ordered`."""
    scales = torch.as_tensor(weight.qparams.scale, dtype=torch.float32).reshape(-1)
    return _ordered(kind, scales.expand(weight.integers.shape[0]))


def _ordered(kind: str, rows: Tensor) -> Tensor:
    """The gates of an LSTM as i, f, o, g: what takes the same function side by side."""
    if kind != "lstm":
        return rows
    i, f, g, o = rows.chunk(4)
    return torch.cat([i, f, o, g])


def _biases(kind: str, tensors: list[Tensor], gates: int) -> tuple[Tensor, Tensor]:
    """The bias added with the input's part, and that of the hidden part of a GRU's new gate."""
    if not tensors:
        return _zeros(gates), _zeros(gates // 3 if kind == "gru" else 0)
    of_input, of_hidden = (t.detach() for t in tensors)
    if kind != "gru":
        return of_input + of_hidden, _zeros(0)
    r, z, n = of_hidden.chunk(3)
    return of_input + torch.cat([r, z, torch.zeros_like(n)]), n.clone()


def _zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float32)
