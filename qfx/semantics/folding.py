"""Folding batch-norm into the layer that feeds it: the one place where its arithmetic is written.

With sigma = sqrt(var + eps), per output channel:

    gamma * (W x + b - mu) / sigma + beta  =  W' x + b'
    W' = W * gamma / sigma                    b' = (b - mu) * gamma / sigma + beta

computed in float64 and rounded once to the dtype of W, so that the fold itself costs at most half
an ulp per weight. Output channels lie along axis 0 of the weight; a transposed convolution keeps
them along axis 1, one block of them per group.

In training the weight that is quantized is W' too, but statistics of the batch normalize (Jacob et
al. 2018, arXiv:1712.05877, section 3.2; Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2):

    f = gamma / sigma of the running statistics        y = BN( (fake_quant(W f) x) / f + b )

With running statistics that is W' x + b' again. No gradient flows through f: without quantization
it cancels, and W, gamma and beta get the gradients of the unfolded layers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fold_weight(
    weight: Tensor,
    var: Tensor,
    gamma: Tensor | None = None,
    *,
    eps: float,
    groups: int = 1,
    transposed: bool = False,
) -> Tensor:
    """Weight of the layer that computes layer and batch-norm at once.

    Args:
        weight: (C, ...), or (in, C / groups, ...) if ``transposed``; floating point.
        var: running variance, (C,).
        gamma: factor of the batch-norm, (C,); None for ones.
        eps: added to the variance.
        groups: convolution groups; only a transposed weight's layout depends on them.
        transposed: whether the layer is a transposed convolution.

    Returns:
        W', in the shape and dtype of ``weight``.
    """
    factor = norm_factor(var, gamma, eps)
    scaled = scale_channels(weight.double(), factor, groups=groups, transposed=transposed)
    return scaled.to(weight.dtype)


def fold_bias(
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    eps: float,
) -> Tensor:
    """Bias of the layer that computes layer and batch-norm at once.

    Args:
        mean: running mean, (C,).
        var: running variance, (C,).
        gamma: factor of the batch-norm, (C,); None for ones.
        beta: shift of the batch-norm, (C,); None for zeros.
        bias: of the layer, (C,); None for zeros.
        shift: added besides, in the precision that it has, (C,); None for zeros.
        eps: added to the variance.

    Returns:
        b', (C,), in the dtype of ``mean``.
    """
    folded = -mean.double() if bias is None else bias.double() - mean.double()
    folded = folded * norm_factor(var, gamma, eps)
    for term in (beta, shift):
        if term is not None:
            folded = folded + term.double()
    return folded.to(mean.dtype)


def scale_channels(
    weight: Tensor, factor: Tensor, *, groups: int = 1, transposed: bool = False
) -> Tensor:
    """``weight`` times a factor per output channel; as for :func:`fold_weight`."""
    if not transposed:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    blocks = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return (blocks * factor.reshape(groups, 1, -1, 1)).reshape(weight.shape)


def unscale_channels(input: Tensor, factor: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input / factor + bias`` along dim 1: what the layer yields for the unscaled weight.

    Args:
        input: (N, C, ...).
        factor: (C,), without a gradient.
        bias: (C,), or None.
    """
    shape = (-1, *[1] * (input.dim() - 2))
    inverse = factor.reciprocal().to(input.dtype).reshape(shape)
    if bias is None:
        return input * inverse
    return torch.addcmul(bias.to(input.dtype).reshape(shape), input, inverse)


def norm_factor(var: Tensor, gamma: Tensor | None, eps: float) -> Tensor:
    """Gamma / sigma, (C,), in float64."""
    factor = torch.rsqrt(var.double() + eps)
    return factor if gamma is None else factor * gamma.double()
