"""How convolutions are written for x86: oneDNN's kernels, or a linear layer on pixels.

In which form: :mod:`qfx.backends.onednn.conv_forms`; what all calls are made of:
:mod:`qfx.backends.onednn.operands`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends.base import Emit, Emitter, LoweringSite
from qfx.backends.onednn import calls, kernels
from qfx.backends.onednn import transposed_convs as transpose
from qfx.backends.onednn.arguments import KernelOperand, OnednnPostOp, Operands, Residual
from qfx.backends.onednn.conv_calls import ConvCall, Ending, pack, write, write_sum
from qfx.backends.onednn.conv_forms import ConvForm, Part, Reads
from qfx.backends.onednn.linear import is_pointwise, pointwise, sum_pointwise
from qfx.backends.onednn.operands import (
    PostOpStep,
    accumulator_of,
    attributes,
    call,
    expand,
    input_of,
    is_free,
    output_of,
    post_of,
    shape_of,
    weight_of,
    weight_qparams,
)
from qfx.backends.onednn.verified_convs import refuse_wrong, right_form
from qfx.graph import meta
from qfx.quant.meaning import hand_on_meaning
from qfx.quant.qparams import QParams
from qfx.quant.reference_form import Measured
from qfx.rewrite.pattern import Mismatch


def conv(dims: int) -> Emit:
    """Emits ``onednn.qconv{dims}d_pointwise``, or its binary form with a residual."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        residual, unary = post_of(site)
        if residual is not None:
            add = sum_pointwise if is_pointwise(site) else _sum_conv
            return add(em, site, residual, unary)
        if dims == 2 and is_pointwise(site):
            return pointwise(em, site, unary)
        inside = unary if _computes(dims, unary) else None
        y = _convolution(em, site, inside)
        if isinstance(y, Mismatch) or inside is unary:
            return y
        return _activation(em, site, y, unary)

    return emit


def conv_transpose(dims: int) -> Emit:
    """Emits a transposed convolution as a convolution whose phases are woven together."""

    def emit(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
        _, unary = post_of(site)
        inside = unary if _computes(dims, unary) else None
        y = _convolution(em, site, inside)
        if isinstance(y, Mismatch):
            return y
        y = y if inside is unary else _activation(em, site, y, unary)
        names = ("stride", "padding", "output_padding")
        stride, padding, extra = (expand(site.arguments[n], dims) for n in names)
        kernel = weight_of(site).integers.shape[2:]
        taps = transpose.phase_taps(kernel, stride, padding, extra)
        end = transpose.trim(kernel, stride, padding, extra, taps)
        return call(em, site, transpose.weave, y, stride, padding, end)

    return emit


def _computes(dims: int, unary: PostOpStep | None) -> bool:
    return unary is not None and kernels.POST_OP_NAMES[unary[0]] in kernels.CONV_POST_OPS[dims]


# -- the calls of a form -------------------------------------------------------------------------
def _convolution(em: Emitter, site: LoweringSite, unary: PostOpStep | None) -> fx.Node | Mismatch:
    """The convolution in the first form that is right; transposed ones not woven yet."""
    post = attributes(site, unary)
    form = right_form(site.node, _ending(site, post), pixels=_owns_image(site))
    if isinstance(form, Mismatch):
        return form
    qx = _read(em, site, form)
    parts = []
    for i, part in enumerate(form.parts):
        read, bias = _operands(em, site, qx, form, i)
        known = isinstance(input_of(site)[1], QParams)
        kernel, args = write(part.call, read, bias, output_of(site), post, known=known)
        value = meta.TensorInfo(part.call.result(shape_of(qx)), output_of(site).dtype)
        parts.append(em.rw.call(kernel, *args, origins=(site.node,), value=value))
    if len(parts) == 1:
        return parts[0]
    return call(em, site, transpose.weave_groups, parts, site.arguments["groups"])


def _sum_conv(
    em: Emitter, site: LoweringSite, residual: fx.Node, unary: PostOpStep | None
) -> fx.Node | Mismatch:
    relu = None if is_free(site, unary) or unary is None else unary[0]
    ending = _ending(site, OnednnPostOp(relu or "none"), adds=True)
    form = right_form(site.node, ending, pixels=_owns_image(site))
    if isinstance(form, Mismatch):
        return form
    added = accumulator_of(em, site, residual, calls.conv2d_add, in_place=True)
    if isinstance(added, Mismatch):
        return added
    accumulator, qparams = added
    read, bias = _operands(em, site, _read(em, site, form), form, 0)
    sums = Residual(accumulator, qparams.scale, qparams.zero_point)
    kernel, args = write_sum(form.parts[0].call, read, sums, bias, output_of(site), relu)
    return call(em, site, kernel, *args)


def _ending(site: LoweringSite, post: OnednnPostOp, *, adds: bool = False) -> Ending:
    _, shift = _packing_numbers(input_of(site)[1])
    return Ending(shift != 0, output_of(site).dtype, post, adds)


def _owns_image(site: LoweringSite) -> bool:
    """Whether the convolution alone reads an image that is quantized for it."""
    qx, _ = input_of(site)
    alone = all(set(reader.users) == {site.node} for reader in qx.users)
    return qx.target is kernels.quantize and alone


def _read(em: Emitter, site: LoweringSite, form: ConvForm) -> fx.Node:
    """The input as the calls of a form read it."""
    qx, _ = input_of(site)
    outer = form.parts[0].call.outer
    if form.reads is Reads.PIXELS:
        batch, _, *spatial = shape_of(qx)
        value = meta.TensorInfo((batch, 4, *spatial), torch.uint8)
        pixels = em.rw.call(kernels.quantize_rgbx, *qx.args, origins=(qx,), value=value)
        hand_on_meaning(qx, pixels)
        return pixels
    return _padded(em, site, list(outer)) if outer else qx


def _padded(em: Emitter, site: LoweringSite, pads: list[int]) -> fx.Node:
    """The input with zeros around it."""
    qx, x = input_of(site)
    shape = shape_of(qx)
    for d, sides in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        shape[-d] += sum(sides)
    value = meta.TensorInfo(tuple(shape), x.dtype)
    return em.rw.call(kernels.pad, qx, pads, x.zero_point, origins=(site.node,), value=value)


def _operands(
    em: Emitter, site: LoweringSite, qx: fx.Node, form: ConvForm, index: int
) -> tuple[Operands, KernelOperand]:
    """What a call of a form reads; and the bias."""
    part, weight = form.parts[index], weight_of(site)
    _, x = input_of(site)
    numbers = _packing_numbers(x)
    shape, scales = tuple(shape_of(qx)), _scale_values(site, part)

    def packed() -> object:
        return pack(part.call, part.weight(weight.integers), scales, numbers, shape)

    key = ("conv", form.name, index, weight.name, part.call, shape[1:], numbers[1] == 0)
    constants = (em.packed(key, packed, apart=True), *_scales(em, site, part, key))
    return Operands(qx, x.scale, x.zero_point, *constants), _bias(em, site, part, key)


def _scales(
    em: Emitter, site: LoweringSite, part: Part, key: tuple[object, ...]
) -> tuple[fx.Node, fx.Node]:
    """Scales and zero points of the weight of a call."""
    if _keeps_scales(site, part):
        return weight_qparams(em, weight_of(site))
    zeros = torch.zeros(part.call.weight[0], dtype=torch.int8)
    scales = em.packed((*key, "scales"), lambda: _scale_values(site, part))
    return scales, em.packed((*key, "zeros"), lambda: zeros)


def _scale_values(site: LoweringSite, part: Part) -> Tensor:
    """The scales of the weight of a call: one for all, or one per output channel."""
    scales = torch.as_tensor(weight_of(site).qparams.scale, dtype=torch.float32).reshape(-1)
    if _keeps_scales(site, part):
        return scales
    # Those of transposed layers are per channel of a group.
    return part.channels(scales.repeat(_outputs(site) // scales.numel()))


def _keeps_scales(site: LoweringSite, part: Part) -> bool:
    plain = "output_padding" not in site.arguments
    return plain and _keeps_channels(part.call, _outputs(site))


def _bias(em: Emitter, site: LoweringSite, part: Part, key: tuple[object, ...]) -> Any:
    values = site.bias
    if values is None or _keeps_channels(part.call, _outputs(site)):
        return site.arguments["bias"]
    return em.packed((*key, "bias"), lambda: part.channels(values.detach()))


def _keeps_channels(call: ConvCall, outputs: int) -> bool:
    """Whether the output channels of a call are those of the layer."""
    return call.weight[0] == outputs


def _outputs(site: LoweringSite) -> int:
    """How many output channels the layer has."""
    shape, groups = weight_of(site).integers.shape, site.arguments["groups"]
    assert isinstance(groups, int)
    return shape[1] * groups if "output_padding" in site.arguments else shape[0]


def _packing_numbers(x: QParams | Measured) -> tuple[float, int]:
    """The qparams to pack for; what is measured seldom has zero point 0."""
    return (1.0, 1) if isinstance(x, Measured) else (float(x.scale), int(x.zero_point))


def _activation(em: Emitter, site: LoweringSite, y: fx.Node, unary: PostOpStep | None) -> fx.Node:
    """An activation that the kernel does not compute, applied to its result."""
    if unary is None or is_free(site, unary):
        return y
    if site.output is None:
        op, operands, attributes = vocab.call_of_post_op(unary)
        return em.rw.call(op, y, *operands, origins=(site.node,), **attributes)
    ends = [site.output.quant_min, site.output.quant_max]
    for i, bound in enumerate(vocab.bounds_of_post_op(unary)):
        if bound is not None:
            ends[i] = int(site.output.quantize(torch.tensor(bound, dtype=torch.float32)))
    info = meta.tensor_info(y)
    return em.rw.call(torch.clamp, y, *ends, origins=(site.node,), value=info)


# -- what convolutions take ----------------------------------------------------------------------
def numeric_padding(node: fx.Node) -> Mismatch | None:
    """Refuse padding given by name, or other than with zeros."""
    padding, mode = node.kwargs.get("padding"), node.kwargs.get("padding_mode", "zeros")
    if isinstance(padding, str):
        return Mismatch("padding={0!r} is not a number", padding)
    if mode != "zeros":
        return Mismatch("padding_mode={0!r} is not zeros", mode)
    return refuse_wrong(node)


def undilated(node: fx.Node) -> Mismatch | None:
    """Refuse transposed convolutions with dilation: their phases are no convolution."""
    dilation: Any = node.kwargs.get("dilation", (1,))
    values = [dilation] if isinstance(dilation, int) else dilation
    if any(d != 1 for d in values):
        return Mismatch("dilation is {0}", dilation)
    return refuse_wrong(node)
