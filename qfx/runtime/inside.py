"""The module in whose place a region is, as it is written, over the weights of the region's graphs.

It computes the calls that no graph takes, layer by layer. Each weight is restored from the codes of
the graphs when it is read, so that there is one set of them:

    W = r W' c

W' is what the graphs restore, r and c are what passes have moved from the channels of its output
and input into what is around it (folded batch-norm, equalization), found by least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.graph.constants import constant_value
from qfx.runtime.constants import hold_the_same
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import DEQUANTIZE, UNPACK, OpDef, is_op

_LIKE = 1e-2
"""Largest squared error of a weight, relative to the weight: that of few bits."""

_BETTER = 0.5
"""How much of the error has to remain at most for scales of channels to be worth their memory."""

_ROUNDS = 4
_HELD = "_held"
_HOLDER = "module"
"""Where a graph keeps what a layer holds that is captured by itself."""


def over_codes(module: nn.Module, graphs: Sequence[QuantizedModel]) -> tuple[nn.Module, int]:
    """``module`` over the weights of ``graphs``, and how many bytes it needs besides.

    Args:
        module: in eval mode; used up.
        graphs: quantized, of this module.
    """
    constants = [_Constants(graph.reference) for graph in graphs]
    made: dict[int, Held | Tensor] = {}
    for path, owner in list(module.named_modules()):
        held: dict[str, Held] = {}
        for registry in (owner._parameters, owner._buffers):
            for name, tensor in list(registry.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _found(constants, path, name, tensor)
                found = made[id(tensor)]
                if isinstance(found, Held):
                    held[name] = found
                    del registry[name]
                else:
                    registry[name] = found
        if held:
            hold(owner, held)
    theirs = {id(t) for each in constants for t in each.tensors}
    return module, sum(
        t.numel() * t.element_size()
        for t in {id(t): t for t in _tensors(module)}.values()
        if id(t) not in theirs
    )


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
class Held:
    """A weight that is restored when it is read.

    Attributes:
        stored: what the graphs restore it from.
        turned: whether that is the transposed weight.
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

    def value(self) -> Tensor:
        """The weight."""
        found = _value(self.stored)
        found = found.t() if self.turned else found
        for scales in (self.rows, self.columns):
            found = found if scales is None else found * scales
        restored: Tensor = found.to(self.dtype)
        return restored

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Held:
        """The same of converted tensors."""
        stored, rows, columns = (
            _converted(each, convert) for each in (self.stored, self.rows, self.columns)
        )
        return replace(self, stored=stored, rows=rows, columns=columns)

    def tensors(self) -> Iterator[Tensor]:
        """What it needs beside the stored."""
        yield from (each for each in (self.rows, self.columns) if each is not None)


def _value(operand: Any) -> Any:
    return operand.value() if isinstance(operand, Stored) else operand


def _converted(value: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Stored):
        return value.converted(convert)
    return convert(value) if isinstance(value, Tensor) else value


# -- where a weight is ----------------------------------------------------------------------------
class _Constants:
    """The constants of a reference graph by name."""

    def __init__(self, reference: fx.GraphModule) -> None:
        self.reference = reference
        self.named = dict((*reference.named_parameters(), *reference.named_buffers()))
        self.tensors = list(self.named.values())
        self._nodes: dict[str, list[fx.Node]] = {}  # by the path of what holds them
        for node in reference.graph.nodes:
            if node.op != "get_attr":
                continue
            path = str(node.target).rpartition(".")[0]
            self._nodes.setdefault(path, []).append(node)

    def of(self, path: str, name: str) -> Iterator[fx.Node]:
        """The nodes that yield what is made of the tensor ``name`` of the module at ``path``."""
        places = (path, f"{_HOLDER}.{path}".rstrip("."))
        for node in (node for place in places for node in self._nodes.get(place, ())):
            if not str(node.target).rpartition(".")[2].startswith(name):
                continue
            yield node
            yield from (user for user in node.users if is_op(user, DEQUANTIZE))
            unpacked = (u for u in node.users if is_op(u, UNPACK))
            yield from (user for each in unpacked for user in each.users if is_op(user, DEQUANTIZE))


def _found(constants: Sequence[_Constants], path: str, name: str, tensor: Tensor) -> Held | Tensor:
    """What stands for a tensor of the module: the same of a graph, what restores it, or itself."""
    best: tuple[float, Held] | None = None
    for at, each in enumerate(constants):
        same = each.named.get(f"{path}.{name}".lstrip("."))
        if same is not None and hold_the_same(same, tensor):
            return same
        for node in dict.fromkeys(each.of(path, name)):
            value = constant_value(node, each.reference)
            if value is None or not isinstance(value, Tensor):
                continue
            if node.op == "get_attr" and hold_the_same(value, tensor):
                return value
            found = None
            if tensor.dim() > 1:
                found = _likeness(node, at, each.reference, value, tensor)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
    return tensor if best is None else best[1]


def _likeness(
    node: fx.Node, graph: int, reference: fx.GraphModule, value: Tensor, tensor: Tensor
) -> tuple[float, Held] | None:
    """How far a weight is from what ``node`` yields, and the weight held by that; None if far."""
    if not (tensor.is_floating_point() and value.is_floating_point()):
        return None
    turned = value.shape != tensor.shape
    value = value.t() if turned and value.dim() == 2 else value
    if value.shape != tensor.shape or value.device != tensor.device:
        return None
    goal, value = tensor.detach().float(), value.detach().float()
    plain = least = _error(goal, value)
    scaled: tuple[Tensor | None, Tensor | None] = None, None
    if plain > _LIKE**2:
        rows, columns = _scales(goal, value)
        error = _error(goal, value * rows * columns)
        if error < _BETTER * plain:
            least, scaled = error, (_none_if_one(rows), _none_if_one(columns))
    if least > _LIKE:
        return None
    return least, held_by(node, reference, graph, turned, *scaled, tensor.dtype)


def held_by(
    node: fx.Node,
    reference: fx.GraphModule,
    graph: int,
    turned: bool,
    rows: Tensor | None,
    columns: Tensor | None,
    dtype: torch.dtype,
) -> Held:
    """The weight that a node of the reference form of a graph restores from constants."""
    stored = _stored(node, reference)
    return Held(stored, turned, rows, columns, dtype, graph, node.name)


def _error(goal: Tensor, value: Tensor) -> float:
    return float((goal - value).square().sum() / goal.square().sum().clamp(min=1e-30))


def _scales(goal: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """R and c for which r W' c is nearest to W, each in turns."""
    rows, columns = torch.ones_like(goal[:, :1]), torch.ones_like(goal[:1])
    rows, columns = _flat(rows), _flat(columns)
    for _ in range(_ROUNDS):
        rows = _fit(goal, value * columns, 0)
        columns = _fit(goal, value * rows, 1)
    return rows, columns


def _flat(scales: Tensor) -> Tensor:
    keep = tuple(range(2, scales.dim()))
    return scales.amax(keep, keepdim=True) if keep else scales


def _fit(goal: Tensor, value: Tensor, axis: int) -> Tensor:
    """The scales of one dimension: <W, W'> / <W', W'> over the others; 0 where W' is 0."""
    others = tuple(d for d in range(goal.dim()) if d != axis)
    product = (goal * value).sum(others, keepdim=True)
    return product / value.square().sum(others, keepdim=True).clamp(min=1e-30)


def _none_if_one(scales: Tensor) -> Tensor | None:
    return None if torch.allclose(scales, torch.ones_like(scales), atol=1e-4) else scales


def _stored(node: fx.Node, reference: fx.GraphModule) -> Stored | Tensor:
    if node.op == "get_attr":
        found: Tensor = attrgetter(str(node.target))(reference)
        return found
    operands: dict[fx.Node, Any] = {n: _stored(n, reference) for n in node.all_input_nodes}
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), operands.__getitem__)
    assert isinstance(node.target, OpDef)
    return Stored(node.target, tuple(args), dict(kwargs))


# -- how a module reads it ------------------------------------------------------------------------
def hold(owner: nn.Module, held: dict[str, Held]) -> None:
    """Let ``owner`` restore weights when they are read, as parametrized modules compute theirs."""
    vars(owner)[_HELD] = held
    kind = type(owner)
    body: dict[str, Any] = {name: property(_restored(name)) for name in held}
    body["_apply"] = _apply
    if isinstance(owner, nn.RNNBase):
        del vars(owner)["_flat_weights"]
        body["_flat_weights"] = property(_flat_weights, lambda self, flat: None)
    owner.__class__ = type(kind.__name__, (kind,), body)


def weights_held(module: nn.Module) -> Iterator[tuple[str, Held]]:
    """The weights of a module that are restored when they are read, by all of their names."""
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, held in vars(owner).get(_HELD, {}).items():
            yield f"{path}.{name}".lstrip("."), held


def _flat_weights(self: nn.RNNBase) -> list[Tensor]:
    """What a recurrent layer keeps in a list and puts together anew in every call."""
    return [getattr(self, name) for name in self._flat_weights_names]


def _restored(name: str) -> Callable[[nn.Module], Tensor]:
    return lambda self: vars(self)[_HELD][name].value()


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    held = vars(self)[_HELD]
    vars(self)[_HELD] = {name: each.converted(fn) for name, each in held.items()}
    kind: type[nn.Module] = type(self).__mro__[1]
    made: nn.Module = kind._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
    return made


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for each in module.modules():
        for held in vars(each).get(_HELD, {}).values():
            yield from held.tensors()
