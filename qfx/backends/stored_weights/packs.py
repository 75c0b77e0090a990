"""PyTorch's own kernels of linear layers over weights in 4, 8 or 16 bits, on float32 activations.

    int8   y = (x q^T) * scale                          q int8, a scale per output channel
    int4   y = x ((q - 8) * scale + zero)^T             q 0..15, scale and zero per group
    half   y = x w^T                                    w float16

Which pays for float32 is known from the kernels, and no stopwatch decides (one core, AVX2, torch
2.13; time of the kernel / of float, for 1 to 128 rows of 256 to 2048 inputs and outputs):

    int8   6 to 175      one number at a time; fast in bfloat16 only              never used
    int4   10 to 340     likewise                                                 never used
    half   onednn        17 to 1300; fast where the CPU multiplies halves         if it does (AMX)
           fbgemm        0.1 to 0.9 from 768x768 on, else 1.2 to 3                large weights

``torch._dyn_quant_matmul_4bit`` is none of them: it rounds the activations to 8 bits, which
weight-only quantization promises not to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qfx.backends.packing_engine import engine
from qfx.library import define
from qfx.quant.reference_form import QuantizedWeight
from qfx.semantics.post import Post, apply_post
from qfx.torch_private import INT4_PRODUCT, INT8_PRODUCT, PACK_INT4, find, multiplies_halves

GROUP_SIZES = (32, 64, 128, 256)
"""What ``_weight_int4pack_mm_for_cpu`` takes; output channels come in sixteens."""

_CHANNELS = 16

_onednn_fp16 = find("torch.ops.onednn.linear_dynamic_fp16.default")
_pack_onednn_fp16 = find("torch.ops.onednn.linear_prepack_fp16.default")
_fbgemm_fp16 = find("torch.ops.quantized.linear_dynamic_fp16.default")
_pack_fbgemm_fp16 = find("torch.ops.quantized.linear_prepack_fp16.default")


@dataclass(frozen=True)
class LinearGeometry:
    """A linear layer as a kernel sees it.

    Attributes:
        name: of its weight.
        rows: of its input with the example inputs.
        outputs, inputs: the shape of its weight.
        quantized: the weight in integers, or None where it is halves.
        halves: the weight in float16, or None.
        bias: float32, or None.
    """

    name: str
    rows: int
    outputs: int
    inputs: int
    quantized: QuantizedWeight | None
    halves: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class PackedKernel:
    """A kernel over a packed weight.

    Attributes:
        name: as reports show it, and the key of its probe.
        kept: "int8", "4-bit" or "float16": the weights that it is for.
        unfit: why it can't take a layer, or "".
        pack: the constants that it reads.
        run: calls it: (input, *constants, bias, post=).
        pays: whether it is as fast as float for a layer; see the module's text.
    """

    name: str
    kept: str
    unfit: Callable[[LinearGeometry], str]
    pack: Callable[[LinearGeometry], tuple[object, ...]]
    run: Callable[..., Tensor]
    pays: Callable[[LinearGeometry], bool]


# -- int8 ----------------------------------------------------------------------------------------
def _unfit_int8(form: LinearGeometry) -> str:
    weight = form.quantized
    if weight is None or weight.integers.dtype != torch.int8 or weight.qparams.axis is None:
        return "takes signed codes with a scale per channel"
    if weight.qparams.group_size is not None:
        return "takes no groups"
    zeros = weight.qparams.zero_point
    return "takes symmetric weights" if bool(torch.as_tensor(zeros).any()) else ""


def _pack_int8(form: LinearGeometry) -> tuple[object, ...]:
    assert form.quantized is not None
    return form.quantized.integers, torch.as_tensor(form.quantized.qparams.scale)


def linear_int8(
    input: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, *, post: Post = ()
) -> Tensor:
    """``torch._weight_int8pack_mm`` on input (..., in)."""
    y: Tensor = INT8_PRODUCT(input.reshape(-1, input.shape[-1]), codes, scale)
    return _shaped(input, y, bias, post)


# -- int4 ----------------------------------------------------------------------------------------
def _unfit_int4(form: LinearGeometry) -> str:
    weight = form.quantized
    if weight is None or weight.qparams.group_size not in GROUP_SIZES:
        return f"takes groups of {', '.join(map(str, GROUP_SIZES))}"
    return "" if form.outputs % _CHANNELS == 0 else f"takes output channels in {_CHANNELS}s"


def _from_zero(codes: Tensor) -> Tensor:
    """Codes in 0..15 as int32."""
    return codes.int() + (8 if codes.dtype == torch.int8 else 0)


def _pack_int4(form: LinearGeometry) -> tuple[object, ...]:
    weight = form.quantized
    assert weight is not None
    scale = torch.as_tensor(weight.qparams.scale)
    middle = 0 if weight.integers.dtype == torch.int8 else 8
    zero = (middle - torch.as_tensor(weight.qparams.zero_point).float()) * scale
    packed = PACK_INT4(_from_zero(weight.integers), 1)
    numbers = torch.stack((scale, zero), dim=-1).transpose(0, 1).contiguous()
    return packed, weight.qparams.group_size, numbers


def linear_int4(
    input: Tensor,
    packed: Tensor,
    group_size: int,
    numbers: Tensor,
    bias: Tensor | None,
    *,
    post: Post = (),
) -> Tensor:
    """``torch._weight_int4pack_mm_for_cpu`` on input (..., in)."""
    flat = input.reshape(-1, input.shape[-1])
    y: Tensor = INT4_PRODUCT(flat, packed, group_size, numbers)
    return _shaped(input, y, bias, post)


def _shaped(input: Tensor, y: Tensor, bias: Tensor | None, post: Post) -> Tensor:
    y = y.view(*input.shape[:-1], y.shape[-1])
    return apply_post(y if bias is None else y.add_(bias), post)


# -- halves --------------------------------------------------------------------------------------
def _unfit_half(form: LinearGeometry) -> str:
    return ""


def _pack_onednn_half(form: LinearGeometry) -> tuple[object, ...]:
    assert form.halves is not None
    shape = [max(1, form.rows), form.inputs]
    return (_pack_onednn_fp16(form.halves.float(), shape),)


_onednn_half = define(
    "linear_dynamic_fp16(Tensor x, Tensor w, Tensor? bias)",
    _onednn_fp16,
    lambda x, w, bias: x.new_empty((*x.shape[:-1], w.shape[-1])),
)


def onednn_half(input: Tensor, packed: object, bias: Tensor | None, *, post: Post = ()) -> Tensor:
    """``onednn::linear_dynamic_fp16``, compiled or not."""
    compiling = torch.compiler.is_compiling()
    kernel = _onednn_half if compiling else _onednn_fp16
    return apply_post(kernel(input, packed, bias), post)


def _pack_fbgemm_half(form: LinearGeometry) -> tuple[object, ...]:
    assert form.halves is not None
    with engine("fbgemm"):
        return (_pack_fbgemm_fp16(form.halves.float(), None),)


def fbgemm_half(input: Tensor, packed: object, bias: Tensor | None, *, post: Post = ()) -> Tensor:
    """``quantized::linear_dynamic_fp16`` over a weight packed by fbgemm."""
    y: Tensor = _fbgemm_fp16(input, packed)
    return apply_post(y if bias is None else y.add_(bias), post)


def _never(form: LinearGeometry) -> bool:
    return False


def _multiplies_halves(form: LinearGeometry) -> bool:
    return multiplies_halves()


def _is_large(form: LinearGeometry) -> bool:
    return form.outputs * form.inputs >= LARGE


LARGE = 1 << 19
"""Weights from which on reading half as many bytes pays."""

INT8 = PackedKernel("_weight_int8pack_mm", "int8", _unfit_int8, _pack_int8, linear_int8, _never)
INT4 = PackedKernel(
    "_weight_int4pack_mm_for_cpu", "4-bit", _unfit_int4, _pack_int4, linear_int4, _never
)
ONEDNN_HALF = PackedKernel(
    "onednn.linear_dynamic_fp16", "float16", _unfit_half, _pack_onednn_half, onednn_half,
    _multiplies_halves,
)  # fmt: skip
FBGEMM_HALF = PackedKernel(
    "quantized.linear_dynamic_fp16", "float16", _unfit_half, _pack_fbgemm_half, fbgemm_half,
    _is_large,
)  # fmt: skip
