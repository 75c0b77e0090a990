"""What training computes from parameters: constants, by the time that a model is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qfx.export.onnx.values import Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    from qfx.export.onnx.writer import Writer


def computed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What computes ``function`` of a parameter once and for all."""

    def write(w: Writer, input: Operand, **options: Any) -> Tensor:
        if isinstance(input, Tensor):
            return function(input, **options)
        raise CannotWrite("a part of a parameter that is computed", "Convert the model first.")

    return write
