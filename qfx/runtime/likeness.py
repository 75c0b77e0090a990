"""Where in the graphs of a module a weight of it is.

    W = r W' c

W' is what the graphs restore, r and c are what passes have moved from the channels of its output
and input into what is around it (folded batch-norm, equalization), found by least squares.

It is looked for under its name first. Constant folding names what it makes after the operation, so
that whatever else the graphs hold is compared, too: as it is, with its last two dimensions swapped,
and with the parts of the weight one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx

from qfx.graph.constants import constant_value
from qfx.runtime.constants import hold_the_same
from qfx.runtime.held import HeldWeight, Restored, Stacked, held_weight_of, restores
from qfx.vocab import DEQUANTIZE, UNPACK, is_op

_LIKE = 1e-2
"""Largest squared error of a weight, relative to the weight: that of few bits."""

_ALIKE_AT_ALL = 0.25
"""The same of its diagonal alone, by which most of what is another weight is told."""

_BETTER = 0.5
"""How much of the error has to remain at most for scales of channels to be worth their memory."""

_ROUNDS = 4
_HOLDER = "module"
"""Where a graph keeps what a layer holds that is captured by itself."""


class Constants:
    """The constants of a reference form.

    Args:
        reference: the graph.
        at: which of the graphs of its region it is, counted from 0.
    """

    def __init__(self, reference: fx.GraphModule, at: int) -> None:
        self.reference = reference
        self.at = at
        self.named = dict((*reference.named_parameters(), *reference.named_buffers()))
        self.tensors = list(self.named.values())
        self._nodes: dict[str, list[fx.Node]] = {}  # by the path of what holds them
        self._diagonals: dict[fx.Node, Tensor | None] = {}
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

    def like(self, tensor: Tensor) -> Iterator[fx.Node]:
        """The nodes that yield what may be ``tensor``, maybe with its last dimensions swapped."""
        goal = tensor.diagonal(dim1=-2, dim2=-1).float()
        for node in filter(restores, self.reference.graph.nodes):
            if node not in self._diagonals:
                self._diagonals[node] = self._diagonal(node)
            value = self._diagonals[node]
            if value is None or (value.shape, value.device) != (goal.shape, goal.device):
                continue
            if _error(goal, value) <= _ALIKE_AT_ALL:
                yield node

    def value(self, node: fx.Node) -> Tensor | None:
        """What a node yields, if that is a floating-point constant."""
        value = constant_value(node, self.reference)
        is_one = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach() if is_one and value is not None else None

    def _diagonal(self, node: fx.Node) -> Tensor | None:
        value = self.value(node)
        if value is None or value.dim() < 2:
            return None
        return value.diagonal(dim1=-2, dim2=-1).float().clone()


def standing_for(
    constants: Sequence[Constants], path: str, name: str, tensor: Tensor
) -> Restored | Tensor:
    """What stands for a tensor of the module: the same of a graph, what restores it, or itself."""
    for each in constants:
        for same in _of_that_name(each, path, name):
            if hold_the_same(same, tensor):
                return same
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return tensor
    named = _nearest(((each, each.of(path, name)) for each in constants), tensor)
    return named or _elsewhere(constants, tensor) or tensor


def _of_that_name(constants: Constants, path: str, name: str) -> Iterator[Tensor]:
    same = constants.named.get(f"{path}.{name}".lstrip("."))
    if same is not None:
        yield same
    for node in constants.of(path, name):
        value = constant_value(node, constants.reference) if node.op == "get_attr" else None
        if isinstance(value, Tensor):
            yield value


def _elsewhere(constants: Sequence[Constants], tensor: Tensor) -> Restored | None:
    """What restores a matrix, or several, whatever it is called."""
    tensor = tensor.detach()
    whole = _nearest(((each, each.like(tensor)) for each in constants), tensor)
    if whole is not None or tensor.dim() < 3:
        return whole
    parts: list[HeldWeight] = []
    for part in tensor:
        held = _nearest(((each, each.like(part)) for each in constants), part)
        if held is None:
            return None
        parts.append(held)
    return Stacked(tuple(parts)) if parts else None


def _nearest(
    nodes: Iterable[tuple[Constants, Iterable[fx.Node]]], tensor: Tensor
) -> HeldWeight | None:
    """The weight held by what is nearest to it; None if nothing is near."""
    best: tuple[float, HeldWeight] | None = None
    for constants, candidates in nodes:
        for node in dict.fromkeys(candidates):
            near = _likeness(constants, node, tensor, turned=False)
            near = near or _likeness(constants, node, tensor, turned=True)
            if near is not None and (best is None or near[0] < best[0]):
                best = near
    return None if best is None else best[1]


def _likeness(
    constants: Constants, node: fx.Node, tensor: Tensor, *, turned: bool
) -> tuple[float, HeldWeight] | None:
    """How far a weight is from what ``node`` yields, and the weight held by that; None if far."""
    value = constants.value(node)
    if value is None or value.dim() < 2:
        return None
    value = value.mT if turned else value
    if value.shape != tensor.shape or value.device != tensor.device:
        return None
    goal, value = tensor.detach().float(), value.float()
    plain = least = _error(goal, value)
    scales: tuple[Tensor | None, Tensor | None] = None, None
    if plain > _LIKE**2:
        rows, columns = _scales(goal, value)
        error = _error(goal, value * rows * columns)
        if error < _BETTER * plain:
            least, scales = error, (_none_if_one(rows), _none_if_one(columns))
    if least > _LIKE:
        return None
    return least, held_weight_of(
        node, constants.reference, constants.at, turned, *scales, tensor.dtype
    )


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
