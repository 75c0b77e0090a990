"""quantize and dequantize, and the integer forms of layers whose inputs are measured at run time.

    QuantizeLinear    q = saturate(round(x / scale) + zero_point)
    DequantizeLinear  x = (q - zero_point) * scale

saturate to the whole of a dtype. Where the codes of a model keep to less (``quant_max=127``), they
are clipped after they are made: between an operator and its QuantizeLinear a Clip would keep
engines from running the operator in integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.export.onnx.rearranged import is_within
from qfx.export.onnx.values import Dequantized, Info, Operand
from qfx.export.problems import CannotWrite
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, qparams_of
from qfx.semantics import affine
from qfx.semantics.layout import split_groups
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_NARROW = (torch.uint8, torch.int8)
_WIDE = (torch.int16, torch.uint16)
_NEWER = "Export with opset=21 or later."


def quantize(
    w: Writer,
    input: Operand,
    scale: Operand,
    zero_point: Operand,
    *,
    dtype: torch.dtype,
    quant_min: int | None,
    quant_max: int | None,
    axis: int | None,
    group_size: int | None,
) -> ir.Value:
    """Codes of a tensor."""
    low, high = affine.code_bounds(dtype, quant_min, quant_max)
    _check_dtype(w, dtype, group_size)
    known = _known_codes(w, input, scale, zero_point)
    if known is not None and known[1:] == (dtype, low, high):
        return known[0]
    codes = _measured_codes(w, input, scale)
    if codes is None:
        numbers = (_scale(w, scale), _zero_point(w, zero_point, dtype))
        codes = w.op("QuantizeLinear", input, *numbers, axis=axis, block_size=group_size)
    source = w.info(input)
    w.tell(codes, Info(source.shape, source.example, dtype))
    w.rounded[id(codes)] = input
    if (low, high) == affine.code_bounds(dtype, None, None) or _lies_within(
        w, input, scale, zero_point, low, high
    ):
        return codes
    ends = (w.scalar(end, dtype) for end in (low, high))
    return w.op("Clip", codes, *ends, like=codes)


def _known_codes(
    w: Writer, input: Operand, scale: Operand, zero_point: Operand
) -> tuple[ir.Value, torch.dtype, int, int] | None:
    """The codes that a tensor was made of, if these are of the same scale and zero point."""
    known = w.coded.get(id(input))
    if known is None or not isinstance(scale, float):
        return None
    codes, qparams = known
    if (qparams.scale, qparams.zero_point) != (scale, zero_point):
        return None
    return codes, qparams.dtype, qparams.quant_min, qparams.quant_max


def _check_dtype(w: Writer, dtype: torch.dtype, group_size: int | None) -> None:
    if dtype not in (*_NARROW, *_WIDE):
        raise CannotWrite(
            f"QuantizeLinear makes no codes of {dtype}", "Quantize to 16 bits or fewer."
        )
    if (dtype in _WIDE or group_size is not None) and w.opset < 21:
        raise CannotWrite("QuantizeLinear makes no codes of 16 bits, or in blocks", _NEWER)


def _scale(w: Writer, scale: Operand) -> Operand:
    return w.scalar(scale, torch.float32) if isinstance(scale, (int, float)) else scale


def _zero_point(w: Writer, zero_point: Operand, dtype: torch.dtype) -> Operand:
    if isinstance(zero_point, (int, float)):
        return w.scalar(int(zero_point), dtype)
    return w.cast(zero_point, dtype)


def _lies_within(
    w: Writer, input: Operand, scale: Operand, zero_point: Operand, low: int, high: int
) -> bool:
    """Whether ``input`` holds nothing beyond what the codes from ``low`` to ``high`` stand for."""
    if not isinstance(scale, float) or not isinstance(zero_point, int):
        return False
    known = w.bounds.get(id(input))
    if known is None:
        return False
    ends = torch.tensor([known.quant_min, known.quant_max], dtype=torch.int32)
    codes = (known.dequantize(ends) / scale + zero_point).round()
    return bool(codes[0] >= low and codes[1] <= high)


def known_bounds(w: Writer, node: fx.Node, operands: list[Operand]) -> QParams | None:
    """Between which codes the result of ``node`` lies, if all that it reads lies there."""
    assert isinstance(node.target, vocab.OpDef)
    op = node.target
    within = op.moves or op.kind is vocab.Kind.POOL or op is vocab.MEAN
    if not within or op in (vocab.INTERPOLATE, vocab.PAD, vocab.SETITEM):
        return None
    found = [w.bounds.get(id(operand)) for operand in operands]
    return found[0] if found and all(f == found[0] for f in found) else None


# -- dequantize ------------------------------------------------------------------------------------
def dequantize(
    w: Writer,
    input: Operand,
    scale: Operand,
    zero_point: Operand,
    *,
    dtype: torch.dtype,
    axis: int | None,
    group_size: int | None,
) -> Operand:
    """Written when it is read, as its reader takes it."""
    if dtype != torch.float32:
        raise CannotWrite(
            f"scales of float32 make no {dtype}", "Convert the model to float32 and quantize it."
        )
    assert w.node is not None
    exact = w.rounded.get(id(input))
    if exact is not None and is_within(w.node):
        return exact
    source = w.info(input)
    info = Info(source.shape, source.example, dtype)
    made = Dequantized(input, scale, zero_point, info, axis, group_size, w.node.name)
    bounds = _code_bounds(w.node)
    if bounds is not None:
        w.bounds[id(made)] = bounds
    return made


def _code_bounds(node: fx.Node) -> QParams | None:
    """The qparams of codes that this very graph makes, if they are numbers."""
    maker, module = node.args[0], node.graph.owning_module
    if not isinstance(maker, fx.Node) or not is_op(maker, vocab.QUANTIZE) or module is None:
        return None
    qparams = qparams_of(node, module)
    return None if isinstance(qparams, Measured) or qparams.axis is not None else qparams


def dequantized(w: Writer, of: Dequantized, *, swapped: bool = False) -> ir.Value:
    """The float tensor.

    Args:
        w: where it is written.
        of: the codes and what they mean.
        swapped: the last two dims changed places: weights of linear layers lie the other way round.
    """
    form = "swapped" if swapped else "plain"
    if form not in of.written:
        made = _written(w, of, swapped)
        info = of.info
        if swapped:
            info = Info(info.shape[::-1], info.example[::-1], info.dtype)
        w.tell(made, info)
        of.written[form] = made
        if id(of) in w.bounds:
            w.bounds[id(made)] = w.bounds[id(of)]
    return of.written[form]


def _written(w: Writer, of: Dequantized, swapped: bool) -> ir.Value:
    fraction = isinstance(of.zero_point, Tensor) and of.zero_point.is_floating_point()
    codes, axis = of.codes, of.axis
    if swapped:
        assert isinstance(codes, Tensor)
        codes, axis = codes.mT.contiguous(), None if axis is None else 1 - axis
    if fraction:
        return _with_offset(w, of, codes, axis)
    if of.group_size is not None:
        return _in_blocks(w, of, codes, axis, swapped)
    if isinstance(codes, Tensor):
        codes = w.constant(codes, f"{of.name}_codes")
    zero_point = _zero_point(w, of.zero_point, w.info(of.codes).dtype)
    return w.op("DequantizeLinear", codes, _scale(w, of.scale), zero_point, axis=axis)


def _with_offset(w: Writer, of: Dequantized, codes: Operand, axis: int | None) -> ir.Value:
    """Zero points that are no codes."""
    if of.group_size is not None or not isinstance(of.scale, Tensor):
        raise CannotWrite("blocks have no zero points but codes", "Quantize without an offset.")
    shape = [1] * of.info.rank
    shape[axis or 0] = -1
    assert isinstance(of.zero_point, Tensor)
    shifted = w.op("Sub", w.cast(codes, torch.float32), of.zero_point.reshape(shape))
    return w.op("Mul", shifted, of.scale.reshape(shape))


def _in_blocks(
    w: Writer, of: Dequantized, codes: Operand, axis: int | None, swapped: bool
) -> ir.Value:
    """So many values of a row share a scale; 4 bits where all codes fit in."""
    if w.opset < 21:
        raise CannotWrite("DequantizeLinear takes no blocks", _NEWER)
    if not isinstance(codes, Tensor) or not isinstance(of.scale, Tensor):
        raise CannotWrite("blocks of activations", "Quantize activations per tensor.")
    assert isinstance(of.zero_point, Tensor)
    flat = codes if codes.dim() == 2 else split_groups(codes, axis, of.group_size or 1).flatten(1)
    scale, zero = of.scale, of.zero_point.to(codes.dtype)
    if swapped:
        scale, zero = scale.mT.contiguous(), zero.mT.contiguous()
    narrow = _four_bits(flat, zero)
    made = w.op(
        "DequantizeLinear",
        w.constant(flat, f"{of.name}_codes", narrow),
        scale,
        w.constant(zero, f"{of.name}_zero_point", narrow),
        axis=0 if swapped else 1,
        block_size=of.group_size,
    )
    if codes.dim() == 2:
        return made
    if axis != 0:
        raise CannotWrite("blocks of weights with the input channels first", "Use axis=0.")
    return w.op("Reshape", made, w.vector(list(codes.shape)))


def _four_bits(*codes: Tensor) -> str:
    least = min(int(c.min()) for c in codes)
    most = max(int(c.max()) for c in codes)
    if codes[0].dtype == torch.int8:
        return "INT4" if least >= -8 and most <= 7 else ""
    return "UINT4" if most <= 15 else ""


def unpack(w: Writer, input: Operand, *, dtype: torch.dtype, columns: int | None) -> Operand:
    """Constants were unpacked before anything was written."""
    raise CannotWrite("codes of 4 bits that are computed", "Keep 4-bit weights constant.")


def widen(w: Writer, input: Operand) -> Operand:
    """float32 of halves."""
    return w.cast(input, torch.float32)


# -- measured at run time --------------------------------------------------------------------------
def dynamic_qparams(
    w: Writer,
    input: Operand,
    *,
    dtype: torch.dtype,
    quant_min: int | None,
    quant_max: int | None,
    symmetric: bool,
    power_of_two: bool,
) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point; DynamicQuantizeLinear where it computes them, with the codes."""
    low, high = affine.code_bounds(dtype, quant_min, quant_max)
    if power_of_two:
        raise CannotWrite("scales that are powers of two, measured as it runs", "Leave it out.")
    if (dtype, low, high, symmetric) == (torch.uint8, 0, 255, False):
        codes, scale, zero = w.ops("DynamicQuantizeLinear", input, results=3)
        w.measured[id(scale)] = (input, codes)
    else:
        scale, zero = _ranges(w, input, low, high, symmetric)
        w.measured[id(scale)] = (input, None)
    w.tell(scale, Info((), (), torch.float32))
    w.tell(zero, Info((), (), torch.uint8 if w.measured[id(scale)][1] else torch.int32))
    return scale, zero


def _ranges(
    w: Writer, input: Operand, low: int, high: int, symmetric: bool
) -> tuple[ir.Value, ir.Value]:
    """As :func:`qfx.semantics.affine.choose_qparams` has it, in float32."""
    zero = w.scalar(0.0, torch.float32)
    least = w.op("Min", w.op("ReduceMin", input, keepdims=0), zero)
    most = w.op("Max", w.op("ReduceMax", input, keepdims=0), zero)
    spread: ir.Value
    if symmetric:
        largest = w.op("Max", w.op("Neg", least), most)
        spread = w.op("Div", largest, w.scalar(affine.half_steps(low, high), torch.float32))
    else:
        width = w.op("Sub", most, least)
        spread = w.op("Div", width, w.scalar(float(high - low), torch.float32))
    empty = w.op("Equal", spread, zero)
    scale = w.op("Where", empty, w.scalar(1.0, torch.float32), spread)
    middle = w.scalar(affine.middle_code(low, high), torch.int32)
    if symmetric:
        return scale, middle
    ends = (w.scalar(float(end), torch.float32) for end in (low, high))
    shifted = w.op("Sub", w.scalar(float(low), torch.float32), w.op("Div", least, scale))
    code = w.op("Clip", w.op("Round", shifted), *ends)
    return scale, w.op("Cast", code, to=int(w.dtype(torch.int32)))


def _measured_codes(w: Writer, input: Operand, scale: Operand) -> ir.Value | None:
    """The codes that were written along with a measured scale."""
    of, codes = w.measured.get(id(scale), (None, None))
    return codes if of is input else None
