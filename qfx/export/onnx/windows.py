"""Sizes that follow from those of the inputs: computed from these, instead of asked of a tensor.

    size of a window's results = (size + pads - dilation * (kernel - 1) - 1) // stride + 1

An engine that is asked for the shape of a tensor must keep that tensor, which fuses less. And
OpenVINO (2026.4) takes the shape from the first tensor that has the size, a convolution's, and
then loses the convolution's bias. A batch goes through all layers as it is, so that it is never
asked for: it is the number of all elements by that of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qfx.export.onnx.values import Info, Number

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_LEAST_RANK = 3  # of what convolutions read
_WINDOWS = ("Conv", "ConvInteger", "MaxPool", "AveragePool")
_SUMS = ("Add", "Sub", "Mul", "Div")
_CODES = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Identity")
_NORMS = ("LayerNormalization", "BatchNormalization", "InstanceNormalization")
_LINES = ("Clip", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish")
_CURVES = ("Elu", "Sigmoid", "Tanh", "Gelu", "Mish", "Erf", "Softmax", "LogSoftmax")
_ALIKE = (*_CODES, *_NORMS, *_LINES, *_CURVES)
"""Operators whose result has the shape of their first operand."""


@dataclass(frozen=True)
class _Window:
    """What a convolution or pool makes of a size: ``(size + plus) // stride + 1``."""

    plus: int
    stride: int

    @property
    def keeps(self) -> bool:
        """Whether the size stays as it is."""
        return self.stride == 1 and self.plus == -1


def size_of(w: Writer, value: ir.Value, dim: int) -> Number | None:
    """A size of a tensor, computed from those of the inputs; None if it does not follow."""
    steps: list[tuple[tuple[int, int], _Window]] = []
    at: ir.Value | None = value
    while at is not None and at.producer() is not None and (id(at), dim) not in w.sizes:
        window = _window(w, at, dim)
        if window is not None and not window.keeps:
            steps.append(((id(at), dim), window))
        at, dim = _before(w, at, dim)
    if at is None:
        return None
    found = w.sizes.get((id(at), dim))
    if found is None:
        found = asked(w, at, dim)
        w.sizes[id(at), dim] = found
    for key, window in reversed(steps):
        found = _through(w, found, window)
        w.sizes[key] = found
    return found


def asked(w: Writer, value: ir.Value, dim: int) -> Number:
    """A size that only a tensor itself can tell."""
    info = _info(w, value)
    if dim != 0 or info is None or info.rank < _LEAST_RANK:
        return Number(w.op("Shape", value, start=dim, end=dim + 1), int)
    known = [size for size in info.shape[1:] if isinstance(size, int)]
    if len(known) == info.rank - 1:
        each = w.vector([max(math.prod(known), 1)])
    else:
        others = w.op("ReduceProd", w.op("Shape", value, start=1), w.vector([0]), keepdims=1)
        each = w.op("Max", others, w.vector([1]))
    whole = w.op("Reshape", w.op("Size", value), w.vector([1]))
    return Number(w.op("Div", whole, each), int)


def _through(w: Writer, size: Number, window: _Window) -> Number:
    wide = w.op("Add", size.value, w.vector([window.plus]))
    return Number(
        w.op("Add", w.op("Div", wide, w.vector([window.stride])), w.vector([1])),
        int,
    )


def _before(w: Writer, value: ir.Value, dim: int) -> tuple[ir.Value | None, int]:
    """The operand that a size comes from, and its place there."""
    node = value.producer()
    assert node is not None
    kind, first = node.op_type, node.inputs[0]
    if kind in _ALIKE:
        return first, dim
    if kind in _WINDOWS and (dim == 0 or _window(w, value, dim) is not None):
        return first, dim
    if kind == "Transpose":
        return first, node.attributes["perm"].as_ints()[dim]
    if kind in ("Concat", "Split") and node.attributes["axis"].as_int() != dim:
        return first, dim
    if kind == "Reshape" and _copied(node, dim):
        return first, dim
    if kind in _SUMS:
        return _same_size(w, value, node, dim), dim
    return None, dim


def _copied(node: ir.Node, dim: int) -> bool:
    """Whether a Reshape leaves a size as it is: 0 stands for it."""
    sizes = node.inputs[1]
    assert sizes is not None
    joined = sizes.producer()
    size, place = (sizes, dim) if joined is None else (joined.inputs[dim], 0)
    known = None if size is None else size.const_value
    return known is not None and int(known.numpy()[place]) == 0


def _same_size(w: Writer, value: ir.Value, node: ir.Node, dim: int) -> ir.Value | None:
    """The operand that has the same size there: none that is broadcast."""
    made = _info(w, value)
    for operand in node.inputs:
        info = None if operand is None else _info(w, operand)
        if made is None or info is None or info.rank != made.rank:
            continue
        if info.shape[dim] == made.shape[dim]:
            return operand
    return None


def _info(w: Writer, value: ir.Value) -> Info | None:
    return w.info(value) if w.knows(value) else None


def _window(w: Writer, value: ir.Value, dim: int) -> _Window | None:
    """What a convolution or pool makes of a spatial size; None if it is none, or rounds up."""
    node = value.producer()
    if node is None or node.op_type not in _WINDOWS or dim < 2:
        return None
    given = node.attributes
    if "ceil_mode" in given and given["ceil_mode"].as_int():
        return None
    place = dim - 2
    if "kernel_shape" in given:
        kernel = given["kernel_shape"].as_ints()[place]
    else:
        weight = node.inputs[1]
        info = None if weight is None else _info(w, weight)
        if info is None:
            return None
        kernel = info.example[dim]
    pads = given["pads"].as_ints() if "pads" in given else ()
    padded = pads[place] + pads[place + len(pads) // 2] if pads else 0
    dilation = given["dilations"].as_ints()[place] if "dilations" in given else 1
    return _Window(padded - dilation * (kernel - 1) - 1, given["strides"].as_ints()[place])
