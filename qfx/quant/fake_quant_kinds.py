"""Which fake-quantization a spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.learned_fake_quant import LearnedFakeQuantize
from qfx.quant.observers.base import require_finite
from qfx.quant.weight_fake_quant import WeightFakeQuantize

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


def make_fake_quant(spec: QuantSpec) -> FakeQuantize:
    """The fake-quant of activations under ``spec``."""
    return LearnedFakeQuantize(spec) if spec.observer_class.learns else FakeQuantize(spec)


def make_weight_fake_quant(spec: QuantSpec, like: Tensor) -> FakeQuantize:
    """The fake-quant of a weight such as ``like``; CalibrationError if that is not all finite."""
    require_finite(like, (like,))
    kind = LearnedFakeQuantize if spec.observer_class.learns else WeightFakeQuantize
    return kind(spec, like.detach())
