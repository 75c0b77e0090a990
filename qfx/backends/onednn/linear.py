"""How linear layers are written for x86, and 1x1 convolutions: linear layers on pixels."""

from __future__ import annotations

from torch import fx

from qfx.backends.base import Emitter, LoweringSite
from qfx.backends.onednn import as_convolutions, calls, packing
from qfx.backends.onednn.arguments import Linear, LinearAdd, OnednnPostOp, Operands, Residual
from qfx.backends.onednn.merge_products import remember
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
from qfx.rewrite.pattern import Mismatch


def is_pointwise(site: LoweringSite) -> bool:
    """Whether a 2-d convolution is a linear layer on every pixel."""
    stride, padding = (expand(site.arguments[n], 2) for n in ("stride", "padding"))
    taps = list(weight_of(site).integers.shape[2:])
    return taps == stride == [1, 1] and padding == [0, 0] and site.arguments["groups"] == 1


def pointwise(em: Emitter, site: LoweringSite, unary: PostOpStep | None) -> fx.Node:
    """Emits a 1x1 convolution as a linear layer."""
    read = _operands(em, site, _pixels_shape(site))
    bias, post = site.arguments["bias"], attributes(site, unary)
    return call(em, site, calls.pointwise, *Linear.of(read, bias, output_of(site), post))


def sum_pointwise(
    em: Emitter, site: LoweringSite, residual: fx.Node, unary: PostOpStep | None
) -> fx.Node | Mismatch:
    """Emits a 1x1 convolution that adds a residual, as a linear layer that does."""
    read = _operands(em, site, _pixels_shape(site))
    return _add_linear(em, site, calls.pointwise_add, read, residual, unary)


def _pixels_shape(site: LoweringSite) -> list[int]:
    batch, channels, height, width = shape_of(input_of(site)[0])
    return [batch, height, width, channels]


def linear(em: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """Emits ``onednn.qlinear_pointwise``, or its binary form with a residual."""
    shape = shape_of(input_of(site)[0])
    residual, unary = post_of(site)
    if residual is not None:
        read = _operands(em, site, shape)
        return _add_linear(em, site, calls.linear_add, read, residual, unary)
    bias, post = site.arguments["bias"], attributes(site, unary)
    read = _faster_operands(em, site, shape, post)
    y = call(em, site, calls.linear, *Linear.of(read, bias, output_of(site), post))
    remember(y, site)
    return y


def _operands(em: Emitter, site: LoweringSite, shape: list[int]) -> Operands:
    """What a linear kernel reads, for an input of ``shape`` (..., in)."""
    qx, x = input_of(site)
    weight = weight_of(site)
    matrix = weight.integers.flatten(1)

    def recipe() -> object:
        return packing.pack_linear(matrix, shape)

    packed = em.packed(("linear", weight.name, tuple(shape[1:])), recipe, apart=True)
    return Operands(qx, x.scale, x.zero_point, packed, *weight_qparams(em, weight))


def _faster_operands(
    em: Emitter, site: LoweringSite, shape: list[int], post: OnednnPostOp
) -> Operands:
    """As :func:`_operands`, packed for the kernel that is faster here."""
    qx, x = input_of(site)
    weight, name, zero_point = weight_of(site), str(post.name), x.zero_point
    if not as_convolutions.pays((weight.integers,), name):
        return _operands(em, site, shape)

    def recipe() -> object:
        return as_convolutions.pack((weight.integers,), shape, zero_point, name)

    shifted = zero_point == 0 if isinstance(zero_point, int) else None
    packed = em.packed(("convolution", weight.name, tuple(shape[1:]), shifted), recipe, apart=True)
    return Operands(qx, x.scale, zero_point, packed, *weight_qparams(em, weight))


def _add_linear(
    em: Emitter,
    site: LoweringSite,
    kernel: object,
    read: Operands,
    residual: fx.Node,
    unary: PostOpStep | None,
) -> fx.Node | Mismatch:
    sums = site.output is not None  # "add" takes a float residual and leaves it be
    added = accumulator_of(em, site, residual, kernel, in_place=sums)
    if isinstance(added, Mismatch):
        return added
    accumulator, qparams = added
    how = "sum" if sums else "add"
    other = Residual(accumulator, qparams.scale, qparams.zero_point, how)
    post = OnednnPostOp("none" if unary is None or is_free(site, unary) else unary[0])
    bias = site.arguments["bias"]
    return call(em, site, kernel, *LinearAdd.of(read, other, bias, output_of(site), post))
