"""Dropout of a graph in training: what was written as a module, a function or stochastic depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import vocab
from qfx.semantics.layers import attention


def _stochastic_depth(x: Tensor, p: float, training: bool, *, rows: bool) -> Tensor:
    """Zero whole samples (``rows``), or the batch (Huang et al. 2016, arXiv:1603.09382)."""
    if not training:
        return x
    shape = [x.shape[0] if rows else 1] + [1] * (x.dim() - 1)
    kept = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1.0 - p)
    return x * (kept.div_(1.0 - p) if p < 1.0 else kept)


_FUNCTIONS: dict[str, Callable[[Tensor, float, bool], Tensor]] = {
    "dropout": F.dropout,
    "dropout1d": F.dropout1d,
    "dropout2d": F.dropout2d,
    "dropout3d": F.dropout3d,
    "alpha_dropout": F.alpha_dropout,
    "feature_alpha_dropout": F.feature_alpha_dropout,
    "row": partial(_stochastic_depth, rows=True),
    "batch": partial(_stochastic_depth, rows=False),
}


class Dropout(nn.Module):
    """Drops values in training, and hands its input through in inference.

    Args:
        p: probability that a value (a channel, a sample) is zeroed; the rest is scaled up.
        kind: name of the function in ``torch.nn.functional``; "row" or "batch" for stochastic
            depth.
    """

    hands_on: ClassVar[bool] = True  # as graph.inference asks

    def __init__(self, p: float, kind: str = "dropout") -> None:
        super().__init__()
        self.p, self.kind = p, kind
        self._drop = _FUNCTIONS[kind]

    def forward(self, x: Tensor) -> Tensor:
        """Drop from ``x`` in training."""
        return self._drop(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, kind={self.kind!r}"


class AttentionDropout(nn.Module):
    """Attention that drops out of its weights in training.

    Args:
        p: probability that a weight is zeroed; the rest is scaled up.
        flags: attributes of :func:`qfx.semantics.layers.attention`.
    """

    def __init__(self, p: float, flags: Mapping[str, Any]) -> None:
        super().__init__()
        self.p, self.flags = p, dict(flags)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The mixed values, as :func:`qfx.semantics.layers.attention`."""
        if not self.training:
            return attention(query, key, value, mask, **self.flags)
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout_p=self.p, **self.flags
        )

    def stands_for(self) -> tuple[vocab.OpDef, Mapping[str, Any]]:
        """The operation whose shapes these are, as graph.inference asks."""
        return vocab.ATTENTION, self.flags

    def extra_repr(self) -> str:
        return f"p={self.p}"


KINDS = tuple(_FUNCTIONS)
"""What :class:`Dropout` takes."""
