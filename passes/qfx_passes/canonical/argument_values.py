"""Arguments as values: which are computed when the model runs, and which are integers."""

from __future__ import annotations

from torch import fx

from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx_passes.canonical.call_site import Arguments


def integers(value: object, dims: int) -> tuple[int, ...] | None:
    """``value`` as ``dims`` integers, or None if it isn't made of integers."""
    values = (value,) * dims if isinstance(value, int) else value
    if not isinstance(values, (tuple, list)) or not all(type(v) is int for v in values):
        return None
    return tuple(values) * (dims if len(values) == 1 else 1)


def is_computed(value: object) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(v, fx.Node) for v in values)


def computed(name: str) -> Mismatch:
    return Mismatch("its {0} is computed when the model runs, from a shape, say", name)


def expand(arguments: Arguments, dims: int, *names: str) -> Mismatch | None:
    for name in names:
        if name not in arguments or arguments[name] is None:
            continue
        if is_computed(arguments[name]):
            return computed(name)
        expanded = integers(arguments[name], dims)
        if expanded is None or len(expanded) != dims:
            return Mismatch("{0}={1} is not {2} integers", name, arguments[name], dims)
        arguments[name] = expanded
    return None


def rank_of(value: object) -> int | None:
    info = meta.tensor_info(value) if isinstance(value, fx.Node) else None
    return None if info is None else len(info.shape)
