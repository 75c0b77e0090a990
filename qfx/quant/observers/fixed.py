"""The observer that has nothing to observe: qparams known beforehand (sigmoid lies in [0, 1])."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.observers.base import Observer
from qfx.quant.observers.registry import register_observer
from qfx.quant.qparams import QParams
from qfx.semantics import affine as ops

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@register_observer("fixed")
class FixedQParamsObserver(Observer):
    """Qparams given beforehand; data is not looked at.

    In a configuration they are options of the class, and the spec gives dtype and bounds::

        QuantSpec(torch.uint8, observer=FixedQParamsObserver.with_args(scale=1 / 256, zero_point=0))

    Args:
        spec: how the tensor is quantized.
        qparams: the parameters, in place of the options of the class.
    """

    options = ("scale", "zero_point")
    scale: ClassVar[float | None] = None
    zero_point: ClassVar[int | None] = None

    def __init__(self, spec: QuantSpec, qparams: QParams | None = None) -> None:
        super().__init__(spec)
        self.fixed = self.given(spec) if qparams is None else qparams

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        cls.given(spec)

    @classmethod
    def given(cls, spec: QuantSpec) -> QParams:
        """The qparams of the class under ``spec``; ConfigError if they are missing or unfit."""
        if cls.scale is None or cls.zero_point is None:
            raise ConfigError(
                "observer 'fixed' needs qparams: give"
                " FixedQParamsObserver.with_args(scale=..., zero_point=...)"
            )
        qparams = QParams(cls.scale, cls.zero_point, spec.dtype, *spec.bounds)
        if spec.power_of_two and math.frexp(cls.scale)[0] != 0.5:
            raise ConfigError(
                f"the fixed scale {cls.scale} is no power of two, which the spec asks for;"
                f" choose {ops.next_power_of_two(cls.scale)}, or power_of_two=False"
            )
        return qparams

    @property
    def seen(self) -> bool:
        """Always: the qparams are known."""
        return True

    def qparams(self) -> QParams:
        return self.fixed

    def scale_and_zero_point(self) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(self.fixed.scale), torch.as_tensor(self.fixed.zero_point)

    def record(self, x: Tensor) -> None:
        """Take nothing in: no qparams depend on data."""

    def range(self) -> tuple[Tensor, Tensor]:
        """The values of the smallest and the largest code."""
        bounds = torch.tensor([self.fixed.quant_min, self.fixed.quant_max], dtype=torch.int32)
        low, high = self.fixed.dequantize(bounds)
        return low, high

    def absorb(self, other: FixedQParamsObserver) -> None:
        if self.fixed != other.fixed:
            raise ConfigError(f"can't merge fixed qparams {other.fixed} into {self.fixed}")

    def reset(self) -> None:
        """Take nothing in: no qparams depend on data."""
