"""Layers with weights, attention, and norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.semantics.post import Post, apply_post


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


def bilinear(input: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y_k = input^T weight_k other + bias_k`` over the last dims."""
    return F.bilinear(input, other, weight, bias)


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


def rms_norm(
    input: Tensor,
    weight: Tensor | None = None,
    *,
    normalized_shape: Sequence[int],
    eps: float | None = None,
) -> Tensor:
    """``input / sqrt(mean(input^2) + eps) * weight``; ``eps`` is that of the dtype if not given."""
    return F.rms_norm(input, tuple(normalized_shape), weight, eps)


def local_response_norm(
    input: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Division by the energy of so many channels around each."""
    return F.local_response_norm(input, size, alpha, beta, k)


def normalize(input: Tensor, *, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Vectors along ``dim``, divided by their p-norms where those exceed ``eps``."""
    return F.normalize(input, p, dim, eps)


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


def grid_sample(
    input: Tensor,
    grid: Tensor,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Values between those of images, at the places of ``grid`` in [-1, 1]."""
    return F.grid_sample(input, grid, mode, padding_mode, bool(align_corners))
