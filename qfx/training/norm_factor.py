"""f = gamma / sigma of a batch-norm's running statistics, by which its layer's weight is scaled.

It is computed before the batch-norm moves its statistics, and backward needs it as it was then. Two
who compute forward a second time in backward, from statistics that have moved, must not do so here:
checkpoints (the module remembers) and torch.compile (it may not look into the call).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qfx.library import define
from qfx.quant.fake_quant import recomputes
from qfx.semantics.folding import norm_factor

_LEAST = 1e-8
"""Least magnitude of f: where gamma is 0, as residual branches start, it would be no divisor. What
is multiplied by f is divided by it at once, so that any value serves there."""


def _computed(var: Tensor, gamma: Tensor | None, eps: float) -> Tensor:
    factor = norm_factor(var, gamma, eps).to(var.dtype)
    return torch.where(factor.abs() < _LEAST, _LEAST, factor)


_operation = define(
    "norm_factor(Tensor var, Tensor? gamma, float eps)",
    _computed,
    lambda var, gamma, eps: var.new_empty(var.shape),
)


class NormFactor(nn.Module):
    """Computes f for the layer before a batch-norm, without a gradient.

    Args:
        eps: of the batch-norm.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self._last: Tensor | None = None

    @torch.no_grad()
    def forward(self, var: Tensor, gamma: Tensor | None = None) -> Tensor:
        """f, (C,), of the running variance and the factor of the batch-norm, (C,) each."""
        if self._last is not None and recomputes():
            return self._last
        factor: Tensor = _operation(var, gamma, self.eps)
        if not torch.compiler.is_compiling():
            self._last = factor
        return factor

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
