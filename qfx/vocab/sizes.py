"""Queries of shapes, and arithmetic of what they yield: no tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from qfx.semantics import numbers, queries
from qfx.vocab.definition import Kind, OpDef, define

# -- queries (no tensor result) ------------------------------------------------------------------
SIZE = define(queries.size, Kind.QUERY, (), (), ("size",), asks_form=True)
DIM = define(queries.dim, Kind.QUERY, (), (), ("dim", "ndimension"), asks_form=True)
DTYPE = define(queries.dtype, Kind.QUERY)
DEVICE = define(queries.device, Kind.QUERY, asks_form=True)
GUARD = define(queries.guard, Kind.QUERY)
fx.node.has_side_effect(GUARD)  # nothing reads a guard, yet it must stay

# -- arithmetic of sizes and other plain numbers -------------------------------------------------
SCALARS: dict[Callable[..., Any], OpDef] = {
    function: define(function, Kind.QUERY, name=f"scalar_{name}", asks_form=function is len)
    for name, function in numbers.functions()
}
"""The operation for each function of numbers."""
