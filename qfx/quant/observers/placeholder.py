"""The observer that measures nothing: of values whose qparams are found at run time, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from torch import Tensor

from qfx.errors import ConfigError
from qfx.quant.observers.base import Observer
from qfx.quant.observers.registry import register_observer

if TYPE_CHECKING:
    from qfx.quant.spec import QuantSpec


@register_observer("placeholder")
class PlaceholderObserver(Observer):
    """Hands its input through; it needs no data and has no qparams.

    The observer of specs with ``dynamic=True``, whose qparams are measured at run time, and of
    torch.float16, which has none. No other spec can have it.
    """

    measures = False

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        if not spec.is_unobserved:
            raise ConfigError(
                "observer 'placeholder' measures nothing, and these codes need a scale: choose"
                " another observer, or set dynamic=True to measure at run time"
            )

    @property
    def seen(self) -> bool:
        """Always: there is nothing to wait for."""
        return True

    def observe(self, x: Tensor) -> None:
        """Nothing depends on data."""

    def qparams(self) -> NoReturn:
        """There are none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.spec} is measured at run time or has no scale: there are no qparams to ask"
            " for; quantize with qfx.ops.dynamic_qparams, or convert with .to(dtype)"
        )

    def range(self) -> NoReturn:
        """There is none; see :meth:`qparams`."""
        self.qparams()

    @property
    def lacks_range(self) -> bool:
        """Never: none is wanted."""
        return False

    def absorb(self, other: PlaceholderObserver) -> None:
        """Nothing was seen."""

    def reset(self) -> None:
        """Nothing was seen."""
