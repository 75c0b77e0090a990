"""The oneDNN calls that torch.compile can't take as they are, behind functions that it can.

Inductor's lowering of ``onednn.qlinear_pointwise`` asserts that the packed weight is a constant of
its own, which holds only under freezing; and ``aot_eager`` can't functionalize the "sum" forms,
which overwrite their residual. So a compiled graph sees an opaque operation of the namespace
``qfx`` with the same arguments, which calls the kernel when it runs; eager code calls the kernel at
once. Argument orders are those of the kernels.

"sum" reads and writes the residual as if it lay in memory like the result: another layout or shape
gives garbage, or reads what is not its own. Layouts and batch sizes are known when it runs, so the
residual is looked at in every call, and copied where it does not fit.

Convolutions here take one argument more than the kernels, the last: the least size of the input,
below which it is given :mod:`~qfx.backends.onednn.overhang`. Layers on nothing give nothing with
as many dims as ever; the kernels of linear layers give two, that of ``conv1d`` four.

The scale of an input that is not finite everywhere is NaN, and so is the whole result: relu and
clamp of the kernels would make plausible numbers of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn.arguments import Conv, ConvAdd, Linear, LinearAdd
from qfx.backends.onednn.as_convolutions import multiply
from qfx.backends.onednn.call_results import (
    as_written,
    conv2d_add_result,
    conv_result,
    conv_shape,
    linear_add_result,
    linear_result,
)
from qfx.backends.onednn.kernels import channels_last, clone_channels_last, clone_contiguous
from qfx.backends.onednn.overhang import lacks_room, with_room
from qfx.backends.onednn.single_rows import PackedForRows
from qfx.backends.onednn.single_rows import multiply as multiply_row
from qfx.library import define

_onednn = torch.ops.onednn
_HEAD = "Tensor x, float x_scale, int x_zp, Tensor w, Tensor w_scale, Tensor w_zp"
_MEASURED_HEAD = "Tensor x, Tensor x_scale, Tensor x_zp, Tensor w, Tensor w_scale, Tensor w_zp"
_OUTPUT = "float scale, int zp, ScalarType? dtype"
_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"
_LINEAR_TAIL = (
    "float other_scale, int other_zp, str how, float alpha, str post, Scalar?[] args, str algorithm"
)
_CONV_TAIL = (
    "float other_scale, int other_zp, str how, Scalar? alpha, str? post, Scalar?[] args,"
    " str? algorithm"
)


def _define(
    name: str, tail: str, kernel: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Define ``qfx::name`` for qparams of the input that are numbers, or tensors of one number.

    Compiled code measures tensors; the kernels want numbers.
    """

    def at_numbers(x: Tensor, scale: Tensor, zero_point: Tensor, *rest: object) -> Tensor:
        return kernel(x, float(scale), int(zero_point), *rest)

    numbers = define(f"{name}({_HEAD}, {tail})", kernel, fake)
    tensors = define(f"{name}_measured({_MEASURED_HEAD}, {tail})", at_numbers, fake)

    def call(x: Tensor, x_scale: float | Tensor, *rest: object) -> Tensor:
        kind = tensors if isinstance(x_scale, Tensor) else numbers
        result: Tensor = kind(x, x_scale, *rest)
        return result

    return call


def _is_nan(x_scale: float | Tensor) -> bool:
    return bool(x_scale != x_scale)


def _all_nan(result: Tensor) -> Tensor:
    return result.fill_(torch.nan)


def _add_to_conv2d(*args: Any) -> Tensor:
    *taken, least = args
    given = ConvAdd(*taken)
    if _is_nan(given.x_scale):
        return _all_nan(conv2d_add_result(*args))
    x, other, own = given.x, given.other, conv_shape(given)
    if other.shape != own:
        (batch,) = torch.broadcast_shapes(own[:1], other.shape[:1])  # type: ignore[no-untyped-call]
        x, other = x.expand(batch, *x.shape[1:]), other.expand(batch, *own[1:])
    if lacks_room(x, least):

        def run(x: Tensor, rows: list[int]) -> Tensor:
            roomy = F.pad(other, (0, rows[1], 0, rows[0]))
            return _add_to_conv2d(*given._replace(x=x, other=roomy), [])

        return channels_last(with_room(run, x, least, given.stride, given.x_zero_point))
    result: Tensor = _onednn.qconv2d_pointwise.binary(
        *given._replace(x=x, other=channels_last(other))
    )
    return result


def _add_to_linear(*args: object) -> Tensor:
    given = LinearAdd(*args)
    if _is_nan(given.x_scale):
        return _all_nan(linear_add_result(*args))
    x, other, outputs = given.x, given.other, given.weight.shape[-1]
    if not (x.numel() and other.numel()):
        return linear_add_result(*args)
    if other.shape != (*x.shape[:-1], outputs) or not other.is_contiguous():
        lead = torch.broadcast_shapes(x.shape[:-1], other.shape[:-1])  # type: ignore[no-untyped-call]
        x, other = x.expand(*lead, x.size(-1)), other.expand(*lead, outputs)
        given = given._replace(x=x, other=other.contiguous())
    result: Tensor = _onednn.qlinear_pointwise.binary(*given)
    return result


def _added_to_conv2d(*args: object) -> Tensor:
    """:func:`_add_to_conv2d` on a copy of the residual: a function without effects."""
    *taken, least = args
    given = ConvAdd(*taken)
    return _add_to_conv2d(*given._replace(other=clone_channels_last(given.other)), least)


def _added_to_linear(*args: object) -> Tensor:
    """:func:`_add_to_linear` on a copy of the residual: a function without effects."""
    given = LinearAdd(*args)
    return _add_to_linear(*given._replace(other=clone_contiguous(given.other)))


def _linear(x: Tensor, x_scale: float, *rest: object) -> Tensor:
    if _is_nan(x_scale):
        return _all_nan(linear_result(x, x_scale, *rest))
    if not x.numel() and x.size(-1):
        return linear_result(x, x_scale, *rest)
    return multiply(Linear(x, x_scale, *rest))


_qlinear = _define(
    "qlinear",
    f"Tensor? bias, {_OUTPUT}, str post, Scalar?[] args, str algorithm",
    _linear,
    linear_result,
)
_qlinear_add = _define(
    "qlinear_add",
    f"Tensor other, Tensor? bias, {_OUTPUT}, {_LINEAR_TAIL}",
    _added_to_linear,
    linear_add_result,
)
_qconv2d_add = _define(
    "qconv2d_add",
    f"Tensor other, Tensor? bias, {_GEOMETRY}, {_OUTPUT}, {_CONV_TAIL}, int[] least",
    _added_to_conv2d,
    conv2d_add_result,
)


def _roomy(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution whose last argument is the least size of its input."""

    def convolve(*args: Any) -> Tensor:
        *taken, least = args
        given = Conv(*taken)
        if _is_nan(given.x_scale):
            return _all_nan(conv_result(*args))
        if not given.x.size(0):
            return conv_result(*args)
        if not lacks_room(given.x, least):
            return kernel(*given)

        def run(x: Tensor, _: list[int]) -> Tensor:
            return kernel(*given._replace(x=x))

        return as_written(with_room(run, given.x, least, given.stride, given.x_zero_point))

    return convolve


_CONVOLUTIONS = {
    dims: _roomy(getattr(_onednn, f"qconv{dims}d_pointwise").default) for dims in (1, 2, 3)
}
_qconvs = {
    dims: _define(
        f"qconv{dims}d",
        f"Tensor? bias, {_GEOMETRY}, {_OUTPUT}, str post, Scalar?[] args, str? algorithm,"
        " int[] least",
        kernel,
        conv_result,
    )
    for dims, kernel in _CONVOLUTIONS.items()
}


def conv(dims: int) -> Callable[..., Tensor]:
    """``onednn.qconv{dims}d_pointwise`` for what that takes not itself, compiled or not."""
    return (conv1d, conv2d, conv3d)[dims - 1]


def conv1d(*args: object) -> Tensor:
    """``onednn.qconv1d_pointwise.default``, compiled or not."""
    return _conv(1, args)


def conv2d(*args: object) -> Tensor:
    """``onednn.qconv2d_pointwise.default``, compiled or not."""
    return _conv(2, args)


def conv3d(*args: object) -> Tensor:
    """``onednn.qconv3d_pointwise.default``, compiled or not."""
    return _conv(3, args)


def _conv(dims: int, args: tuple[object, ...]) -> Tensor:
    kernel = _qconvs[dims] if torch.compiler.is_compiling() else _CONVOLUTIONS[dims]
    result: Tensor = kernel(*args)
    return result


def linear(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor,
    bias: Tensor | None,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    post: str,
    numbers: Sequence[float],
    algorithm: str,
    rows: PackedForRows | None = None,
) -> Tensor:
    """``onednn.qlinear_pointwise.default``, or what is faster, compiled or not.

    What is exported calls the kernel itself, unless the qparams are not known yet. A float ``x`` is
    a row that is not rounded yet, which the weight is packed for in ``rows``.
    """
    if rows is not None and x.dtype is torch.float32:
        packed = rows.packed
        if packed is None:
            packed = rows.pack(weight, weight_scale, bias)
        return multiply_row(x, x_scale, x_zero_point, packed, post, numbers, algorithm)
    kept = x_zero_point, weight, weight_scale, weight_zero_point, bias
    rest = *kept, scale, zero_point, dtype, post, numbers, algorithm
    is_known = not isinstance(x_scale, Tensor)
    if torch.compiler.is_compiling() and not (torch.compiler.is_exporting() and is_known):
        return _qlinear(x, x_scale, *rest)
    return _linear(x, x_scale, *rest)


def linear_add(*args: object) -> Tensor:
    """``onednn.qlinear_pointwise.binary``, compiled or not; in eager code overwrites the residual.

    With "add" (float32 residual) nothing is overwritten.
    """
    if torch.compiler.is_compiling():
        return _qlinear_add(*args)
    return _add_to_linear(*args)


def conv2d_add(*args: object) -> Tensor:
    """``onednn.qconv2d_pointwise.binary``, compiled or not; eager, it overwrites the residual."""
    if torch.compiler.is_compiling():
        return _qconv2d_add(*args)
    return _add_to_conv2d(*args)


def pointwise(image: Tensor, x_scale: float, *rest: Any) -> Tensor:
    """:func:`linear` on the pixels of images: a 1x1 convolution, with less to set up in a call."""
    x = image.permute(0, 2, 3, 1)  # contiguous if the image is channels_last
    plain = not torch.compiler.is_compiling() and x.is_contiguous() and x.numel()
    if plain and not _is_nan(x_scale):
        pixels = _onednn.qlinear_pointwise.default(x, x_scale, *rest)
    else:
        pixels = linear(x.contiguous(), x_scale, *rest)
    result: Tensor = pixels.permute(0, 3, 1, 2)
    return result


def pointwise_add(*args: object) -> Tensor:
    """:func:`linear_add` on the pixels of images: a 1x1 convolution that adds a residual.

    The convolution's own "sum" hands out a copy of the residual that it has overwritten, up to a
    quarter of its time; the linear kernel hands out the residual itself.
    """
    # (batch, height, width, channels): contiguous if images are channels_last
    given = LinearAdd(*args)
    x, other = given.x.permute(0, 2, 3, 1), given.other.permute(0, 2, 3, 1)
    fits = other.shape == (*x.shape[:-1], given.weight.shape[-1])  # kernels don't look
    plain = fits and x.is_contiguous() and other.is_contiguous()
    if plain and not torch.compiler.is_compiling() and x.numel() and not _is_nan(given.x_scale):
        pixels = _onednn.qlinear_pointwise.binary(*given._replace(x=x, other=other))
    else:
        pixels = linear_add(*given._replace(x=x.contiguous(), other=other))
    result: Tensor = pixels.permute(0, 3, 1, 2)
    return result
