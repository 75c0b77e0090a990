"""What every export takes: a quantized model."""

from __future__ import annotations

from torch import nn

from qfx.errors import ConfigError
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel


def check_quantized(qmodel: object, taker: str) -> None:
    """ConfigError that says what to do, if ``qmodel`` is no quantized model."""
    if isinstance(qmodel, QuantizedModel):
        return
    modules = qmodel.modules() if isinstance(qmodel, nn.Module) else ()
    todo = (
        "call qfx.convert(prepared) first, and give it what that returns"
        if any(isinstance(module, PreparedModel) for module in modules)
        else "give it what qfx.quantize or qfx.convert returned; of several regions, each by itself"
    )
    raise ConfigError(
        f"{taker} takes a quantized model, not {type(qmodel).__name__}. What to do: {todo}"
    )
