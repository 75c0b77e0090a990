"""How convolutions are written for x86: oneDNN's kernels, or a linear layer on pixels.

What all calls are made of: :mod:`qfx.backends.x86_parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx import vocab
from qfx.backends import x86_calls as calls
from qfx.backends import x86_kernels as kernels
from qfx.backends import x86_transpose as transpose
from qfx.backends.base import Emit, Emitter, Measured, Site
from qfx.backends.room import least_sizes, outer_padding
from qfx.backends.x86_linear import is_pointwise, pointwise, sum_pointwise
from qfx.backends.x86_parts import (
    FLOAT,
    Step,
    attributes,
    bounds_of,
    call,
    expand,
    input_of,
    is_free,
    known_input,
    output_of,
    post_of,
    shape_of,
    weight_of,
    weight_qparams,
)
from qfx.backends.x86_proven import right_here, right_phases
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.rewrite.pattern import Mismatch

_ops = torch.ops.onednn


def conv(dims: int) -> Emit:
    """Emits ``onednn.qconv{dims}d_pointwise``, or its binary form with a residual."""

    def emit(em: Emitter, site: Site) -> fx.Node | Mismatch:
        residual, unary = post_of(site)
        if residual is not None:
            add = sum_pointwise if is_pointwise(site) else _sum_conv
            return add(em, site, residual, unary)
        if dims == 2 and is_pointwise(site):
            return pointwise(em, site, unary)
        inside = unary if _computes(dims, unary) else None
        known = isinstance(input_of(site)[1], QParams)
        args = (*_conv_args(em, site, dims), *attributes(site, inside))
        kernel, room = _conv_kernel(dims, known, _Geometry(site, dims).least)
        y = call(em, site, kernel, *args, *room)
        return y if inside is unary else _activation(em, site, y, unary)

    return emit


def conv_transpose(dims: int) -> Emit:
    """Emits a transposed convolution as a convolution whose phases are woven together."""

    def emit(em: Emitter, site: Site) -> fx.Node | Mismatch:
        form = _Transposed(site, dims)
        _, unary = post_of(site)
        inside = unary if _computes(dims, unary) else None
        kernel, room = _conv_kernel(dims, True, form.least)
        y = call(em, site, kernel, *form.arguments(em), *attributes(site, inside), *room)
        y = y if inside is unary else _activation(em, site, y, unary)
        return call(em, site, transpose.weave, y, form.stride, form.padding, form.end)

    return emit


def _conv_kernel(dims: int, known: bool, least: list[int]) -> tuple[Any, Step]:
    """The kernel of a convolution, and what it takes beyond the arguments of oneDNN's."""
    if known and not least and dims > 1:  # onednn's conv1d gives an empty batch four dims
        return getattr(_ops, f"qconv{dims}d_pointwise").default, ()
    return calls.conv(dims), (least,)


class _Geometry:
    """How a convolution reads its input: what the kernel is told, and what is done before.

    Attributes:
        numbers: stride, padding and dilation per dim.
        outer: what to pad before, for ``F.pad``.
        least: see :mod:`qfx.backends.room`.
    """

    def __init__(self, site: Site, dims: int) -> None:
        kernel = weight_of(site).integers.shape[2:]
        names = ("stride", "padding", "dilation")
        stride, padding, dilation = (expand(site.arguments[n], dims) for n in names)
        inner, self.outer = outer_padding(kernel, padding, dilation)
        self.numbers = [stride, inner, dilation]
        self.least = least_sizes(kernel, stride, inner, dilation)


class _Transposed:
    """The convolution that a transposed convolution is run as; see x86_transpose."""

    def __init__(self, site: Site, dims: int) -> None:
        names = ("stride", "padding", "output_padding")
        self.site, self.weight = site, weight_of(site)
        self.groups: Any = site.arguments["groups"]
        kernel = self.weight.integers.shape[2:]
        self.stride, self.padding, extra = (expand(site.arguments[n], dims) for n in names)
        self.taps = transpose.phase_taps(kernel, self.stride, self.padding, extra)
        self.end = transpose.trim(kernel, self.stride, self.padding, extra, self.taps)
        ones = [1] * dims
        self.least = least_sizes(self.taps, ones, [j - 1 for j in self.taps], ones)

    def arguments(self, em: Emitter) -> tuple[Any, ...]:
        """The operands of the convolution up to the output dtype."""
        qx, x = known_input(self.site)
        ones, reach = [1] * len(self.taps), [j - 1 for j in self.taps]
        scales, zero, shape = self._scales(), int(x.zero_point), shape_of(qx)
        geometry = (ones, reach, ones, self.groups)

        def packed() -> object:
            phases = transpose.phase_weight(
                self.weight.integers, self.stride, self.taps, self.groups
            )
            return kernels.pack_conv(phases, scales, float(x.scale), zero, *geometry, shape)

        key = ("conv_transpose", self.weight.name, str(self.stride), tuple(shape), zero == 0)
        bias = None if self.site.bias is None else em.packed((*key, "bias"), self._bias)
        return (
            *(qx, x.scale, x.zero_point, em.packed(key, packed)),
            em.packed((*key, "scales"), lambda: scales),
            em.packed((*key, "zeros"), lambda: torch.zeros(scales.numel(), dtype=torch.int8)),
            *(bias, *geometry, *output_of(self.site)),
        )

    def _scales(self) -> Tensor:
        """One scale per phase of each output channel."""
        scales = torch.as_tensor(self.weight.qparams.scale, dtype=torch.float32).reshape(-1)
        if scales.numel() > 1:
            scales = scales.repeat(self.groups)
        return transpose.per_phase(scales, self.stride)

    def _bias(self) -> Tensor:
        assert self.site.bias is not None
        return self.site.bias.detach().repeat_interleave(prod(self.stride))


def _computes(dims: int, unary: Step | None) -> bool:
    return unary is not None and kernels.POST_OP_NAMES[unary[0]] in kernels.CONV_POST_OPS[dims]


def _conv_args(em: Emitter, site: Site, dims: int, *accumulator: fx.Node) -> tuple[Any, ...]:
    """The operands of a convolution up to the output dtype."""
    qx, x = input_of(site)
    geometry = _Geometry(site, dims)
    qx = _padded(em, site, geometry.outer) if geometry.outer else _pixels(em, site) or qx
    groups: Any = site.arguments["groups"]
    packed = _packed_conv(em, site, shape_of(qx), x, geometry.numbers, groups)
    weight, bias = weight_of(site), site.arguments["bias"]
    scales = weight_qparams(em, weight)
    operands = (qx, x.scale, x.zero_point, packed, *scales, *accumulator, bias)
    return (*operands, *geometry.numbers, groups, *output_of(site))


def _padded(em: Emitter, site: Site, pads: list[int]) -> fx.Node:
    """The input with zeros around it."""
    qx, x = input_of(site)
    shape = shape_of(qx)
    for d, sides in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        shape[-d] += sum(sides)
    value = meta.TensorInfo(tuple(shape), x.dtype)
    return em.rw.call(kernels.pad, qx, pads, x.zero_point, origins=(site.node,), value=value)


def _pixels(em: Emitter, site: Site) -> fx.Node | None:
    """For a convolution that alone reads a quantized 3-channel image: the image with 4 channels.

    Quantizing straight into channels_last beats a transposition by the kernel, and a fourth channel
    of zero weights is free.
    """
    qx, _ = input_of(site)
    alone = all(set(reader.users) == {site.node} for reader in qx.users)
    if qx.target is not kernels.quantize or not alone or site.arguments["groups"] != 1:
        return None
    batch, channels, *spatial = shape_of(qx)
    if channels != 3 or len(spatial) != 2:
        return None
    pixels = em.rw.call(kernels.quantize_rgbx, *qx.args, origins=(qx,))
    meta.set_value(pixels, meta.TensorInfo((batch, 4, *spatial), torch.uint8))
    return pixels


def _sum_conv(em: Emitter, site: Site, residual: fx.Node, unary: Step | None) -> fx.Node | Mismatch:
    if site.output is not None and residual not in site.inputs:
        return Mismatch("the residual is not at hand in integers")
    accumulator, qparams = (residual, FLOAT) if site.output is None else site.inputs[residual]
    args = _conv_args(em, site, 2, accumulator)
    relu = None if is_free(site, unary) or unary is None else unary[0]
    tail: Step = (qparams.scale, qparams.zero_point, "sum", 1.0, relu, [], "")
    return call(em, site, calls.conv2d_add, *args, *tail, _Geometry(site, 2).least)


def numeric_padding(node: fx.Node) -> Mismatch | None:
    """Refuse padding given by name, or other than with zeros."""
    padding, mode = node.kwargs.get("padding"), node.kwargs.get("padding_mode", "zeros")
    if isinstance(padding, str):
        return Mismatch("padding={0!r} is not a number", padding)
    if mode != "zeros":
        return Mismatch("padding_mode={0!r} is not zeros", mode)
    return right_here(node)


def undilated(node: fx.Node) -> Mismatch | None:
    """Refuse transposed convolutions with dilation: their phases are no convolution."""
    dilation: Any = node.kwargs.get("dilation", (1,))
    values = [dilation] if isinstance(dilation, int) else dilation
    if any(d != 1 for d in values):
        return Mismatch("dilation is {0}", dilation)
    return right_phases(node)


def _packed_conv(
    em: Emitter,
    site: Site,
    shape: list[int],
    x: QParams | Measured,
    geometry: Sequence[list[int]],
    groups: int,
) -> fx.Node:
    weight = weight_of(site)
    x_scale, zero_point = _packing_numbers(x)
    idle = shape[1] - weight.integers.shape[1] * groups  # channels beyond those of the weight
    scales = torch.as_tensor(weight.qparams.scale, dtype=torch.float32).reshape(-1)

    def recipe() -> object:
        return kernels.pack_conv(
            F.pad(weight.integers, [0, 0] * len(geometry[0]) + [0, idle]),
            scales,
            *(x_scale, zero_point),
            *(geometry[0], geometry[1], geometry[2]),
            groups,
            shape,
        )

    key = ("conv", weight.name, str(geometry), groups, tuple(shape), zero_point == 0)
    return em.packed(key, recipe)


def _packing_numbers(x: QParams | Measured) -> tuple[float, int]:
    """The qparams to pack for; what is measured seldom has zero point 0."""
    return (1.0, 1) if isinstance(x, Measured) else (float(x.scale), int(x.zero_point))


def _activation(em: Emitter, site: Site, y: fx.Node, unary: Step | None) -> fx.Node:
    """An activation that the kernel does not compute, applied to its result."""
    if unary is None or is_free(site, unary):
        return y
    if site.output is None:
        op = vocab.lookup(unary[0])
        names = [p for p in op.signature.parameters if p != "input"]
        return em.rw.call(op, y, origins=(site.node,), **dict(zip(names, unary[1:], strict=False)))
    ends = [site.output.quant_min, site.output.quant_max]
    for i, bound in enumerate(bounds_of(unary)):
        if bound is not None:
            ends[i] = int(site.output.quantize(torch.tensor(bound)))
    info = meta.tensor_info(y)
    return em.rw.call(torch.clamp, y, *ends, origins=(site.node,), value=info)
