"""Fake-quantization with a scale that is learned by gradient descent (Esser et al. 2020)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers.base import is_empty
from qfx.quant.qparams import QParams
from qfx.semantics import affine as ops

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


class LearnedFakeQuantize(FakeQuantize):
    """Learns the scale together with the weights (LSQ).

    With q the clamped code and v = x / scale + zero_point, unclamped,

        dy/dscale = q - v   inside the bounds, else q - zero_point

    times 1 / sqrt(N * quant_max) for N values a scale, so that a scale moves as fast as a weight.
    The scale starts from the first tensor (a weight: from its values now) that is not all zeros: at
    2 E|x| / sqrt(quant_max) where codes are symmetric, else at the range. The zero point stays
    where it starts. Where the mean of |x| is beyond the largest code, gradients pass nearly nowhere
    and the scale is lost: it starts again.

    Args:
        spec: how the tensor will be quantized.
        like: of a weight, the weight; None for activations.
    """

    scale: nn.Parameter

    def __init__(self, spec: QuantSpec, like: Tensor | None = None) -> None:
        super().__init__(spec)
        del self.scale, self.zero_point
        channels = like.shape[spec.channel_axis or 0] if like is not None else 1
        shape = (channels,) if spec.per_channel else ()
        device = None if like is None else like.device
        self.scale = nn.Parameter(torch.ones(shape, dtype=torch.float32, device=device))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32, device=device))
        if like is not None:
            self.update(like)

    @property
    def observer_enabled(self) -> bool:
        """Whether the scale is learned; off, it is no parameter to train any more."""
        return self._learns

    @observer_enabled.setter
    def observer_enabled(self, enabled: bool) -> None:
        self._learns = enabled
        if isinstance(self.scale, nn.Parameter):
            self.scale.requires_grad_(enabled)
            self.scale.grad = None

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Choose where the scale starts, once, and again where it is lost."""
        if x.numel() == 0:
            return
        unknown = is_empty(*self.observer.extent()).all()
        self.observer.track(x)
        self._count_rangeless()
        self._initialized = torch.compiler.is_compiling() or self.observer.seen
        if not self._initialized:
            return
        scale, zero_point = self.observer.scale_and_zero_point()
        axis, (low, high) = self.spec.channel_axis, self.spec.bounds
        rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
        mean = rows.abs().float().mean(1).reshape(scale.shape)
        if self.spec.symmetric:
            scale = torch.where(mean > 0, 2 * mean / math.sqrt(high), scale)
        codes = torch.maximum(high - self.zero_point, self.zero_point - low)
        starts = (unknown | (mean > codes * self.positive_scale())) & scale.isfinite()
        # Through ``data``: where the module is called again, backward reads what is written here.
        self.scale.data.copy_(torch.where(starts, scale, self.scale))
        self.zero_point.data.copy_(torch.where(starts, zero_point, self.zero_point))

    def rounded(self, x: Tensor) -> Tensor:
        """``x`` as its integers stand for it, with a gradient for the scale."""
        axis, bounds = self.spec.channel_axis, self.spec.bounds
        weight = 1.0 / math.sqrt(max(1, x.numel() // self.scale.numel()) * bounds[1])
        return ops.learned_fake_quantize(
            x, self.positive_scale(), self.zero_point, *bounds, axis=axis, gradient_scale=weight
        )

    def positive_scale(self) -> Tensor:
        """The scale, kept from passing zero."""
        return self.scale.abs().clamp_min(ops.MIN_SCALE)

    def qparams(self) -> QParams:
        return self._qparams(self.positive_scale().detach())
