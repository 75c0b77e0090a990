"""What every export takes: a quantized model."""

from __future__ import annotations

from torch import nn

from qfx.errors import ConfigError
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import regions_of


def check_quantized(qmodel: object, taker: str) -> None:
    """ConfigError that says what to do, if ``qmodel`` is no quantized model."""
    if isinstance(qmodel, QuantizedModel):
        return
    raise ConfigError(
        f"{taker} takes a quantized model, not {type(qmodel).__name__}. "
        f"What to do: {_todo(qmodel, taker)}"
    )


def _todo(given: object, taker: str) -> str:
    modules = given.modules() if isinstance(given, nn.Module) else ()
    if any(isinstance(module, PreparedModel) for module in modules):
        return "call qfx.convert(prepared) first, and give it what that returns"
    regions = regions_of(given)
    if regions is None:
        return "give it what qfx.quantize or qfx.convert returned"
    names = ", ".join(map(repr, regions))
    return (
        "Python runs between the regions of this model, so that each is exported by itself: "
        f"qfx.{taker}(qmodel.regions[{next(iter(regions), '')!r}], ...); the regions are {names}"
    )
