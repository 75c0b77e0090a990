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

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn.kernels import channels_last, clone_channels_last, clone_contiguous
from qfx.backends.onednn.overhang import lacks_room, with_room
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

    def at_numbers(x: Tensor, scale: Tensor, zero_point: Tensor, *rest: Any) -> Tensor:
        return kernel(x, float(scale), int(zero_point), *rest)

    numbers = define(f"{name}({_HEAD}, {tail})", kernel, fake)
    tensors = define(f"{name}_measured({_MEASURED_HEAD}, {tail})", at_numbers, fake)

    def call(*args: Any) -> Tensor:
        result: Tensor = (tensors if isinstance(args[1], Tensor) else numbers)(*args)
        return result

    return call


def _sum(call: Callable[..., Tensor], own: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """``call`` on a copy of its seventh argument, the residual: a function without effects."""

    def functional(*args: Any) -> Tensor:
        return call(*args[:6], own(args[6]), *args[7:])

    return functional


def _is_nan(args: tuple[Any, ...]) -> bool:
    """Whether the second argument, the scale of the input, is NaN."""
    return bool(args[1] != args[1])


def _all_nan(result: Tensor) -> Tensor:
    return result.fill_(torch.nan)


def _add_to_conv2d(*args: Any) -> Tensor:
    if _is_nan(args):
        return _all_nan(_fake_conv2d_add(*args))
    args, least = args[:-1], args[-1]
    x, other = args[0], args[6]
    if lacks_room(x, least):

        def run(x: Tensor, rows: list[int]) -> Tensor:
            roomy = F.pad(other, (0, rows[1], 0, rows[0]))
            return _add_to_conv2d(x, *args[1:6], roomy, *args[7:], [])

        return channels_last(with_room(run, x, least, args[8], args[2]))
    if x.size(0) != other.size(0) or not other.is_contiguous(memory_format=torch.channels_last):
        batch = max(x.size(0), other.size(0))
        x, other = (t.expand(batch, *t.shape[1:]) for t in (x, other))
        args = (x, *args[1:6], channels_last(other), *args[7:])
    result: Tensor = _onednn.qconv2d_pointwise.binary(*args)
    return result


def _add_to_linear(*args: Any) -> Tensor:
    if _is_nan(args):
        return _all_nan(_fake_linear_add(*args))
    x, other = args[0], args[6]
    if not (x.numel() and other.numel()):
        return _fake_linear_add(*args)
    if x.shape[:-1] != other.shape[:-1] or not other.is_contiguous():
        lead = torch.broadcast_shapes(x.shape[:-1], other.shape[:-1])  # type: ignore[no-untyped-call]
        x, other = (t.expand(*lead, t.size(-1)) for t in (x, other))
        args = (x, *args[1:6], other.contiguous(), *args[7:])
    result: Tensor = _onednn.qlinear_pointwise.binary(*args)
    return result


def _fake_conv2d_add(*args: Any) -> Tensor:
    """What :func:`_add_to_conv2d` returns, without values: one of the two may have batch 1."""
    x, other = args[0], args[6]
    (batch,) = torch.broadcast_shapes(x.shape[:1], other.shape[:1])  # type: ignore[no-untyped-call]
    shape = (batch, *other.shape[1:])
    result: Tensor = other.new_empty(shape).contiguous(memory_format=torch.channels_last)
    return result


def _fake_linear_add(*args: Any) -> Tensor:
    """What :func:`_add_to_linear` returns, without values."""
    x, other, dtype = args[0], args[6], args[10]
    lead = torch.broadcast_shapes(x.shape[:-1], other.shape[:-1])  # type: ignore[no-untyped-call]
    result: Tensor = other.new_empty((*lead, other.size(-1)), dtype=dtype)
    return result


def _fake_linear(*args: Any) -> Tensor:
    """What ``qlinear_pointwise`` returns, without values; packed weights are (in, out)."""
    x, w, dtype = args[0], args[3], args[9]
    result: Tensor = x.new_empty((*x.shape[:-1], w.shape[-1]), dtype=dtype)
    return result


def _linear(*args: Any) -> Tensor:
    if _is_nan(args):
        return _all_nan(_fake_linear(*args))
    x = args[0]
    if not x.numel() and x.size(-1):
        return _fake_linear(*args)
    result: Tensor = _onednn.qlinear_pointwise.default(*args)
    return result


_qlinear = _define(
    "qlinear",
    f"Tensor? bias, {_OUTPUT}, str post, Scalar?[] args, str algorithm",
    _linear,
    _fake_linear,
)
_qlinear_add = _define(
    "qlinear_add",
    f"Tensor other, Tensor? bias, {_OUTPUT}, {_LINEAR_TAIL}",
    _sum(_add_to_linear, clone_contiguous),
    _fake_linear_add,
)
_qconv2d_add = _define(
    "qconv2d_add",
    f"Tensor other, Tensor? bias, {_GEOMETRY}, {_OUTPUT}, {_CONV_TAIL}, int[] least",
    _sum(_add_to_conv2d, clone_channels_last),
    _fake_conv2d_add,
)


def _fake_conv(*args: Any) -> Tensor:
    """What ``qconv*_pointwise`` returns, without values; weights of ``conv1d`` have 4 dims."""
    (x, _, _, w, *_), (stride, padding, dilation) = args, args[7:10]
    kernel = w.shape[-len(stride) :]  # 1-d ones are packed as 2-d
    spatial = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    made: Tensor = x.new_empty((x.shape[0], args[4].numel(), *spatial), dtype=args[13])
    return _as_written(made)


def _as_written(y: Tensor) -> Tensor:
    """``y`` in the memory format of the kernels: ``conv1d`` is a ``conv2d`` on one row."""
    return channels_last(y.unsqueeze(2)).squeeze(2) if y.dim() == 3 else channels_last(y)


def _roomy(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution whose last argument is the least size of its input."""

    def convolve(*args: Any) -> Tensor:
        if _is_nan(args):
            return _all_nan(_fake_conv(*args))
        x, rest, least = args[0], args[1:-1], args[-1]
        if not x.size(0):
            return _fake_conv(*args)
        if not lacks_room(x, least):
            return kernel(x, *rest)
        stride, zero_point = args[7], args[2]
        return _as_written(with_room(lambda x, _: kernel(x, *rest), x, least, stride, zero_point))

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
        _fake_conv,
    )
    for dims, kernel in _CONVOLUTIONS.items()
}


def conv(dims: int) -> Callable[..., Tensor]:
    """``onednn.qconv{dims}d_pointwise`` for what that takes not itself, compiled or not."""
    return (conv1d, conv2d, conv3d)[dims - 1]


def conv1d(*args: Any) -> Tensor:
    """``onednn.qconv1d_pointwise.default``, compiled or not."""
    return _conv(1, args)


def conv2d(*args: Any) -> Tensor:
    """``onednn.qconv2d_pointwise.default``, compiled or not."""
    return _conv(2, args)


def conv3d(*args: Any) -> Tensor:
    """``onednn.qconv3d_pointwise.default``, compiled or not."""
    return _conv(3, args)


def _conv(dims: int, args: tuple[Any, ...]) -> Tensor:
    kernel = _qconvs[dims] if torch.compiler.is_compiling() else _CONVOLUTIONS[dims]
    result: Tensor = kernel(*args)
    return result


def linear(*args: Any) -> Tensor:
    """``onednn.qlinear_pointwise.default``, compiled or not.

    What is exported calls the kernel itself, unless the qparams are not known yet.
    """
    is_known = not isinstance(args[1], Tensor)
    if torch.compiler.is_compiling() and not (torch.compiler.is_exporting() and is_known):
        return _qlinear(*args)
    return _linear(*args)


def linear_add(*args: Any) -> Tensor:
    """``onednn.qlinear_pointwise.binary``, compiled or not; in eager code overwrites the residual.

    With "add" (float32 residual) nothing is overwritten.
    """
    if torch.compiler.is_compiling():
        return _qlinear_add(*args)
    return _add_to_linear(*args)


def conv2d_add(*args: Any) -> Tensor:
    """``onednn.qconv2d_pointwise.binary``, compiled or not; eager, it overwrites the residual."""
    if torch.compiler.is_compiling():
        return _qconv2d_add(*args)
    return _add_to_conv2d(*args)


def pointwise(*args: Any) -> Tensor:
    """:func:`linear` on the pixels of images: a 1x1 convolution, with less to set up in a call."""
    x = args[0].permute(0, 2, 3, 1)  # contiguous if the image is channels_last
    plain = not torch.compiler.is_compiling() and x.is_contiguous() and x.numel()
    if plain and not _is_nan(args):
        pixels = _onednn.qlinear_pointwise.default(x, *args[1:])
    else:
        pixels = linear(x.contiguous(), *args[1:])
    result: Tensor = pixels.permute(0, 3, 1, 2)
    return result


def pointwise_add(*args: Any) -> Tensor:
    """:func:`linear_add` on the pixels of images: a 1x1 convolution that adds a residual.

    The convolution's own "sum" hands out a copy of the residual that it has overwritten, up to a
    quarter of its time; the linear kernel hands out the residual itself.
    """
    # (batch, height, width, channels): contiguous if images are channels_last
    x, other = args[0].permute(0, 2, 3, 1), args[6].permute(0, 2, 3, 1)
    plain = x.size(0) == other.size(0) and x.is_contiguous() and other.is_contiguous()
    if plain and not torch.compiler.is_compiling() and x.numel() and not _is_nan(args):
        pixels = _onednn.qlinear_pointwise.binary(x, *args[1:6], other, *args[7:])
    else:
        pixels = linear_add(x.contiguous(), *args[1:6], other, *args[7:])
    result: Tensor = pixels.permute(0, 3, 1, 2)
    return result
