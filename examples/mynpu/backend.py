"""The backend: what the accelerator takes, as data, and how its calls are written."""

from __future__ import annotations

import math

import torch
from torch import fx

import qfx
from examples.mynpu import kernels
from examples.mynpu.cycles import CountCycles
from qfx import vocab
from qfx.backends import Emitter, KernelRule, LoweringSite, Scheme, WeightRule, pulls
from qfx.graph.meta import TensorInfo, tensor_info
from qfx.quant.qparams import QParams
from qfx.rewrite import Mismatch
from qfx.vocab import bound

INT8 = Scheme((torch.int8,), bits=(8,), symmetric=True, power_of_two=True)
SPEC = qfx.QuantSpec(torch.int8, symmetric=True, power_of_two=True)
RELU = (("relu",),)
PER_TENSOR = WeightRule(per_channel=False)


def backend() -> qfx.Backend:
    """The backend; an entry point of the group ``qfx.backends`` names this function."""
    return qfx.Backend(
        "mynpu",
        (
            KernelRule(
                vocab.CONV2D, "mynpu.conv2d", weight=PER_TENSOR, post=RELU, bias=torch.int32,
                emit=emit_conv2d,
            ),
            KernelRule(
                vocab.LINEAR, "mynpu.linear", weight=PER_TENSOR, post=RELU, bias=torch.int32,
                supports=of_rows, emit=emit_linear,
            ),
            KernelRule(
                vocab.ADD, "mynpu.add", operands=("input", "other"), post=RELU,
                supports=of_two_tensors, emit=emit_add,
            ),
            pulls(vocab.MAX_POOL2D, "mynpu.move"),
            pulls(vocab.FLATTEN, "mynpu.move"),
        ),
        {"static": qfx.QConfig(activation=SPEC, weight=SPEC)},
        quantize=quantize,
        dequantize=dequantize,
        activations=INT8,
        weights=INT8,
        passes=(CountCycles(),),
    )  # fmt: skip


# -- what the kernels don't take ------------------------------------------------------------------
def of_rows(node: fx.Node) -> Mismatch | None:
    """The kernel multiplies matrices: its input is (N, K)."""
    x = _info(bound(node)["input"])
    return None if x is not None and len(x.shape) == 2 else Mismatch("its input is no matrix")


def of_two_tensors(node: fx.Node) -> Mismatch | None:
    """The kernel adds two tensors of one shape, and nothing else."""
    found = [_info(operand) for operand in node.args]
    if len(found) < 2 or None in found:
        return Mismatch("an operand is no tensor")
    return None if found[0] == found[1] else Mismatch("its operands differ in shape")


# -- how calls are written ------------------------------------------------------------------------
def emit_conv2d(e: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """conv2d, bias, relu."""
    given = site.arguments
    geometry = [given[name] for name in ("stride", "padding", "dilation", "groups")]
    return _layer(e, site, kernels.conv2d, *geometry)


def emit_linear(e: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """linear, bias, relu."""
    return _layer(e, site, kernels.linear)


def emit_add(e: Emitter, site: LoweringSite) -> fx.Node | Mismatch:
    """add, relu."""
    assert site.output is not None
    shifts = [_shift(site.output.scale, q.scale) for _, q in _inputs(site)]
    codes = [node for node, _ in _inputs(site)]
    if len(codes) == 1:  # x + x
        codes, shifts = codes * 2, shifts * 2
    return e.rw.call(kernels.add, *codes, *shifts, _lowest(site))


def quantize(e: Emitter, value: fx.Node, q: QParams) -> fx.Node:
    """The host quantizes what comes in, as the reference form does."""
    return e.rw.call(vocab.QUANTIZE, value, q.scale, q.zero_point, dtype=q.dtype)


def dequantize(e: Emitter, codes: fx.Node, q: QParams) -> fx.Node:
    """And dequantizes what goes out."""
    return e.rw.call(vocab.DEQUANTIZE, codes, q.scale, q.zero_point)


def _layer(e: Emitter, site: LoweringSite, kernel: object, *geometry: object) -> fx.Node | Mismatch:
    ((codes, q),) = _inputs(site)
    assert site.weight is not None
    if site.output is None:
        return Mismatch("its result is wanted in float")
    shift = _shift(site.output.scale, q.scale * site.weight.qparams.scale)
    if shift < 0:
        return Mismatch("the accelerator shifts to the right only, not by {0}", shift)
    weight = e.rw.constant("mynpu.weight", site.weight.integers)
    bias = None if site.bias is None else e.rw.constant("mynpu.bias", site.bias)
    return e.rw.call(kernel, codes, weight, bias, shift, _lowest(site), *geometry)


def _info(value: object) -> TensorInfo | None:
    return tensor_info(value) if isinstance(value, fx.Node) else None


def _inputs(site: LoweringSite) -> list[tuple[fx.Node, QParams]]:
    return [(node, q) for node, q in site.inputs.values() if isinstance(q, QParams)]


def _shift(result: object, operand: object) -> int:
    """``2**-shift`` takes codes of scale ``operand`` to codes of scale ``result``."""
    return round(math.log2(float(result) / float(operand)))


def _lowest(site: LoweringSite) -> int:
    return 0 if site.arguments.get("post") else -128
