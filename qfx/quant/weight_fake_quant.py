"""Fake-quantization that follows a weight, which moves with every step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

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

    Where calibration found another scale than the observer does, as where it chose the codes, the
    scale starts there, and moves in proportion to what the observer says of the weight from then
    on: codes that were left to spare, or values that are clipped, stay so in training.

    Args:
        spec: how the weight will be quantized.
        like: a tensor of its shape, from which qparams start; None where state will be given.
        starts: whether that state will have a start.

    Attributes:
        start: (2, ...) the scales that calibration found, and those that the observer found then;
            None where they were the same.
    """

    start: Tensor | None

    def __init__(self, spec: QuantSpec, like: Tensor | None, *, starts: bool = False) -> None:
        super().__init__(spec)
        self.register_buffer("start", torch.empty(0) if starts else None)
        if like is None:
            return
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
        return self.observer_enabled and self.start is None

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

    @torch.no_grad()
    def choose(self) -> None:
        scale, zero_point = self.observer.scale_and_zero_point()
        self._set(self._from_start(scale), zero_point)

    def chosen(self, weight: Tensor) -> QParams:
        """The qparams that ``weight`` will be converted with, unless the observer is off."""
        self.observer.reset()
        self.observer.observe(weight.detach())
        found = self.observer.qparams()
        scale = self._from_start(torch.as_tensor(found.scale, dtype=torch.float32))
        return replace(found, scale=scale if self.spec.per_channel else float(scale))

    def qparams_of(self, weight: Tensor) -> QParams:
        return self.chosen(weight) if self.observer_enabled else self.qparams()

    @torch.no_grad()
    def start_from(self, qparams: QParams) -> None:
        """Take the scale that calibration found for the weight as it is."""
        found = self.scale.clone()
        self._set(torch.as_tensor(qparams.scale), torch.as_tensor(qparams.zero_point))
        if not torch.equal(self.scale, found):
            self.start = torch.stack([self.scale, found])

    def _from_start(self, scale: Tensor) -> Tensor:
        if self.start is None:
            return scale
        first, found = self.start.to(scale.device).unbind()
        moved: Tensor = first * (scale / found)
        return moved

    # -- state -----------------------------------------------------------------------------------
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Take the state of one that started elsewhere, too."""
        if f"{prefix}scale" in state_dict:
            held = state_dict.get(f"{prefix}start")
            self.start = None if held is None else self.scale.new_empty(held.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
