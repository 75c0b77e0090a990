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
MARGIN_RANKING_LOSS = define(
    losses.margin_ranking_loss, Kind.REDUCE, (nn.MarginRankingLoss,), (F.margin_ranking_loss,)
)
COSINE_EMBEDDING_LOSS = define(
    losses.cosine_embedding_loss, Kind.REDUCE, (nn.CosineEmbeddingLoss,), (F.cosine_embedding_loss,)
)
HINGE_EMBEDDING_LOSS = define(
    losses.hinge_embedding_loss, Kind.REDUCE, (nn.HingeEmbeddingLoss,), (F.hinge_embedding_loss,)
)
SOFT_MARGIN_LOSS = define(
    losses.soft_margin_loss, Kind.REDUCE, (nn.SoftMarginLoss,), (F.soft_margin_loss,)
)
MULTI_MARGIN_LOSS = define(
    losses.multi_margin_loss, Kind.REDUCE, (nn.MultiMarginLoss,), (F.multi_margin_loss,)
)
MULTILABEL_MARGIN_LOSS = define(
    losses.multilabel_margin_loss,
    Kind.REDUCE,
    (nn.MultiLabelMarginLoss,),
    (F.multilabel_margin_loss,),
)
MULTILABEL_SOFT_MARGIN_LOSS = define(
    losses.multilabel_soft_margin_loss,
    Kind.REDUCE,
    (nn.MultiLabelSoftMarginLoss,),
    (F.multilabel_soft_margin_loss,),
)
TRIPLET_MARGIN_LOSS = define(
    losses.triplet_margin_loss, Kind.REDUCE, (nn.TripletMarginLoss,), (F.triplet_margin_loss,)
)
POISSON_NLL_LOSS = define(losses.poisson_nll_loss, Kind.REDUCE, (), (F.poisson_nll_loss,))
GAUSSIAN_NLL_LOSS = define(
    losses.gaussian_nll_loss, Kind.REDUCE, (nn.GaussianNLLLoss,), (F.gaussian_nll_loss,)
)
CTC_LOSS = define(losses.ctc_loss, Kind.REDUCE, (nn.CTCLoss,), (F.ctc_loss,))
