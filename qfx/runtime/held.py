"""Weights that are restored from what graphs hold, when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from qfx.vocab import DEQUANTIZE, UNPACK, OpDef, is_op


@dataclass(frozen=True)
class Stored:
    """What a node computes from constants: operation and operands, of which some are the same."""

    operation: OpDef
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def value(self) -> Tensor:
        """The tensor, computed."""
        args = [_value(each) for each in self.args]
        kwargs = {name: _value(each) for name, each in self.kwargs.items()}
        found: Tensor = self.operation.function(*args, **kwargs)
        return found

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Stored:
        """The same of converted tensors."""
        args = tuple(_converted(each, convert) for each in self.args)
        kwargs = {name: _converted(each, convert) for name, each in self.kwargs.items()}
        return replace(self, args=args, kwargs=kwargs)


@dataclass(frozen=True)
class HeldWeight:
    """A weight that is restored when it is read.

    Attributes:
        stored: what the graphs restore it from.
        turned: whether that is the weight with its last two dimensions swapped.
        rows, columns: scales of its first and second dimension; None for ones.
        dtype: of the weight.
        graph, node: which graph restores it, counted from 0, and the node of its reference form.
    """

    stored: Stored | Tensor
    turned: bool
    rows: Tensor | None
    columns: Tensor | None
    dtype: torch.dtype
    graph: int
    node: str

    @property
    def device(self) -> torch.device:
        """Where it is restored."""
        return _device(self.stored)

    def value(self) -> Tensor:
        """The weight."""
        found = _value(self.stored)
        found = found.mT if self.turned else found
        for scales in (self.rows, self.columns):
            found = found if scales is None else found * scales
        restored: Tensor = found.to(self.dtype)
        return restored

    def converted(self, convert: Callable[[Tensor], Tensor]) -> HeldWeight:
        """The same of converted tensors."""
        stored, rows, columns = (
            _converted(each, convert) for each in (self.stored, self.rows, self.columns)
        )
        return replace(self, stored=stored, rows=rows, columns=columns)

    def tensors(self) -> Iterator[Tensor]:
        """What it needs beside the stored."""
        yield from (each for each in (self.rows, self.columns) if each is not None)


@dataclass(frozen=True)
class Stacked:
    """A weight whose parts along its first dimension the graphs hold one by one, as of experts."""

    parts: tuple[HeldWeight, ...]

    @property
    def device(self) -> torch.device:
        """Where it is restored."""
        return self.parts[0].device

    def value(self) -> Tensor:
        """The weight."""
        return torch.stack([each.value() for each in self.parts])

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Stacked:
        """The same of converted tensors."""
        return Stacked(tuple(each.converted(convert) for each in self.parts))

    def tensors(self) -> Iterator[Tensor]:
        """What it needs beside the stored."""
        for each in self.parts:
            yield from each.tensors()


Restored: TypeAlias = "HeldWeight | Stacked"
"""A weight that is restored when it is read."""


def _value(operand: object) -> Any:
    return operand.value() if isinstance(operand, Stored) else operand


def _device(stored: Stored | Tensor) -> torch.device:
    while isinstance(stored, Stored):
        stored = next(each for each in stored.args if isinstance(each, (Stored, Tensor)))
    return stored.device


def _converted(value: object, convert: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Stored):
        return value.converted(convert)
    return convert(value) if isinstance(value, Tensor) else value


def held_weight_of(
    node: fx.Node,
    reference: fx.GraphModule,
    graph: int,
    turned: bool,
    rows: Tensor | None,
    columns: Tensor | None,
    dtype: torch.dtype,
) -> HeldWeight:
    """The weight that a node of the reference form of a graph restores from constants."""
    stored = _stored(node, reference)
    return HeldWeight(stored, turned, rows, columns, dtype, graph, node.name)


def restores(node: fx.Node) -> bool:
    """Whether a node is a constant, or one restored: no tree of operations, however it is told."""
    if not is_op(node, DEQUANTIZE):
        return node.op == "get_attr"
    codes, *numbers = node.all_input_nodes
    codes = codes.all_input_nodes[0] if is_op(codes, UNPACK) else codes
    return all(each.op == "get_attr" for each in (codes, *numbers))


def _stored(node: fx.Node, reference: fx.GraphModule) -> Stored | Tensor:
    if node.op == "get_attr":
        found: Tensor = attrgetter(str(node.target))(reference)
        return found
    operands: dict[fx.Node, Any] = {n: _stored(n, reference) for n in node.all_input_nodes}
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), operands.__getitem__)
    assert isinstance(node.target, OpDef)
    return Stored(node.target, tuple(args), dict(kwargs))
