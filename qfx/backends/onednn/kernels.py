"""oneDNN's integer kernels on plain tensors: what they compute, packing, what goes between them.

Measured with torch 2.13 on AVX512-VNNI against float64; re-checked per process by
:mod:`qfx.backends.probing.probe`. A convolution or linear kernel computes, in real units,

    y = post(x_scale * w_scale * sum((x - x_zp) * w) + bias [+ (r - r_zp) * r_scale])
    q = clamp(round(y / scale) + zp)

and hands out q as uint8 or int8, or y itself as float32 (``scale`` must then be 1 and ``zp`` 0).
:data:`CONV_POST_OPS` and :data:`LINEAR_POST_OPS` say which ``post`` each kernel takes. Facts that
no signature shows:

* Activations must be uint8. Convolutions refuse int8; linear takes it, 300 times slower.
* One padding per dim. Padding stands for real zero, so its code is ``x_zp``.
* The residual ("sum") is overwritten. It must be channels_last (4-d) or contiguous, have the
  result's shape and dtype, and not be the input: another dtype gives garbage without an error.
  After it only relu. Linear also has "add", which takes a float32 residual and leaves it alone.
* A weight packed for one input serves any batch, spatial size and scale (see :func:`pack_conv`
  for zero points).

Quantizing here means one multiply-add against ``1.5 * 2**23 + zp``: adding it to a float below
2**22 leaves the rounded integer in the low bits, so the conversion to uint8 is a truncation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn.integer_pools import max_pool
from qfx.graph.meta import TensorInfo
from qfx.graph.shape_arithmetic import fit
from qfx.graph.shape_rules import yields
from qfx.graph.window_rules import pool_rule
from qfx.torch_private import IS_TRANSFORMED, find

_onednn = torch.ops.onednn
_max_pool2d = find("torch.ops.quantized.max_pool2d.default", instead=max_pool)

CONV_POST_OPS: Mapping[int, tuple[str, ...]] = {
    1: ("none", "relu"),
    2: ("none", "relu", "hardtanh", "hardswish", "swish"),
    3: ("none",),
}
"""Spatial dims -> the ``attr`` names that ``onednn.qconv{n}d_pointwise`` computes exactly."""

LINEAR_POST_OPS: tuple[str, ...] = (
    *("none", "relu", "hardtanh", "hardswish", "swish", "gelu", "leaky_relu", "tanh"),
)
"""The ``post_op_name`` values that ``onednn.qlinear_pointwise`` computes exactly."""

POST_OP_NAMES: Mapping[str, str] = {
    "relu": "relu",
    "clamp": "hardtanh",
    "hardswish": "hardswish",
    "silu": "swish",
    "gelu": "gelu",
    "leaky_relu": "leaky_relu",
    "tanh": "tanh",
}
"""Post-op of :data:`qfx.semantics.post.POST_OPS` -> oneDNN's name of it."""

MAGIC = 12582912.0
"""1.5 * 2**23: a float near it has a unit in the last place of exactly 1."""


def codes_like(input: Any, *_: object, **__: object) -> TensorInfo | None:
    return TensorInfo(input.shape, torch.uint8) if fit(input) else None


@yields(codes_like)
def quantize(
    input: Tensor,
    scale: float,
    zero_point: int,
    quant_max: int | None = 255,
    *,
    overwrite: bool = False,
) -> Tensor:
    """Quantize to uint8: a third of the time of the formula as written.

    Equal to :func:`qfx.semantics.affine.quantize` up to one step where ``input / scale`` lies
    within a rounding error of a tie.

    Args:
        input: float32 (other float dtypes are converted), any shape and memory format.
        scale: step size.
        zero_point: the code of 0.0.
        quant_max: upper bound of the result; None if all codes are known to lie within 0 and 255.
        overwrite: whether ``input`` may be overwritten; it is, unless that would have to be undone
            for gradients.

    Returns:
        uint8, in the memory format of ``input``.

    Raises:
        TypeError: integers, which no float model takes either.
    """
    input, factor = _float32(input), 1.0 / scale
    if torch.compiler.is_compiling():  # Inductor fuses this into one loop
        return torch.round(input * factor + zero_point).clamp(0, quant_max).to(torch.uint8)
    if overwrite and not input.requires_grad and not IS_TRANSFORMED(input):
        middle = torch.tensor(MAGIC + zero_point, dtype=torch.float32)
        shifted = torch.add(middle, input, alpha=factor, out=input)  # rounds as rsub does
    else:
        shifted = torch.rsub(input, MAGIC + zero_point, alpha=-factor)
    if quant_max is not None:
        shifted.clamp_(MAGIC, MAGIC + quant_max)
    return shifted.view(torch.int32).to(torch.uint8)  # the low byte of each


def _float32(input: Tensor) -> Tensor:
    if input.dtype is torch.float32:
        return input
    if not input.is_floating_point():
        raise TypeError(f"expected floats, got {input.dtype}")
    return input.float()


def _rgbx(input: Any, *_: object) -> TensorInfo | None:
    is_image = fit(input) and len(input.shape) == 4 and input.shape[1] == 3
    return TensorInfo((input.shape[0], 4, *input.shape[2:]), torch.uint8) if is_image else None


@yields(_rgbx)
def quantize_rgbx(input: Tensor, scale: float, zero_point: int, quant_max: int = 255) -> Tensor:
    """Quantize a 3-channel image straight into the memory format that convolutions read.

    Transposing 150k codes from NCHW takes twice as long as quantizing them. Added up with weights
    1, 256 and 65536, the codes of three planes lie side by side in one int32: channels_last, with
    the exponent of ``2**23`` as a fourth channel, for a weight whose fourth channel is zeros.

    Args:
        input: float32 (batch, 3, height, width); pays for NCHW.
        scale: step size.
        zero_point: the code of 0.0.
        quant_max: upper bound of the result.

    Returns:
        uint8 (batch, 4, height, width), channels_last; the fourth channel means nothing.

    Raises:
        ValueError: another number of dims or channels.
        TypeError: as :func:`quantize`.
    """
    if input.dim() != 4 or input.shape[1] != 3:
        raise ValueError(f"expected images (batch, 3, height, width), got {list(input.shape)}")
    if torch.compiler.is_compiling() or not input.is_contiguous():
        codes = quantize(input, scale, zero_point, quant_max)
        return channels_last(torch.nn.functional.pad(codes, (0, 0, 0, 0, 0, 1)))
    batch, _, height, width = input.shape
    shifted = torch.rsub(_float32(input), _UNIT + zero_point, alpha=-1.0 / scale)
    bits = shifted.clamp_(_UNIT, _UNIT + quant_max).view(torch.int32)
    pixels = torch.add(bits[:, 0], bits[:, 1], alpha=1 << 8).add_(bits[:, 2], alpha=1 << 16)
    return pixels.view(torch.uint8).view(batch, height, width, 4).permute(0, 3, 1, 2)


_UNIT = 8388608.0  # 2**23: floats from here up to 2**24 are integers, whose low 16 bits are free


def dequantize(input: Tensor, scale: float, zero_point: int) -> Tensor:
    """float32 of uint8 or int8 codes, bit for bit as :func:`qfx.semantics.affine.dequantize`."""
    if zero_point == 0:
        return input.float().mul_(scale)
    return input.float().sub_(zero_point).mul_(scale)


def pad(input: Tensor, pads: Sequence[int], zero_point: int | Tensor) -> Tensor:
    """Pad uint8 codes with real zeros; ``pads`` as in ``F.pad``.

    In compiled code a measured zero point is a tensor, and no number to fill with.
    """
    if isinstance(zero_point, Tensor):
        shifted = input.to(torch.int32) - zero_point
        return (F.pad(shifted, list(pads)) + zero_point).to(torch.uint8)
    return F.pad(input, list(pads), value=zero_point)


def _floats(codes: Any, scale: object) -> TensorInfo:
    return TensorInfo(codes.shape, torch.float32)


@yields(_floats)
def dequantize_rows(codes: Tensor, scale: Tensor | float) -> Tensor:
    """float32 of a symmetric int8 weight (rows, columns); a scale a row (rows,), or one for all."""
    return codes.float().mul_(scale.unsqueeze(1) if isinstance(scale, Tensor) else scale)


def channels_last(input: Tensor) -> Tensor:
    """``input`` in the memory format that kernels write: channels_last for 4 or 5 dims."""
    return input.contiguous(memory_format=_FORMATS.get(input.dim(), torch.contiguous_format))


def clone_channels_last(input: Tensor) -> Tensor:
    """A copy that a "sum" kernel may overwrite."""
    return input.clone(memory_format=_FORMATS.get(input.dim(), torch.contiguous_format))


def clone_contiguous(input: Tensor) -> Tensor:
    """A copy that a linear "sum" kernel may overwrite."""
    return input.clone(memory_format=torch.contiguous_format)


_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _pooled(input: Any, kernel_size: Any, stride: Any = (), *rest: Any) -> TensorInfo | None:
    names = zip(("padding", "dilation", "ceil_mode"), rest, strict=False)
    geometry = {"padding": 0, "ceil_mode": False, **dict(names)}
    floats = TensorInfo(input.shape, torch.float32)
    told = _windows(floats, kernel_size, stride, **geometry)
    return None if told is None else TensorInfo(told.shape, input.dtype)


_windows = pool_rule(2)


@yields(_pooled)
def max_pool2d(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling of uint8 codes, exact.

    Args:
        input: uint8, (batch, channels, height, width); NCHW is copied to channels_last first,
            which is 6 times faster than pooling it as it is.
        kernel_size: as in ``F.max_pool2d``, like all that follow.
        stride: the kernel size when empty.
        padding: one number per dim.
        dilation: one number per dim.
        ceil_mode: whether windows may start in the padding.

    Returns:
        uint8, channels_last.
    """
    steps = list(stride) or list(kernel_size)
    pooled: Tensor = _max_pool2d(
        channels_last(input), list(kernel_size), steps, list(padding), list(dilation), ceil_mode
    )
    return pooled


def max_pool1d(
    input: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling of uint8 codes (batch, channels, length), exact."""
    step = kernel_size if stride is None else stride
    wide = (input.unsqueeze(2), (1, kernel_size), (1, step), (0, padding), (1, dilation))
    return max_pool2d(*wide, ceil_mode).squeeze(2)
