"""What is left of a float model's outputs: agreement, divergence, direction, SQNR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.numerics import measures


@dataclass(frozen=True)
class Figures:
    """Of one quantized model on one test set.

    Attributes:
        sqnr: of all outputs, dB.
        cosine: mean over samples.
        least_cosine: of any sample.
        agreement: share of samples with the float model's top-1; NaN for embeddings.
        kl: mean divergence of the softmax from the float model's, nats; NaN for embeddings.
        seconds: that quantizing took.
    """

    sqnr: float
    cosine: float
    least_cosine: float
    agreement: float
    kl: float
    seconds: float


def measured(
    expected: Sequence[Tensor], outputs: Sequence[Tensor], classifies: bool, seconds: float
) -> Figures:
    """Compare outputs, one row a sample, with those of the float model."""
    right, found = torch.cat(list(expected)).double(), torch.cat(list(outputs)).double()
    cosines = F.cosine_similarity(right, found, dim=1)
    agreement = kl = float("nan")
    if classifies:
        agreement = float((right.argmax(1) == found.argmax(1)).double().mean())
        logs = found.log_softmax(1), right.log_softmax(1)
        kl = float(F.kl_div(*logs, reduction="batchmean", log_target=True))
    return Figures(
        measures.sqnr(right, found), float(cosines.mean()), float(cosines.min()), agreement, kl,
        seconds,
    )  # fmt: skip


def mean(of: Sequence[Figures]) -> Figures:
    """The mean of each figure."""
    return Figures(*(fmean(getattr(each, f.name) for each in of) for f in fields(Figures)))
