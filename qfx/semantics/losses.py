"""Losses: how far what a model says is from what it should say."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    return F.cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    return F.mse_loss(input, target, reduction=reduction)


def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    return F.l1_loss(input, target, reduction=reduction)


def smooth_l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)


def huber_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    return F.huber_loss(input, target, reduction=reduction, delta=delta)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    return F.binary_cross_entropy(input, target, weight, reduction=reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        input, target, weight, reduction=reduction, pos_weight=pos_weight
    )


def kl_div(
    input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    return F.kl_div(input, target, reduction=reduction, log_target=log_target)


def cosine_similarity(input: Tensor, other: Tensor, *, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return F.cosine_similarity(input, other, dim, eps)


def _loss(function: Callable[..., Tensor], operands: str, attributes: str) -> Callable[..., Tensor]:
    """``function`` of operands, which stand by position, and attributes, which have names."""
    known = inspect.signature(function).parameters
    positional = [
        known[name].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=object)
        for name in operands.split()
    ]
    named = [
        known[name].replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=object)
        for name in attributes.split()
    ]
    signature = inspect.Signature([*positional, *named])

    def compute(*args: object, **options: object) -> Tensor:
        return function(**signature.bind(*args, **options).arguments)

    compute.__name__ = function.__name__
    compute.__signature__ = signature  # type: ignore[attr-defined]
    return compute


_PAIR = "input1 input2 target"
margin_ranking_loss = _loss(F.margin_ranking_loss, _PAIR, "margin reduction")
cosine_embedding_loss = _loss(F.cosine_embedding_loss, _PAIR, "margin reduction")
hinge_embedding_loss = _loss(F.hinge_embedding_loss, "input target", "margin reduction")
soft_margin_loss = _loss(F.soft_margin_loss, "input target", "reduction")
multi_margin_loss = _loss(F.multi_margin_loss, "input target weight", "p margin reduction")
multilabel_margin_loss = _loss(F.multilabel_margin_loss, "input target", "reduction")
multilabel_soft_margin_loss = _loss(
    F.multilabel_soft_margin_loss, "input target weight", "reduction"
)
triplet_margin_loss = _loss(
    F.triplet_margin_loss, "anchor positive negative", "margin p eps swap reduction"
)
poisson_nll_loss = _loss(F.poisson_nll_loss, "input target", "log_input full eps reduction")
gaussian_nll_loss = _loss(F.gaussian_nll_loss, "input target var", "full eps reduction")
ctc_loss = _loss(
    F.ctc_loss, "log_probs targets input_lengths target_lengths", "blank reduction zero_infinity"
)
