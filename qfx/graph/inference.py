"""What a node yields, from the shapes and dtypes of its operands: nodes run without values.

On the meta device tensors have shapes and dtypes and no data, so a node costs the same whatever its
sizes. Functions of PyTorch and of the vocabulary yield the same for the same shapes, so of many
equal layers one is run, and none where arithmetic tells (:mod:`qfx.graph.shape_rules`). What needs
data (Python that looks at values, a kernel without a meta version) can't be told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from qfx.graph import meta
from qfx.graph.containers import makes_container
from qfx.graph.copying import side_effects_undone
from qfx.graph.fold_rules import normed
from qfx.graph.interpret import called_by
from qfx.graph.leaves import clear_hooks
from qfx.graph.locks import CAPTURE_LOCK
from qfx.graph.lookup import Lookup
from qfx.graph.shape_rules import told
from qfx.private_attributes import buffers_held, parameters_held
from qfx.torch_private import OVERLOAD, PACKET, holds_scale, pytree
from qfx.vocab import OpDef

_Key: TypeAlias = "tuple[object, ...]"

HANDS_ON = "hands_on"
"""Class attribute of modules that yield a tensor of the shape and dtype of the one they take."""

STANDS_FOR = "stands_for"
"""Method of modules that yield what an operation of the vocabulary does: it, and its attributes."""

_known: dict[_Key, tuple[meta.Value]] = {}
"""What pure functions yield, by function, default dtype and arguments. It holds no tensors."""

_MOST_KNOWN = 10_000


class UnknownValue(Exception):  # noqa: N818 - an outcome that callers see to
    """What a node yields or costs can't be told without running it."""


class Inference:
    """Runs single nodes of a graph without values. Hooks of modules do not run.

    Args:
        graph_module: whose nodes.
        runs: False has arithmetic tell all that is told, and runs nothing: numbers of a graph that
            is not trusted take any time and memory, on the meta device, too.
    """

    def __init__(self, graph_module: fx.GraphModule, *, runs: bool = True) -> None:
        self._graph_module = graph_module
        self._runs = runs
        self._lookup = Lookup(graph_module)
        self._numbers: dict[fx.Node, Any] = {}

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """To be entered around calls of :meth:`run`, which may touch state of the process."""
        with CAPTURE_LOCK, side_effects_undone():
            yield

    def value(self, node: fx.Node) -> meta.Value:
        """What ``node`` yields; whatever its operation raises, or Unknown."""
        if node.op == "get_attr":
            return meta.describe(self._lookup.get(str(node.target)))
        if self._hands_on(node):
            return meta.value_of(node.all_input_nodes[0])
        if any(isinstance(a, torch.dtype) and holds_scale(a) for a in node.args):
            raise UnknownValue(node.name)
        arguments = map_arg((node.args, dict(node.kwargs)), self._operand)
        ready = self._told(node, arguments)
        if ready is not None:
            return ready
        if not self._runs:
            raise UnknownValue(node.name)
        if not _is_pure(node):
            with self.undisturbed():
                return meta.describe(self._call(node, arguments))
        key = (node.target, torch.get_default_dtype(), _key(arguments))
        if not _is_hashable(key):
            return meta.describe(self._call(node, arguments))
        found = _known.get(key)
        if found is None:
            found = (meta.describe(self._call(node, arguments)),)
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[key] = found
        return found[0]

    def run(self, node: fx.Node) -> Any:
        """As :meth:`value`, but the tensors themselves, each time anew."""
        if node.op == "get_attr":
            return _without_values(self._lookup.get(str(node.target)))
        return self._call(node, map_arg((node.args, dict(node.kwargs)), self._operand))

    def refusal(self, node: fx.Node) -> Exception | None:
        """What ``node`` raises on zeros of the shapes that it is given; None if it runs on them.

        To be asked of a node that does not run without values: it may be at fault, or need them.
        Indices and lengths are never at fault: zeros say nothing of those.
        """
        if any(_has_indices(meta.value_of(operand)) for operand in node.all_input_nodes):
            return None
        arguments = map_arg((node.args, dict(node.kwargs)), self._operand)
        try:
            with self.undisturbed():
                args, kwargs = _made(arguments, partial(_tensors, make=torch.zeros, device="cpu"))
                self._target(node, copy.deepcopy)(*args, **kwargs)
        except Exception as error:
            return error
        return None

    def _told(self, node: fx.Node, arguments: object) -> meta.Value:
        """What a rule tells of ``node``, or None."""
        operands, options = _made(arguments, lambda value: value)
        if node.op == "call_function":
            return told(node.target, operands, options)
        if node.op == "call_module":
            return _told_of_module(
                self._graph_module.get_submodule(str(node.target)), operands, options
            )
        return None

    def _hands_on(self, node: fx.Node) -> bool:
        """Whether ``node`` calls a module whose class says that it yields what it is given."""
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            return False
        module = self._graph_module.get_submodule(str(node.target))
        return bool(getattr(type(module), HANDS_ON, False))

    def _call(self, node: fx.Node, arguments: object) -> Any:
        args, kwargs = _made(arguments, partial(_tensors, make=torch.empty, device="meta"))
        with torch.no_grad():
            found = self._target(node, _valueless_module)(*args, **kwargs)
        if _holds(arguments, torch.device) and not _holds(found, torch.Tensor):
            raise UnknownValue(node.name)  # decided by where tensors are that stand in
        return found

    def _target(
        self, node: fx.Node, copied: Callable[[nn.Module], nn.Module]
    ) -> Callable[..., Any]:
        if node.op in ("call_function", "call_method"):
            return called_by(node)
        if node.op == "call_module":
            module = copied(self._graph_module.get_submodule(str(node.target)))
            for each in module.modules():
                clear_hooks(each)
            return module
        raise UnknownValue(node.name)

    def _operand(self, node: fx.Node) -> Any:
        """The shape and dtype of an operand, or the number that it is."""
        value = meta.value_of(node)
        if node.op == "get_attr" and _is_opaque(self._lookup.get(str(node.target))):
            raise UnknownValue(node.name)
        if isinstance(value, meta.TensorInfo) and holds_scale(value.dtype):
            raise UnknownValue(node.name)
        if _is_known(value):
            return _Shape(value)
        # A number has no recorded value; it may be made of sizes, which are known.
        if node not in self._numbers:
            self._numbers[node] = self._number(node)
        return self._numbers[node]

    def _tells_no_number(self, node: fx.Node) -> bool:
        """Whether a rule tells what ``node`` yields: tensors, or numbers that depend on data."""
        return self._told(node, map_arg((node.args, dict(node.kwargs)), self._operand)) is not None

    def _number(self, node: fx.Node) -> Any:
        if (
            not self._runs
            or node.op not in ("call_function", "call_method")
            or self._tells_no_number(node)
        ):
            raise UnknownValue(node.name)
        if makes_container(node):  # others may put something else into it
            raise UnknownValue(node.name)
        try:
            found = self.run(node)
        except Exception as error:
            raise UnknownValue(node.name) from error
        # A device is that of the tensors that stand in: it tells where to make more of them.
        if _holds(found, torch.Tensor):
            raise UnknownValue(node.name)
        return found


class _Shape:
    """Stands for tensors whose shapes and dtypes are known, alone or in tuples and lists."""

    __slots__ = ("value",)

    def __init__(self, value: meta.Value) -> None:
        self.value = value


def infer(node: fx.Node) -> meta.Value:
    """What a node yields, from the shapes of its operands alone; whatever its operation raises."""
    owner = node.graph.owning_module
    if owner is None:
        raise UnknownValue(node.name)
    return Inference(owner).value(node)


def _told_of_module(module: nn.Module, operands: Any, options: Any) -> meta.Value:
    if not hasattr(type(module), STANDS_FOR):
        return normed(module, *operands, **options)
    op, attributes = getattr(module, STANDS_FOR)()
    return told(op, operands, {**options, **attributes})


def _has_indices(value: meta.Value) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_has_indices, value))
    return isinstance(value, meta.TensorInfo) and value.dtype in (torch.int64, torch.int32)


def _holds(value: object, kind: type) -> bool:
    """Whether ``value`` is, or has inside, an object of ``kind``."""
    return any(isinstance(leaf, kind) for leaf in pytree.tree_leaves(value))


def _is_opaque(held: object) -> bool:
    """Whether an attribute is laid out as only kernels understand: what reads it must be run."""
    return isinstance(held, torch.Tensor) and held.layout is not torch.strided


def _is_known(value: meta.Value) -> bool:
    """Whether a value holds tensors only, whose shapes are all there is to know."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_known, value))
    return isinstance(value, meta.TensorInfo)


def _is_pure(node: fx.Node) -> bool:
    """Whether ``node`` yields the same for the same shapes, and disturbs nobody when it runs."""
    if node.op == "call_method":
        return True
    if node.op != "call_function":
        return False
    package = str(getattr(node.target, "__module__", "") or "").partition(".")[0]
    known = (OpDef, OVERLOAD, PACKET)
    own = ("qfx", "torch", "_operator", "math", "builtins")
    return isinstance(node.target, known) or package in own


def _key(arguments: object) -> Any:
    """``arguments`` as something hashable; unlike Python, 1, 1.0 and True are told apart."""
    if isinstance(arguments, _Shape):
        return _key(arguments.value)
    if isinstance(arguments, (tuple, list)):
        return (type(arguments), *map(_key, arguments))
    if isinstance(arguments, dict):
        return (dict, *((name, _key(value)) for name, value in arguments.items()))
    if isinstance(arguments, slice):
        return (slice, _key((arguments.start, arguments.stop, arguments.step)))
    return (type(arguments), arguments)


def _is_hashable(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _made(arguments: object, make: Callable[[meta.Value], object]) -> Any:
    """``arguments`` with what ``make`` makes of shapes, tensors say, in their place."""
    if isinstance(arguments, _Shape):
        return make(arguments.value)
    if isinstance(arguments, tuple):
        items = (_made(each, make) for each in arguments)
        return type(arguments)(*items) if hasattr(arguments, "_fields") else tuple(items)
    if isinstance(arguments, list):
        return [_made(each, make) for each in arguments]
    if isinstance(arguments, dict):
        return {name: _made(each, make) for name, each in arguments.items()}
    if isinstance(arguments, slice):
        ends = (arguments.start, arguments.stop, arguments.step)
        return slice(*(_made(end, make) for end in ends))
    return arguments


def _tensors(value: meta.Value, *, make: Callable[..., torch.Tensor], device: str) -> Any:
    if isinstance(value, meta.TensorInfo):
        return make(value.shape, dtype=value.dtype, device=device)
    if isinstance(value, (tuple, list)):
        return type(value)(_tensors(each, make=make, device=device) for each in value)
    return value


def _valueless_module(module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the meta device."""
    memo: dict[int, Any] = {}
    for each in module.modules():
        for held in (vars(each), parameters_held(each), buffers_held(each)):
            tensors = (value for value in held.values() if isinstance(value, torch.Tensor))
            memo.update((id(tensor), _without_values(tensor)) for tensor in tensors)
    return copy.deepcopy(module, memo)


def _without_values(held: object) -> Any:
    if not isinstance(held, torch.Tensor):
        return held
    made = torch.empty_like(held, device="meta", requires_grad=False)
    return nn.Parameter(made, requires_grad=False) if isinstance(held, nn.Parameter) else made
