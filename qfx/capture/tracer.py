"""The tracer: records what a model does with proxies that know their values.

Every node is computed once, as it is recorded, from the example inputs: that gives its shape and
dtype, and lets an operation that does not fit its inputs fail at the user's own line. The cost is
one forward pass and a constant per node.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from qfx.capture.assignments import Assignments, Filled
from qfx.capture.call_containers import Copy, Given
from qfx.capture.devices import DeviceType
from qfx.capture.draws import Draws
from qfx.capture.evaluation import EvaluatingTracer
from qfx.capture.examples import constant_size, example_of, opened, proxies_in
from qfx.capture.library_functions import (
    FACTORIES,
    REPLACEMENTS,
    TRANSPARENT,
    checks_recorded,
    masks_seen_through,
)
from qfx.capture.patches import SeenThrough, draws_recorded, methods_recorded
from qfx.capture.provenance import Provenance, memory_of
from qfx.capture.proxy import ValueProxy
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta, source
from qfx.graph.containers import is_numpy_scalar, is_record, is_size, is_special, parts
from qfx.graph.leaves import LeafPolicy, take_recorders
from qfx.graph.scripted import Scripted, scripts_recorded
from qfx.torch_private import ASSERT

_DTYPES: dict[type, torch.dtype] = {
    bool: torch.bool,
    int: torch.int64,
    float: torch.float64,
    complex: torch.complex128,
}
"""What PyTorch takes classes of numbers for."""
_ENDS = {"placeholder": "input", "output": "output"}


class CaptureTracer(EvaluatingTracer):
    """Traces one model with one set of example arguments.

    Args:
        leaves: which modules are recorded as one call.
        keep_untraceable: record a child whose forward can't be traced as one call, too.
        remedy: what to do about a model that itself raises on the example inputs; "" if it does
            not.
        contrary: take branches on layouts, and on how the model is run, the other way.
        plain_dtypes: tell dtypes as they are, and guard those of the inputs.
        draw: what Python is to draw where it draws between 0 and 1; None for a random number.
        converting: globals of modules in which ``int`` and ``float`` see through proxies.

    Attributes:
        assignments: the attributes that forward set.
        unfilled: the lists and dicts among the arguments that forward fills with what no graph
            can hold, and where.
        result: what the model yields for the example inputs.
        failed_path: path of the module in which tracing failed.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        leaves: LeafPolicy,
        *,
        keep_untraceable: bool = False,
        remedy: str = "",
        contrary: bool = False,
        plain_dtypes: bool = False,
        draw: float | None = None,
        converting: Iterable[dict[str, Any]] = (),
    ) -> None:
        super().__init__(
            remedy=remedy,
            contrary=contrary,
            plain_dtypes=plain_dtypes,
            autowrap_modules=(math,),
            autowrap_functions=FACTORIES,
        )
        self._autowrap_search.append(torch)
        self._leaves = leaves
        self._keep_untraceable = keep_untraceable
        self._attribute_names: dict[int, str] = {}
        self._attribute_proxies: dict[str, ValueProxy] = {}
        self._optional: list[fx.Node] = []
        self._containers: dict[int, fx.Node] = {}
        self._recorders: dict[nn.Module, list[Callable[..., object]]] = {}
        self._call: Callable[[nn.Module], Any] = _nothing
        self._draws = Draws(self._drawn, draw)
        self._seen_through = SeenThrough(converting, self._asked)
        self.assignments = Assignments()
        self.unfilled: list[str] = []
        self.result: Any = None
        self.failed_path = ""

    # -- entry -----------------------------------------------------------------------------------
    def record(self, root: nn.Module, call: Callable[[nn.Module], Any]) -> fx.Graph:
        """The graph of ``call(root)``, which makes its placeholders with :meth:`create_proxy`."""
        self._call = call
        for name, parameter in root.named_parameters():
            self._attribute_names[id(parameter)] = name
        for name, buffer in root.named_buffers():
            self._attribute_names.setdefault(id(buffer), name)
        self._recorders = {module: take_recorders(module) for module in root.modules()}
        with ExitStack() as patches:
            patches.enter_context(masks_seen_through())
            patches.enter_context(checks_recorded())
            patches.enter_context(draws_recorded(self._draw))
            patches.enter_context(methods_recorded(self._method))
            patches.enter_context(scripts_recorded(self._scripted))
            patches.enter_context(self._draws)
            patches.enter_context(self._seen_through)
            self._seen_through.replace(self._draws.replaced)
            patches.enter_context(self._witness)
            self._seen_through.show(root)
            self.assignments.watch(root, "")
            try:
                return self.trace(root)
            finally:
                self.is_done = True

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: object = None
    ) -> tuple[Any, list[Any]]:
        def run(root: nn.Module) -> Any:
            result = opened(self._call(root))
            self.result = pytree.tree_map(example_of, result, is_leaf=is_size)
            returned = self._returned(result)
            self.unfilled = [f.where for f in self.assignments.filled() if not self._fill(f)]
            return returned

        return run, [self.root]

    def _fill(self, filled: Filled) -> bool:
        """Let the graph put into a list or dict that it is given what the model puts there."""
        steps = list(filled.steps())
        try:
            for _, arguments in steps:
                self.create_arg(arguments)
        except CaptureError:
            return False  # something else than a graph can hold
        for function, arguments in steps:
            self.call(function, filled.proxy, *arguments)
        return True

    def _returned(self, value: Any) -> Any:
        """``value`` with containers of other types than a graph holds made by calls."""
        if type(value) in (tuple, list):
            return type(value)(map(self._returned, value))
        if type(value) is dict:
            return {key: self._returned(item) for key, item in value.items()}
        if is_record(value) and isinstance(value, tuple):
            return type(value)(*map(self._returned, value))
        if is_record(value) or not is_special(value):
            return value  # create_arg knows what to do
        make, arguments = parts(value)
        return self.create_proxy("call_function", make, self._returned(arguments), {})

    def _asked(self, answer: bool, frame: FrameType, what: str) -> bool:
        return answer if self._is_foreign() else self.state(answer, frame, what)

    def _drawn(self, frame: FrameType, what: str, even: bool) -> bool:
        if self._is_foreign():
            return False
        self.draws(frame, what, even)
        return True

    # -- modules and their attributes ------------------------------------------------------------
    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._is_foreign():
            return forward(*args, **kwargs)
        assert self.submodule_paths is not None
        path = self.submodule_paths.get(m)
        if path is None:
            return forward(*args, **kwargs)
        if self._leaves.is_leaf(m, path):
            result: Any = self._record_leaf(m, path, args, kwargs, self._leaves.note(m))
        else:
            result = self._enter(m, path, forward, args, kwargs)
        for recorder in self._recorders.get(m, ()):
            recorder(m, args, result)
        return result

    def _record_leaf(
        self,
        module: nn.Module,
        path: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        note: str,
    ) -> ValueProxy:
        proxy: ValueProxy = self.create_proxy("call_module", path, args, kwargs)
        if note:
            meta.set_note(proxy.node, note)
        return proxy

    def _enter(
        self,
        module: nn.Module,
        path: str,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._paths.append(path)
        self._seen_through.show(module)
        self.assignments.watch(module, path)
        last = next(iter(reversed(self.graph.nodes)), None)
        try:
            return forward(*args, **kwargs)
        except ConfigError:
            raise  # the model itself fails: no reason to hide the child
        except Exception as error:
            self.failed_path = self.failed_path or path
            if not self._keep_untraceable:
                raise
            self._roll_back(last)
            note = str(error) if isinstance(error, CaptureError) else repr(error)
        finally:
            self._paths.pop()
        self.failed_path = ""
        return self._record_leaf(module, path, args, kwargs, note)

    def _roll_back(self, last: fx.Node | None) -> None:
        """Erase every node after ``last``."""
        for node in reversed(self.graph.nodes):
            if node is last:
                break
            self.graph.erase_node(node)
        self._guarded = {(n, kind) for n, kind in self._guarded if not n._erased}
        alive = {n for n, p in self._attribute_proxies.items() if not p.node._erased}
        self._attribute_proxies = {n: self._attribute_proxies[n] for n in alive}

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if not isinstance(attr_val, torch.Tensor) or self._is_foreign():
            return attr_val
        name = self._attribute_names.get(id(attr_val))
        return attr_val if name is None else self._attribute(name)

    def _attribute(self, name: str) -> ValueProxy:
        if name not in self._attribute_proxies:
            self._attribute_proxies[name] = self.create_proxy("get_attr", name, (), {})
        return self._attribute_proxies[name]

    def path_of_module(self, mod: nn.Module) -> str:
        assert self.submodule_paths is not None
        return self.submodule_paths[mod]

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
        return node

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
        args: tuple[Any, ...],
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
        args: tuple[Any, ...],
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

    def _left(self, container: ValueProxy, key: Any) -> Any:
        """What the model finds at ``key`` of a container that a call wrote to."""
        left: Any = container.example
        if isinstance(left[key], (str, bool, type(None))):
            return left[key]
        return self.element(container, key)

    def _draw(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call of a function that draws random numbers."""
        if self._is_foreign():
            return function(*args, **kwargs)
        return self.create_proxy("call_function", function, args, kwargs)

    def _method(
        self,
        name: str,
        method: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a call of a method of tensors that is given proxies."""
        if self._is_foreign() or not proxies_in((args, kwargs)):
            return method(*args, **kwargs)
        return self.create_proxy("call_method", name, args, kwargs)

    def _scripted(self, function: Scripted, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a compiled function that is given proxies; None if it is not."""
        if self._is_foreign() or not proxies_in((args, kwargs)):
            return None
        return self.create_proxy("call_function", function, args, kwargs)

    def placeholder(self, name: str, default: tuple[Any, ...], example: Any) -> ValueProxy:
        """A placeholder that stands for ``example``."""
        node = self.create_node("placeholder", name, default, {})
        meta.set_value(node, meta.describe(example))
        if isinstance(example, torch.Tensor) and example.layout is not torch.strided:
            meta.set_sparse(node)
        return ValueProxy(node, self, example, _given(example), memory_of(example, ()))

    def element(self, proxy: ValueProxy, key: Any) -> ValueProxy:
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
            if not node.users and not node._erased:
                self.graph.erase_node(node)


def _tells_ranks(value: Any) -> bool:
    if type(value) is not ValueProxy or isinstance(value.example, torch.Tensor):
        return False
    return not value.from_size


def _given(example: object) -> Provenance:
    """What an argument of the model depends on: of a tensor, nothing is known but its rank."""
    is_tensor = isinstance(example, torch.Tensor)
    return Provenance(inputs=True, data=is_tensor, sizes=not is_tensor)


def _nothing(root: nn.Module) -> None:
    """What is recorded before :meth:`CaptureTracer.record` says what."""


CaptureTracer.entry = CaptureTracer.record.__code__
