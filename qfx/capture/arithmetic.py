"""What Python's arithmetic asks of a value beside the operators that fx records itself."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from qfx.capture.evaluation import EvaluatingTracer


class Arithmetic:
    """Rounding, division with a rest, and operators in place, recorded.

    Attributes:
        example: the value that the example inputs give.
        tracer: what records.
    """

    example: Any
    tracer: EvaluatingTracer

    # Rounding asks the number for it, and takes whatever it says.
    def __round__(self, *digits: object) -> Any:
        return self.tracer.call(round, self, *digits)

    def __trunc__(self) -> Any:
        return self.tracer.call(math.trunc, self)

    def __floor__(self) -> Any:
        return self.tracer.call(math.floor, self)

    def __ceil__(self) -> Any:
        return self.tracer.call(math.ceil, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self


def _inplace(name: str) -> Callable[[Arithmetic, object], Any]:
    """``x += y``: in place on tensors, which others may read, and a new value for the rest."""

    def method(self: Arithmetic, other: object) -> Any:
        tensor = isinstance(self.example, torch.Tensor)
        target = getattr(operator, f"i{name}" if tensor else _PLAIN.get(name, name))
        return self.tracer.call(target, self, other)

    return method


_PLAIN = {"and": "and_", "or": "or_"}
_OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
for _name in _OPERATORS:
    setattr(Arithmetic, f"__i{_name}__", _inplace(_name))
