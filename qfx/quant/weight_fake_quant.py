"""Fake-quantization that follows a weight, which moves with every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.quant.fake_quant import FakeQuantize, recomputes
from qfx.quant.qparams import QParams

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


class WeightFakeQuantize(FakeQuantize):
    """Rounds a weight with qparams that follow it, in training and inference alike.

    The range of a weight is no statistic of data: it is what its observer says of the weight as it
    is, and of nothing before. A weight that is not finite has no range; it rounds to NaN, as it
    does in float. With the observer off, qparams stay as they are.

    Args:
        spec: how the weight will be quantized.
        like: a tensor of its shape, from which qparams start.
    """

    def __init__(self, spec: QuantSpec, like: Tensor) -> None:
        super().__init__(spec)
        self.observer.to(like.device)
        qparams = self.chosen(like)
        self.scale = torch.as_tensor(qparams.scale, device=like.device)
        kind = torch.float32 if spec.offset else torch.int32
        self.zero_point = torch.as_tensor(qparams.zero_point, device=like.device).to(kind)
        self._initialized = True

    def forward(self, x: Tensor) -> Tensor:
        """``x`` rounded."""
        if (self.observer_enabled or self.lacks_range) and not recomputes():
            self.update(x)
        return self.rounded(x) if self.fake_quant_enabled else x

    @property
    def follows_weight(self) -> bool:
        return self.observer_enabled

    @property
    def observes_data(self) -> bool:
        return False

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Let the range be that of ``x``."""
        self.observer.clear()
        if self.observer.track(x):
            self.choose()
        else:
            self.scale.fill_(torch.nan)

    def chosen(self, weight: Tensor) -> QParams:
        """The qparams that ``weight`` will be converted with, unless the observer is off."""
        self.observer.reset()
        self.observer.observe(weight.detach())
        return self.observer.qparams()
