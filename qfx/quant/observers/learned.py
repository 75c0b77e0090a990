"""Observers that say where learned scales start (LSQ: Esser et al. 2020, arXiv:1902.08153).

In quantization-aware training the scale is a parameter (see
:class:`qfx.quant.fake_quant.LearnedFakeQuantize`). Without training there is nothing to learn it
by, and the range is that of the plain min/max observers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfx.errors import ConfigError
from qfx.quant.observers.minmax import MinMaxObserver
from qfx.quant.observers.per_channel import PerChannelMinMaxObserver
from qfx.quant.observers.registry import register_observer

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@register_observer("lsq")
class LearnedScaleObserver(MinMaxObserver):
    """One learned scale."""

    learns = True

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        _check(spec)


@register_observer("lsq_per_channel")
class LearnedPerChannelScaleObserver(PerChannelMinMaxObserver):
    """A learned scale per channel."""

    per_tensor = "lsq"
    learns = True

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        super().check(spec)
        _check(spec)


def _check(spec: QuantSpec) -> None:
    for name in ("group_size", "power_of_two"):
        if getattr(spec, name):
            raise ConfigError(
                f"a learned scale can't go with {name}={getattr(spec, name)}: leave that out, or "
                "choose observer='minmax'"
            )
