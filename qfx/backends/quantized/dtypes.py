"""Kernels on PyTorch's quantized dtypes (``torch.ops.quantized.*``), shared by fbgemm and qnnpack.

An integer value is a quint8 tensor that carries its qparams. Most kernels take the qparams of the
result as their last two arguments; shape operations and pools keep those of their input. Weights
and biases are packed once, under the engine of the backend; packed objects keep their engine.

relu and clamp after a kernel cost nothing where the result's qparams cannot represent anything
outside the bounds: saturation does them (:func:`~qfx.backends.base.saturates`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends.base import Emit, Emitter, LoweringSite, saturates
from qfx.backends.onednn.conv_forms import as_it_is
from qfx.backends.packing_engine import engine
from qfx.backends.quantized.binary import BINARY
from qfx.backends.quantized.linear import LINEAR
from qfx.backends.quantized.overhang import per_dim, room_of, roomy_conv
from qfx.backends.quantized.verified_convs import is_wrong
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured, QuantizedWeight
from qfx.rewrite.pattern import Mismatch
from qfx.torch_private import make_per_channel, make_per_tensor
from qfx.vocab import bound, bounds_of_post_op

_DTYPES = {torch.uint8: torch.quint8, torch.int8: torch.qint8}


def output_of(site: LoweringSite) -> QParams:
    """The qparams of a result that is always an integer."""
    assert site.output is not None
    return site.output


def integer(site: LoweringSite, name: str = "input") -> fx.Node:
    """The integer node that stands for a named operand."""
    operand = site.arguments[name]
    assert isinstance(operand, fx.Node)
    return site.inputs[operand][0]


def call(
    em: Emitter,
    site: LoweringSite,
    target: Callable[..., object],
    *args: object,
    **attributes: object,
) -> fx.Node:
    """A call of a kernel whose result is an integer tensor like the site's."""
    info = meta.tensor_info(site.node)
    assert info is not None
    dtype = _DTYPES[site.output.dtype] if site.output else torch.quint8
    value = meta.TensorInfo(info.shape, dtype)
    return em.rw.call(target, *args, origins=(site.node,), value=value, **attributes)


def quantize(em: Emitter, value: fx.Node, qparams: QParams) -> fx.Node:
    """f32 -> quint8."""
    info = meta.tensor_info(value)
    assert info is not None
    dtype, ends = _DTYPES[qparams.dtype], torch.iinfo(qparams.dtype)
    integers = em.rw.call(
        torch.quantize_per_tensor,
        value,
        qparams.scale,
        qparams.zero_point,
        dtype,
        origins=(value,),
        value=meta.TensorInfo(info.shape, dtype),
    )
    bounds = qparams.quant_min, qparams.quant_max
    if bounds == (ends.min, ends.max):
        return integers
    return em.rw.call(
        clamp_codes, integers, *bounds, origins=(value,), value=meta.value_of(integers)
    )


def clamp_codes(x: Tensor, low: int, high: int) -> Tensor:
    """A quantized tensor whose codes are between ``low`` and ``high``."""
    scale, zero_point = x.q_scale(), x.q_zero_point()
    return torch.clamp(x, (low - zero_point) * scale, (high - zero_point) * scale)


def dequantize(em: Emitter, integers: fx.Node, qparams: QParams | Measured) -> fx.Node:
    """quint8 -> f32; the tensor knows its qparams."""
    info = meta.tensor_info(integers)
    assert info is not None
    return em.rw.call_method(
        "dequantize",
        integers,
        origins=(integers,),
        value=meta.TensorInfo(info.shape, torch.float32),
    )


def quantized_weight(weight: QuantizedWeight) -> Tensor:
    """The weight as a tensor of a quantized dtype."""
    qparams = weight.qparams
    if isinstance(qparams.scale, Tensor) and isinstance(qparams.zero_point, Tensor):
        assert qparams.axis is not None
        return make_per_channel(
            weight.integers, qparams.scale.double(), qparams.zero_point.long(), qparams.axis
        )
    return make_per_tensor(weight.integers, float(qparams.scale), int(qparams.zero_point))


def clamped(em: Emitter, site: LoweringSite, y: fx.Node, post: Sequence[object]) -> fx.Node:
    """Apply a relu or clamp post-op to the integers ``y`` where saturation does not do it."""
    low, high = bounds_of_post_op(post)
    if saturates(output_of(site), low, high):
        return y
    if low is not None and high is not None:
        return call(em, site, torch.clamp, y, low, high)
    return call(em, site, torch.relu, y) if low == 0.0 and high is None else y


def packed_kernel(
    name: str,
    engine_name: str,
    *,
    spatial: int = 0,
    depthwise: str | None = None,
) -> Emit:
    """Emits ``quantized::name`` over a packed weight, with relu or clamp as post-op.

    ``depthwise`` is the engine that packs convolutions of one channel a group, if another.
    """

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        assert site.weight is not None
        packing = depthwise if depthwise and is_depthwise(site.node) else engine_name
        if spatial and is_wrong(as_it_is(site.node), site.node, packing):
            packing = "fbgemm"  # oneDNN's is wrong
        post: tuple[Any, ...] = site.arguments["post"]  # type: ignore[assignment]
        relu = post == (("relu",),)
        output = output_of(site)
        called = f"{name}_relu" if relu else name
        kernel = overload(called)
        room: dict[str, Any] = {}
        if spatial:
            site, room = room_of(site, packing, spatial)
        if room:
            kernel, room = roomy_conv, {"name": called, **room}
        packed = packed_weight(em, site, name, packing, spatial, relu)
        y = call(em, site, kernel, integer(site), packed, output.scale, output.zero_point, **room)
        return y if relu or not post else clamped(em, site, y, post[0])

    return emit


def is_depthwise(node: fx.Node) -> bool:
    """Whether a convolution has groups, of one input channel each."""
    weight = bound(node)["weight"]
    info = meta.tensor_info(weight) if isinstance(weight, fx.Node) else None
    return bound(node).get("groups", 1) > 1 and info is not None and info.shape[1] == 1


def overload(name: str) -> Callable[..., Any]:
    """The kernel of ``torch.ops.quantized`` over packed weights."""
    if name in LINEAR:
        return LINEAR[name]
    packet = getattr(torch.ops.quantized, name)
    overload: Callable[..., Any] = packet.new if "new" in packet.overloads() else packet.default
    return overload


def packed_weight(
    em: Emitter,
    site: LoweringSite,
    name: str,
    engine_name: str,
    spatial: int = 0,
    relu: bool = False,
) -> fx.Node:
    """A read of the weight and bias packed for ``quantized::name``, or for its form with relu."""
    weight, arguments = site.weight, site.arguments
    assert weight is not None
    names = ("stride", "padding", "dilation")
    geometry = [per_dim(arguments[n], spatial) for n in names] if spatial else []
    tail = [*geometry, arguments["groups"]] if spatial else []
    prepack = getattr(torch.ops.quantized, f"{name}_prepack")

    def recipe() -> object:
        with engine(engine_name):
            return prepack(quantized_weight(weight), site.bias, *tail)

    bias = site.arguments.get("bias")
    # Engines keep the first call's primitive with what they pack, so relu needs its own: qnnpack
    # clamps as that call did for ever, oneDNN while sizes and qparams are the same.
    bias_name = bias.target if isinstance(bias, fx.Node) else None
    key = (name, engine_name, weight.name, bias_name, str(tail), relu)
    return em.packed(key, recipe)


def binary(name: str) -> Emit:
    """Emits ``quantized::add`` or ``mul`` of two tensors, with relu as post-op.

    A number, or an operand without qparams, is refused.
    """

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        post: tuple[Any, ...] = site.arguments["post"]  # type: ignore[assignment]
        output = output_of(site)
        kernel = BINARY[f"{name}_relu" if post else name]
        operands = [_operand(em, site, n) for n in ("input", "other")]
        return call(em, site, kernel, *operands, output.scale, output.zero_point)

    return emit


def _operand(em: Emitter, site: LoweringSite, name: str) -> fx.Node:
    """A tensor operand in integers, or a number as a one-element quantized constant."""
    operand = site.arguments[name]
    if isinstance(operand, fx.Node):
        return site.inputs[operand][0]
    assert isinstance(operand, (int, float))
    size, code = abs(float(operand)) or 1.0, (operand > 0) - (operand < 0)

    def recipe() -> object:
        codes = torch.tensor([code + 1], dtype=torch.uint8)
        return make_per_tensor(codes, size, 1)

    return em.packed(("number", operand), recipe)


def cat(em: Emitter, site: LoweringSite) -> fx.Node:
    """Concatenation; ``quantized::cat`` where an input has other qparams than the result."""
    output, dim = output_of(site), site.arguments["dim"]
    tensors: Any = site.arguments["tensors"]
    integers = [site.inputs[tensor][0] for tensor in tensors]
    if all(qparams == output for _, qparams in site.inputs.values()):
        return call(em, site, vocab.CAT, integers, dim=dim)
    kernel = torch.ops.quantized.cat.default
    return call(em, site, kernel, integers, dim, output.scale, output.zero_point)


def with_output(target: Callable[..., object], *parameters: str) -> Emit:
    """Emits a kernel of the input, the named arguments, and the result's scale and zero point."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        output = output_of(site)
        values = [site.arguments[p] for p in parameters]
        return call(em, site, target, integer(site), *values, output.scale, output.zero_point)

    return emit


def two_sided(node: fx.Node) -> Mismatch | None:
    """Whether a clamp has both bounds as numbers, which the kernels want."""
    bounds = (node.kwargs.get("min"), node.kwargs.get("max"))
    if any(not isinstance(b, (int, float)) for b in bounds):
        return Mismatch("the quantized clamp needs two numbers as bounds")
    return None
