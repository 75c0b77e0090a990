"""Recording: nodes for what a model does, of the values that it is given and makes.

Every node is computed once, as it is recorded (:mod:`qfx.capture.evaluation`).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from qfx.capture.call_containers import Copy, Given
from qfx.capture.data_sizes import DataSizes, DecidedByDataError
from qfx.capture.devices import DeviceType
from qfx.capture.evaluation import EvaluatingTracer
from qfx.capture.examples import constant_size, proxies_in
from qfx.capture.gradients import GradientBlocks
from qfx.capture.library_functions import (
    REPLACEMENTS,
    TRANSPARENT,
)
from qfx.capture.provenance import Provenance, memory_of
from qfx.capture.proxy import ValueProxy
from qfx.errors import CaptureError
from qfx.graph import meta, source
from qfx.graph.containers import is_numpy_scalar, is_record
from qfx.graph.scripted import Scripted
from qfx.private_attributes import is_erased
from qfx.torch_private import ASSERT

_DTYPES: dict[type, torch.dtype] = {
    bool: torch.bool,
    int: torch.int64,
    float: torch.float64,
    complex: torch.complex128,
}
"""What PyTorch takes classes of numbers for."""
_ENDS = {"placeholder": "input", "output": "output"}


class RecordingTracer(EvaluatingTracer):
    """Writes calls, arguments and attributes of one model into a graph.

    Args:
        data_sizes: allow guards on sizes that data decides.
        options: as evaluating.

    Attributes:
        blocks: those of ``torch.no_grad()`` and the like that the model is in.
    """

    def __init__(self, *, data_sizes: bool, **options: Any) -> None:
        super().__init__(**options)
        self._data_sizes = None if data_sizes else DataSizes()
        self._decided_by_data: tuple[str, bool] | None = None
        self._attribute_names: dict[int, str] = {}
        self._attribute_proxies: dict[str, ValueProxy] = {}
        self._optional: list[fx.Node] = []
        self._containers: dict[int, fx.Node] = {}
        self.blocks = GradientBlocks(self.user_frame, self._is_foreign, self.askers)

    # -- attributes ------------------------------------------------------------------------------
    def getattr(
        self, attr: str, attr_val: object, parameter_proxy_cache: dict[str, fx.Proxy]
    ) -> Any:
        if not isinstance(attr_val, torch.Tensor) or self._is_foreign():
            return attr_val
        name = self._attribute_names.get(id(attr_val))
        return attr_val if name is None else self._attribute(name)

    def _attribute(self, name: str) -> ValueProxy:
        if name not in self._attribute_proxies:
            self._attribute_proxies[name] = self.create_proxy("get_attr", name, (), {})
        return self._attribute_proxies[name]

    # -- nodes -----------------------------------------------------------------------------------
    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy):
            return a.node
        if id(a) in self._containers:
            return self._containers[id(a)]
        if id(a) in self.made:
            return self.made[id(a)].node
        if type(a) in (int, float, str, bool, type(None)):
            return a
        if isinstance(a, DeviceType):
            return str(a)
        if is_numpy_scalar(a):
            return a.item()  # the code of a graph is text, and knows no numpy
        if isinstance(a, type) and a in _DTYPES:
            return _DTYPES[a]
        if isinstance(a, torch.Tensor) and id(a) in self._attribute_names:
            return self._attribute(self._attribute_names[id(a)]).node
        if isinstance(a, nn.Parameter):
            self.refuse(
                "a parameter that is not registered under the model",
                "keep its module in an nn.ModuleList or nn.ModuleDict, not in a plain list",
            )
        if isinstance(a, torch.Generator):
            self.refuse(
                "a random generator",
                "draw once, in __init__, and keep the tensor as a buffer, or draw without one",
            )
        if isinstance(a, dict) and is_record(a):  # an output class of transformers
            fields = {k: v for k, v in a.items() if v is not None}
            return self.create_proxy("call_function", type(a), (), fields).node
        if isinstance(a, tuple) and is_record(a):
            return self.create_proxy("call_function", type(a), tuple(a), {}).node
        try:
            return super().create_arg(a)
        except NotImplementedError:
            self.refuse(
                f"a {type(a).__name__} where a graph holds only tensors, numbers, strings and "
                "tuples, lists and dicts of them",
                "pass its parts instead",
            )

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
    ) -> fx.Node:
        if self.is_done:
            raise CaptureError(
                "the model goes on with a value of an earlier capture, which it keeps in a global "
                "or in the cache of a function. What to do: clear that cache, and keep such values "
                "under the model."
            )
        self.settle()
        node = self.graph.create_node(kind, target, args, kwargs, name)
        meta.set_origins(node, (self._origin(node),))
        self.blocks.note(node)
        if self._data_sizes is not None and self._data_sizes.are_guarded(node):
            is_branch = isinstance(node.kwargs["expected"], bool)
            where = self._location() or node.name
            self._decided_by_data = where, is_branch
            self.check_data_sizes()
        return node

    def check_data_sizes(self) -> None:
        """DecidedByDataError if there was a guard on a size that data decides, and none may be."""
        if self._decided_by_data is not None:
            where, branches = self._decided_by_data
            raise DecidedByDataError(where, branches=branches)

    def _origin(self, node: fx.Node) -> meta.Origin:
        path, kind = self._paths[-1], "parameter"
        if node.op in _ENDS:
            return meta.Origin(node.name, "", "", _ENDS[node.op])
        if node.op == "call_module":
            path = str(node.target)
            kind = source.type_name(type(self.root.get_submodule(path)))
        elif node.op == "call_method":
            kind = f"Tensor.{node.target}"
        elif node.op == "call_function":
            kind = source.qualified_name(node.target)
        return meta.Origin(node.name, path, self._location(), kind)

    def _location(self) -> str:
        return source.location(self.user_frame(sys._getframe(2)))

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[object, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: object = None,
    ) -> Any:
        if self.made:
            args = tuple(self.made.get(id(a), a) for a in args)
            kwargs = {name: self.made.get(id(a), a) for name, a in kwargs.items()}
        if kind == "call_function":
            name_of_target = source.qualified_name(target)
            if name_of_target in REPLACEMENTS:
                return REPLACEMENTS[name_of_target](*args, **kwargs)
            if name_of_target in TRANSPARENT:
                return target(*args, **kwargs)
            if target is ASSERT and _tells_ranks(args[0]):
                return bool(args[0])  # those of the inputs are guarded once
        known = constant_size(kind, target, args, kwargs)
        if known is not None:
            return known
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name)
        given = Given()
        proxy = self.evaluate(node, args, kwargs, given)
        written = list(given.written())
        if written:
            self._hand_over(proxy, written, args, kwargs)
        return proxy

    def _hand_over(
        self,
        call: ValueProxy,
        written: list[Copy],
        args: tuple[object, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Let the model go on with what ``call`` wrote to lists and dicts that it was given.

        Such a container becomes a value of the graph, made before the call. What the model's own
        holds from now on is read from it.
        """
        operands = proxies_in((args, kwargs))
        made: list[tuple[Copy, ValueProxy]] = []
        with self.graph.inserting_before(call.node):
            for each in written:
                elements = self.create_arg(each.original)
                node = self.create_node("call_function", type(each.given), (elements,), {})
                self._containers[id(each.original)] = node
                made.append((each, self.proxy_of(node, each.given, args, operands)))
            call.node.args, call.node.kwargs = self.create_arg(args), self.create_arg(kwargs)
        for each, proxy in made:
            del self._containers[id(each.original)]
            self.fix_length(proxy, f"what {call.node.name} left in a {type(each.given).__name__}")
            each.replace({key: self._left(proxy, key) for key in each.keys})

    def _left(self, container: ValueProxy, key: object) -> Any:
        """What the model finds at ``key`` of a container that a call wrote to."""
        left: Any = container.example
        if isinstance(left[key], (str, bool, type(None))):
            return left[key]
        return self.element(container, key)

    def _draw(
        self, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call of a function that draws random numbers."""
        if self._is_foreign():
            return function(*args, **kwargs)
        return self.create_proxy("call_function", function, args, kwargs)

    def _method(
        self,
        name: str,
        method: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a call of a method of tensors that is given proxies."""
        if self._is_foreign() or not proxies_in((args, kwargs)):
            return method(*args, **kwargs)
        return self.create_proxy("call_method", name, args, kwargs)

    def _scripted(
        self, function: Scripted, args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call of a compiled function that is given proxies; None if it is not."""
        if self._is_foreign() or not proxies_in((args, kwargs)):
            return None
        return self.create_proxy("call_function", function, args, kwargs)

    def placeholder(self, name: str, default: tuple[object, ...], example: object) -> ValueProxy:
        """A placeholder that stands for ``example``."""
        node = self.create_node("placeholder", name, default, {})
        meta.set_value(node, meta.describe(example))
        if isinstance(example, torch.Tensor) and example.layout is not torch.strided:
            meta.set_sparse(node)
        return ValueProxy(node, self, example, _given(example), memory_of(example, ()))

    def element(self, proxy: ValueProxy, key: object) -> ValueProxy:
        """An element of a container argument; dropped at the end if nothing reads it."""
        found: ValueProxy = self.create_proxy("call_function", operator.getitem, (proxy, key), {})
        found.provenance = _given(found.example)
        self._optional.append(found.node)
        return found

    def drop_unused(self) -> None:
        """Erase reads of attributes and of container elements that nothing uses."""
        for node in self.graph.nodes:
            node.meta.pop("is_wrapped", None)  # fx would wrap the function for good
        attributes = [p.node for p in self._attribute_proxies.values()]
        for node in (*reversed(self._optional), *attributes):
            if not node.users and not is_erased(node):
                self.graph.erase_node(node)


def _tells_ranks(value: object) -> bool:
    if type(value) is not ValueProxy or isinstance(value.example, torch.Tensor):
        return False
    return not value.from_size


def _given(example: object) -> Provenance:
    """What an argument of the model depends on: of a tensor, nothing is known but its rank."""
    is_tensor = isinstance(example, torch.Tensor)
    return Provenance(inputs=True, data=is_tensor, sizes=not is_tensor)
