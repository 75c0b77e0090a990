"""Arithmetic of sizes and other numbers of Python, which a graph carries out when it runs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

_OPERATORS = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv),
    *(operator.mod, operator.pow, operator.neg, operator.pos, operator.abs, operator.invert),
    *(operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    operator.not_,
)
_BUILTINS: tuple[Callable[..., Any], ...] = (len, int, float, bool, round, max, min)
_OF_MATH = tuple(f for name, f in vars(math).items() if callable(f) and not name.startswith("_"))


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions of numbers, each with a name of its own."""
    taken: set[str] = set()
    for function in (*_OPERATORS, *_BUILTINS, *_OF_MATH):
        name = function.__name__.strip("_")
        name = f"math_{name}" if name in taken else name
        taken.add(name)
        yield name, function
