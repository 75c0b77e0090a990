"""What is left of a float model's outputs: agreement, divergence, direction, SQNR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.trained.subjects import Subject
from qfx.numerics import measures


@dataclass(frozen=True)
class Figures:
    """Of one quantized model on one test set.

    Attributes:
        sqnr: of all outputs, dB.
        cosine: mean over samples.
        least_cosine: of any sample.
        agreement: share of samples with the float model's top-1; NaN for embeddings.
        kl: mean divergence of the softmax from the float model's, nats; NaN without one.
        right: share of samples with a known truth whose top-1 it is; NaN without any.
        right_in_float: the same of the float model.
        seconds: that quantizing took.
    """

    sqnr: float
    cosine: float
    least_cosine: float
    agreement: float
    kl: float
    right: float
    right_in_float: float
    seconds: float


def measured(
    subject: Subject,
    truths: Sequence[int | None],
    expected: Sequence[Tensor],
    outputs: Sequence[Tensor],
    seconds: float,
) -> Figures:
    """Compare outputs, one row a sample, with those of the float model, and with truths."""
    exact, found = torch.cat(list(expected)).double(), torch.cat(list(outputs)).double()
    cosines = F.cosine_similarity(exact, found, dim=1)
    agreement = kl = right = right_in_float = float("nan")
    if subject.classifies:
        agreement = float((exact.argmax(1) == found.argmax(1)).double().mean())
        right, right_in_float = (_right(x, truths, subject.near) for x in (found, exact))
    if subject.classifies and subject.logits:
        logs = found.log_softmax(1), exact.log_softmax(1)
        kl = float(F.kl_div(*logs, reduction="batchmean", log_target=True))
    return Figures(
        measures.sqnr(exact, found), float(cosines.mean()), float(cosines.min()), agreement, kl,
        right, right_in_float, seconds,
    )  # fmt: skip


def _right(outputs: Tensor, truths: Sequence[int | None], near: int) -> float:
    """The share of known truths that top-1 is, or is at most ``near`` classes beside."""
    known = [i for i, truth in enumerate(truths) if truth is not None]
    if not known:
        return float("nan")
    expected = torch.tensor([truths[i] for i in known])
    return float(((outputs[known].argmax(1) - expected).abs() <= near).double().mean())


def mean(of: Sequence[Figures]) -> Figures:
    """The mean of each figure."""
    return Figures(*(fmean(getattr(each, f.name) for each in of) for f in fields(Figures)))
