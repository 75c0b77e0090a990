"""Whether the numbers of the reference form are ones: what quantizes, restores and is stored.

    0 < scale < inf      quant_min <= zero_point <= quant_max within the dtype      (C,) or (C, G)

Kernels read these numbers as they are: some divide by a scale, some take a zero point for zero, and
some read as many scales as there are channels. So it is here that a graph is held to them, whoever
made it: conversion, a pass of the user's, or a file.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from qfx import vocab
from qfx.errors import ConfigError, VerifyError
from qfx.framework.level_checks import fault
from qfx.graph import meta
from qfx.quant.annotation import Annotation, annotation
from qfx.quant.qparams import QParams, lie_within
from qfx.quant.reference_form import Measured, qparams_of
from qfx.quant.spec import QuantSpec
from qfx.semantics.affine import code_bounds, middle_code
from qfx.vocab import OpDef, bound, is_op

_HALF_BYTES = (torch.int8, torch.uint8)


def check_codes(graph_module: fx.GraphModule) -> None:
    """Qparams are numbers that codes can have, as many as there are channels.

    What layers are to read in few bits is stored as they are told it is.
    """
    stored: dict[fx.Node, QParams | Measured] = {}
    for node in graph_module.graph.nodes:
        if is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE):
            stored[node] = _check_affine(node, graph_module)
        elif is_op(node, vocab.DYNAMIC_QPARAMS):
            _check_bounds(node, bound(node))
        elif is_op(node, vocab.UNPACK):
            _check_unpack(node)
        elif is_op(node, vocab.WIDEN):
            _check_like(node, node.args[0])
        note = annotation(node)
        if note is not None and note.decision.quantized and isinstance(node.target, OpDef):
            _check_layer(node, note, stored)


# -- quantize and dequantize ---------------------------------------------------------------------
def _check_affine(node: fx.Node, owner: fx.GraphModule) -> QParams | Measured:
    named = bound(node)
    codes = named["input"]
    if not isinstance(codes, fx.Node):
        raise fault(node, "reads a number where a tensor should stand")
    _check_like(node, codes)
    for name in ("axis", "group_size"):
        if not (named[name] is None or type(named[name]) is int):
            raise fault(node, f"has {name}={named[name]!r}, which is no integer")
    if is_op(node, vocab.QUANTIZE):
        _check_bounds(node, named)
    elif not _is_float(named["dtype"]):
        raise fault(node, f"restores to {named['dtype']}, which is no dtype of floats")
    _check_number(node, "scale", named["scale"], (int, float))
    _check_number(node, "zero_point", named["zero_point"], (int,))
    try:
        qparams = qparams_of(node, owner, named)
    except (ConfigError, VerifyError, TypeError) as error:
        raise fault(node, f"has qparams that are none: {error}") from None
    if isinstance(qparams, Measured):
        _check_measured(node, named)
    else:
        _check_lengths(node, qparams, codes)
    return qparams


def _check_number(node: fx.Node, name: str, number: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(number, fx.Node) and type(number) not in kinds:
        raise fault(node, f"has {name}={number!r}, which is no number")


def _check_measured(node: fx.Node, named: dict[str, Any]) -> None:
    """Both numbers come of one measurement, as they are."""
    for i, name in enumerate(("scale", "zero_point")):
        part = named[name]
        if not isinstance(part, fx.Node) or not is_op(part, vocab.GETITEM):
            raise fault(node, f"has a {name} that is computed, and not by a measurement")
        whole = part.args[0]
        measures = isinstance(whole, fx.Node) and is_op(whole, vocab.DYNAMIC_QPARAMS)
        if not measures or part.args[1] != i:
            raise fault(node, f"has a {name} that is computed, and not by a measurement")
    if named["scale"].args[0] is not named["zero_point"].args[0]:
        raise fault(node, "has a scale and a zero point of two measurements")


def _check_bounds(node: fx.Node, named: dict[str, Any]) -> None:
    dtype, ends = named["dtype"], (named["quant_min"], named["quant_max"])
    if not _is_integer(dtype):
        raise fault(node, f"rounds to {dtype}, which is no dtype of codes")
    if not all(end is None or type(end) is int for end in ends):
        raise fault(node, f"rounds to codes from {ends[0]!r} to {ends[1]!r}, which are no integers")
    info, (low, high) = torch.iinfo(dtype), code_bounds(dtype, *ends)
    if not info.min <= low < high <= info.max:
        raise fault(node, f"rounds to codes from {low} to {high}, which are no range of {dtype}")


def _is_float(dtype: object) -> bool:
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _is_integer(dtype: object) -> bool:
    floats = isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)
    return isinstance(dtype, torch.dtype) and not floats and dtype is not torch.bool


def _check_lengths(node: fx.Node, qparams: QParams, codes: fx.Node) -> None:
    """As many scales as channels, or as groups of them."""
    axis, info = qparams.axis, meta.tensor_info(codes)
    if axis is None:
        return
    if info is None:
        raise fault(node, f"has scales along axis={axis} of %{codes.name}, of no shape on record")
    if not -len(info.shape) <= axis < len(info.shape):
        raise fault(node, f"has axis={axis}, and reads a tensor of shape {list(info.shape)}")
    assert isinstance(qparams.scale, torch.Tensor)
    channels, size = info.shape[axis], qparams.group_size
    each = prod(info.shape) // max(channels, 1)
    if size is not None and (size < 1 or each % size):
        raise fault(node, f"has groups of {size} values, and channels of {each}")
    wanted = (channels,) if size is None else (channels, each // size)
    if tuple(qparams.scale.shape) != wanted:
        raise fault(
            node, f"has scales of shape {list(qparams.scale.shape)} where {list(wanted)} are read"
        )


def _check_like(node: fx.Node, operand: object) -> None:
    """What is told of a node has the shape of what it reads."""
    ours = meta.tensor_info(node)
    theirs = meta.tensor_info(operand) if isinstance(operand, fx.Node) else None
    if ours is not None and theirs is not None and ours.shape != theirs.shape:
        raise fault(node, f"is told to be {list(ours.shape)}, and reads {list(theirs.shape)}")


def _check_unpack(node: fx.Node) -> None:
    named, told = bound(node), meta.tensor_info(node)
    columns = named["columns"]
    if named["dtype"] not in _HALF_BYTES or not (columns is None or type(columns) is int):
        raise fault(node, f"unpacks {columns!r} columns of {named['dtype']}")
    stored = meta.tensor_info(named["input"]) if isinstance(named["input"], fx.Node) else None
    if stored is None or len(stored.shape) != 2 or stored.dtype != torch.uint8:
        raise fault(node, "unpacks something that is no matrix of bytes")
    rows, count = stored.shape
    if columns is not None and columns not in (2 * count, 2 * count - 1):
        raise fault(node, f"unpacks {columns} columns, two of each of {count} bytes")
    wanted = (rows, 2 * count if columns is None else columns)
    if told is not None and tuple(told.shape) != wanted:
        raise fault(node, f"is told to be {list(told.shape)}, and unpacks to {list(wanted)}")


# -- layers --------------------------------------------------------------------------------------
def _check_layer(
    layer: fx.Node, note: Annotation, stored: dict[fx.Node, QParams | Measured]
) -> None:
    """The weights and the bias of a layer are what it was told to read."""
    named = bound(layer)
    if note.weight is None:
        return
    given = named["weights"] if "weights" in named else (named.get("weight"),)
    weights = [weight for weight in given if isinstance(weight, fx.Node)]
    for weight in weights:
        qparams = stored.get(weight)
        if qparams is not None:
            _check_weight(layer, weight, note.weight, qparams)
    if isinstance(layer.target, OpDef) and layer.target.layer and weights:
        _check_bias(layer, weights[0], named)


def _check_weight(
    layer: fx.Node, weight: fx.Node, spec: QuantSpec, qparams: QParams | Measured
) -> None:
    """Kernels were chosen by the spec: they take the zero points of a symmetric one for zero."""
    if isinstance(qparams, Measured):
        raise fault(layer, f"has the weight %{weight.name}, whose qparams are measured")
    low, high = spec.bounds
    if qparams.dtype != spec.dtype:
        raise fault(layer, f"has the weight %{weight.name} in {qparams.dtype}, not {spec.dtype}")
    if (qparams.axis is None) is spec.per_channel or qparams.group_size != spec.group_size:
        raise fault(layer, f"has the weight %{weight.name}, whose scales are not of {spec}")
    if spec.symmetric:
        zero, middle = torch.as_tensor(qparams.zero_point), middle_code(low, high)
        if not lie_within(zero, middle, middle):
            raise fault(layer, f"has the weight %{weight.name}, whose zero points are not 0")


def _check_bias(layer: fx.Node, weight: fx.Node, named: dict[str, Any]) -> None:
    bias, of_weight = named.get("bias"), meta.tensor_info(weight)
    of_bias = meta.tensor_info(bias) if isinstance(bias, fx.Node) else None
    if of_bias is None or of_weight is None:
        return
    assert isinstance(layer.target, OpDef)
    transposed = layer.target.transposed
    outputs = of_weight.shape[1] * named["groups"] if transposed else of_weight.shape[0]
    if of_bias.numel not in (1, outputs):
        raise fault(layer, f"has a bias of shape {list(of_bias.shape)} for {outputs} outputs")
