"""Losses, which models return beside what they say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from qfx.semantics import losses
from qfx.vocab.definition import Kind, define

CROSS_ENTROPY = define(
    losses.cross_entropy, Kind.REDUCE, (nn.CrossEntropyLoss,), (F.cross_entropy,)
)
NLL_LOSS = define(losses.nll_loss, Kind.REDUCE, (nn.NLLLoss,), (F.nll_loss,))
MSE_LOSS = define(losses.mse_loss, Kind.REDUCE, (nn.MSELoss,), (F.mse_loss,))
L1_LOSS = define(losses.l1_loss, Kind.REDUCE, (nn.L1Loss,), (F.l1_loss,))
SMOOTH_L1_LOSS = define(losses.smooth_l1_loss, Kind.REDUCE, (nn.SmoothL1Loss,), (F.smooth_l1_loss,))
HUBER_LOSS = define(losses.huber_loss, Kind.REDUCE, (nn.HuberLoss,), (F.huber_loss,))
BINARY_CROSS_ENTROPY = define(
    losses.binary_cross_entropy, Kind.REDUCE, (nn.BCELoss,), (F.binary_cross_entropy,)
)
BINARY_CROSS_ENTROPY_WITH_LOGITS = define(
    losses.binary_cross_entropy_with_logits,
    Kind.REDUCE,
    (nn.BCEWithLogitsLoss,),
    (F.binary_cross_entropy_with_logits,),
)
KL_DIV = define(losses.kl_div, Kind.REDUCE, (nn.KLDivLoss,), (F.kl_div,))
COSINE_SIMILARITY = define(
    losses.cosine_similarity,
    Kind.REDUCE,
    (nn.CosineSimilarity,),
    (F.cosine_similarity, torch.cosine_similarity),
)
