"""What each canonical operation computes, as plain Python over torch.

One function per operation of :mod:`qfx.vocab` whose torch counterpart does not already have the
canonical signature. Tensor operands come first and by position, attributes follow by keyword under
the names that torch uses. Operations that a kernel may extend take ``post``, an ordered tuple of
post-ops ``(name, *operands)`` applied to the result: ``y = post_n(... post_1(op(x)))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.errors import ConfigError

Post = tuple[tuple[Any, ...], ...]

POST_OPS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "clamp": lambda y, low, high: torch.clamp(y, low, high),
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": lambda y, approximate="none": F.gelu(y, approximate=approximate),
    "leaky_relu": lambda y, slope=0.01: F.leaky_relu(y, slope),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "add": lambda y, other: y + other,
    "dropout": lambda y, p, kind: y,
}
"""What each post-op computes. ``add`` takes the residual tensor as its operand; ``dropout``, which
only graphs in training hold, does nothing in inference."""


def apply_post(y: Tensor, post: Post) -> Tensor:
    """Apply post-ops to ``y`` in order."""
    for name, *operands in post:
        y = POST_OPS[name](y, *operands)
    return y


def _conv(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    zeros, ones = (0,) * dims, (1,) * dims

    def conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
        dilation: Sequence[int] = ones,
        groups: int = 1,
        post: Post = (),
    ) -> Tensor:
        return apply_post(function(input, weight, bias, stride, padding, dilation, groups), post)

    return conv


def _conv_transpose(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    zeros, ones = (0,) * dims, (1,) * dims

    def conv_transpose(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
        output_padding: Sequence[int] = zeros,
        groups: int = 1,
        dilation: Sequence[int] = ones,
        post: Post = (),
    ) -> Tensor:
        y = function(input, weight, bias, stride, padding, output_padding, groups, dilation)
        return apply_post(y, post)

    return conv_transpose


conv1d, conv2d, conv3d = map(_conv, (F.conv1d, F.conv2d, F.conv3d), (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(
    _conv_transpose, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), (1, 2, 3)
)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, post: Post = ()) -> Tensor:
    return apply_post(F.linear(input, weight, bias), post)


def embedding(
    input: Tensor,
    weight: Tensor,
    *,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows (*, width) of ``weight`` (rows, width) that integers (*) name.

    What comes by keyword says how gradients are made; the result does not depend on it.
    """
    return F.embedding(
        input, weight, padding_idx, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse
    )


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    *,
    mode: str = "mean",
    include_last_offset: bool = False,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Sums, means or maxima (bags, width) over the rows that the integers of each bag name."""
    return F.embedding_bag(
        input,
        weight,
        offsets,
        scale_grad_by_freq=scale_grad_by_freq,
        mode=mode,
        sparse=sparse,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=padding_idx,
    )


def matmul(input: Tensor, other: Tensor, *, post: Post = ()) -> Tensor:
    return apply_post(torch.matmul(input, other), post)


def add(input: Tensor, other: Tensor | float, *, alpha: float = 1, post: Post = ()) -> Tensor:
    return apply_post(torch.add(input, other, alpha=alpha) if alpha != 1 else input + other, post)


def mul(input: Tensor, other: Tensor | float, *, post: Post = ()) -> Tensor:
    return apply_post(input * other, post)


def batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    post: Post = (),
) -> Tensor:
    """Inference-mode batch normalization over dim 1 (the only one that is canonical)."""
    y = F.batch_norm(input, running_mean, running_var, weight, bias, False, 0.0, eps)
    return apply_post(y, post)


def layer_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    normalized_shape: Sequence[int],
    eps: float = 1e-5,
) -> Tensor:
    return F.layer_norm(input, tuple(normalized_shape), weight, bias, eps)


def group_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> Tensor:
    return F.group_norm(input, num_groups, weight, bias, eps)


def instance_norm(
    input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Instance normalization with the statistics of the input itself."""
    return F.instance_norm(input, None, None, weight, bias, True, 0.0, eps)


def reshape(input: Tensor, *, shape: Sequence[int]) -> Tensor:
    return input.reshape(tuple(shape))


def flatten(input: Tensor, *, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    return torch.flatten(input, start_dim, end_dim)


def permute(input: Tensor, *, dims: Sequence[int]) -> Tensor:
    return input.permute(tuple(dims))


def squeeze(input: Tensor, *, dim: int | tuple[int, ...] | None = None) -> Tensor:
    return torch.squeeze(input) if dim is None else torch.squeeze(input, dim)


def expand(input: Tensor, *, size: Sequence[int]) -> Tensor:
    return input.expand(tuple(size))


def repeat(input: Tensor, *, repeats: Sequence[int]) -> Tensor:
    return input.repeat(tuple(repeats))


def contiguous(input: Tensor) -> Tensor:
    return input.contiguous()


def clone(input: Tensor) -> Tensor:
    return input.clone()


def cat(tensors: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    return torch.cat(list(tensors), dim)


def stack(tensors: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    return torch.stack(list(tensors), dim)


def clamp(input: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    return torch.clamp(input, min, max)


def mean(
    input: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> Tensor:
    return input.mean() if dim is None else input.mean(dim, keepdim)


def getitem(input: Any, index: Any) -> Any:
    return input[index]


def setitem(input: Tensor, index: Any, value: Tensor | float) -> Tensor:
    """A copy of ``input`` with ``input[index] = value``."""
    copied = input.clone()
    copied[index] = value
    return copied


def dtype(input: Tensor) -> torch.dtype:
    return input.dtype


def device(input: Tensor) -> torch.device:
    return input.device


def size(input: Tensor, *, dim: int | None = None) -> Any:
    return input.shape if dim is None else input.shape[dim]


def guard(value: Any, *, expected: Any, what: str = "") -> None:
    """Refuse inputs for which the captured model would have run other Python code.

    Raises:
        ConfigError: ``value`` is not ``expected``, which held when the model was captured.
    """
    seen = type(expected)(value) if type(expected) in (bool, int, float) else value
    if seen is not expected and seen != expected:
        raise ConfigError(
            f"the model was captured with {what} = {_shown(expected)}, but these inputs make it "
            f"{_shown(seen)}. What to do: capture the model anew with inputs like these."
        )


def _shown(value: Any) -> str:
    """``value`` on one line: tensors by their dtype and shape."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, {tuple(value.shape)}"
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        return f"({', '.join(map(_shown, value))})"
    return repr(value)


def quant_stub(input: Tensor) -> Tensor:
    """Marks where a quantized region begins; computes nothing."""
    return input


def dequant_stub(input: Tensor) -> Tensor:
    """Marks where a quantized region ends; computes nothing."""
    return input


def sub(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    return torch.sub(input, other, alpha=alpha) if alpha != 1 else input - other


def div(input: Tensor, other: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    return (
        input / other
        if rounding_mode is None
        else torch.div(input, other, rounding_mode=rounding_mode)
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention over the last two dims; ``dropout`` is for training."""
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p=0.0, is_causal=is_causal, scale=scale
    )


def attention_weights(
    query: Tensor, key: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """What attention weighs the values with: ``softmax(query key^T / sqrt(d) + mask)``."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    return torch.softmax(scores if attn_mask is None else scores + attn_mask, -1)


def additive_mask(mask: Tensor, *, dtype: torch.dtype) -> Tensor:
    """0 where a boolean mask is False, and minus infinity where it is True."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def relu(input: Tensor) -> Tensor:
    return F.relu(input)


def leaky_relu(input: Tensor, *, negative_slope: float = 0.01) -> Tensor:
    return F.leaky_relu(input, negative_slope)


def elu(input: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(input, alpha)


def hardswish(input: Tensor) -> Tensor:
    return F.hardswish(input)


def silu(input: Tensor) -> Tensor:
    return F.silu(input)


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(input, approximate=approximate)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    return F.prelu(input, weight)


def sigmoid(input: Tensor) -> Tensor:
    return torch.sigmoid(input)


def hardsigmoid(input: Tensor) -> Tensor:
    return F.hardsigmoid(input)


def tanh(input: Tensor) -> Tensor:
    return torch.tanh(input)


def mish(input: Tensor) -> Tensor:
    return F.mish(input)


def softmax(input: Tensor, *, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.softmax(input, dim, dtype)


def log_softmax(input: Tensor, *, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.log_softmax(input, dim, dtype)


def _max_pool(function: Callable[..., Any], dims: int) -> Callable[..., Any]:
    zeros, ones = (0,) * dims, (1,) * dims

    def max_pool(
        input: Tensor,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = zeros,
        dilation: Sequence[int] = ones,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        return function(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    return max_pool


def _avg_pool(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    zeros = (0,) * dims

    def avg_pool(
        input: Tensor,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = zeros,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        extra = () if divisor_override is None else (divisor_override,)
        return function(
            input, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, *extra
        )

    return avg_pool


def _adaptive_pool(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def adaptive_pool(input: Tensor, *, output_size: int | Sequence[int | None]) -> Tensor:
        return function(input, output_size)

    return adaptive_pool


max_pool1d, max_pool2d, max_pool3d = map(
    _max_pool, (F.max_pool1d, F.max_pool2d, F.max_pool3d), (1, 2, 3)
)
avg_pool1d, avg_pool2d, avg_pool3d = map(
    _avg_pool, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), (1, 2, 3)
)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(
    _adaptive_pool, (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(
    _adaptive_pool, (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
)


def interpolate(
    input: Tensor,
    *,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    return F.interpolate(
        input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
    )


def sum(
    input: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> Tensor:
    return input.sum() if dim is None else input.sum(dim, keepdim)


def amax(input: Tensor, *, dim: int | tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    return input.amax(dim, keepdim)


def amin(input: Tensor, *, dim: int | tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    return input.amin(dim, keepdim)


def transpose(input: Tensor, *, dim0: int, dim1: int) -> Tensor:
    return input.transpose(dim0, dim1)


def unsqueeze(input: Tensor, *, dim: int) -> Tensor:
    return input.unsqueeze(dim)


def unflatten(input: Tensor, *, dim: int, sizes: Sequence[int]) -> Tensor:
    return torch.unflatten(input, dim, tuple(sizes))


def chunk(input: Tensor, *, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return input.chunk(chunks, dim)


def split(
    input: Tensor, *, split_size_or_sections: int | list[int], dim: int = 0
) -> tuple[Tensor, ...]:
    return torch.split(input, split_size_or_sections, dim)


def unbind(input: Tensor, *, dim: int = 0) -> tuple[Tensor, ...]:
    return input.unbind(dim)


def select(input: Tensor, *, dim: int, index: int) -> Tensor:
    return input.select(dim, index)


def narrow(input: Tensor, *, dim: int, start: int, length: int) -> Tensor:
    return input.narrow(dim, start, length)


def roll(
    input: Tensor, *, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] = ()
) -> Tensor:
    return torch.roll(input, shifts, dims)


def flip(input: Tensor, *, dims: Sequence[int]) -> Tensor:
    return input.flip(tuple(dims))


def repeat_interleave(input: Tensor, *, repeats: int, dim: int | None = None) -> Tensor:
    return torch.repeat_interleave(input, repeats, dim)


def pixel_shuffle(input: Tensor, *, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(input, upscale_factor)


def pixel_unshuffle(input: Tensor, *, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(input, downscale_factor)


def channel_shuffle(input: Tensor, *, groups: int) -> Tensor:
    return F.channel_shuffle(input, groups)


def pad(
    input: Tensor, *, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    return F.pad(input, tuple(pad), mode, value)


def dim(input: Tensor) -> int:
    return input.dim()


def part(input: Tensor, *, parts: int, index: int) -> Tensor:
    """One of so many equal parts of a packed parameter, a view."""
    return input.chunk(parts)[index]


def dropout(input: Tensor, *, p: float = 0.5, kind: str = "dropout") -> Tensor:
    """``input``: graphs mean what they compute in inference. ``kind`` names the function of torch.

    Training runs :class:`qfx.runtime.dropout.Dropout` in its place.
    """
    return input
