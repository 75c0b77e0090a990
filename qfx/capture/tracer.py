"""The tracer: records what a model does with proxies that know their values.

Every node is computed once, as it is recorded, from the example inputs: that gives its shape and
dtype, and lets an operation that does not fit its inputs fail at the user's own line. The cost is
one forward pass and a constant per node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from qfx.capture.assignments import Assignments, Filled
from qfx.capture.draws import Draws
from qfx.capture.examples import example_of, opened
from qfx.capture.library_functions import (
    FACTORIES,
    conditions_decided,
    masks_seen_through,
)
from qfx.capture.patches import SeenThrough, draws_recorded, methods_recorded
from qfx.capture.proxy import ValueProxy
from qfx.capture.recording import RecordingTracer
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from qfx.graph.containers import is_record, is_size, is_special, parts
from qfx.graph.leaves import LeafPolicy, take_recorders
from qfx.graph.scripted import scripts_recorded
from qfx.private_attributes import is_erased, look_for_wrapped
from qfx.torch_private import pytree


class CaptureTracer(RecordingTracer):
    """Traces one model with one set of example arguments.

    Args:
        leaves: which modules are recorded as one call.
        keep_untraceable: record a child whose forward can't be traced as one call, too.
        remedy: what to do about a model that itself raises on the example inputs; "" if it does
            not.
        contrary: take branches on layouts, and on how the model is run, the other way.
        plain_dtypes: tell dtypes as they are, and guard those of the inputs.
        data_sizes: allow guards on sizes that data decides.
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
        data_sizes: bool = True,
        draw: float | None = None,
        converting: Iterable[dict[str, Any]] = (),
    ) -> None:
        super().__init__(
            remedy=remedy,
            contrary=contrary,
            plain_dtypes=plain_dtypes,
            data_sizes=data_sizes,
            autowrap_modules=(math,),
            autowrap_functions=FACTORIES,
        )
        look_for_wrapped(self, torch)
        self._leaves = leaves
        self._keep_untraceable = keep_untraceable
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
            patches.enter_context(conditions_decided())
            patches.enter_context(draws_recorded(self._draw))
            patches.enter_context(methods_recorded(self._method))
            patches.enter_context(scripts_recorded(self._scripted))
            patches.enter_context(self.blocks)
            patches.enter_context(self._draws)
            patches.enter_context(self._seen_through)
            self._seen_through.replace(self._draws.replaced)
            patches.enter_context(self._witness)
            self._seen_through.show(root)
            self.assignments.watch(root, "")
            try:
                graph = self.trace(root)
                self.copy_returned()
                self.check_data_sizes()  # the model may have caught what was raised
                return graph
            finally:
                self.is_done = True

    def create_args_for_root(
        self, root_fn: Callable[..., object], is_module: bool, concrete_args: object = None
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
        forward: Callable[..., object],
        args: tuple[object, ...],
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
        args: tuple[object, ...],
        kwargs: dict[str, Any],
        note: str,
    ) -> ValueProxy:
        self.assignments.watch_whole(module, path)
        proxy: ValueProxy = self.create_proxy("call_module", path, args, kwargs)
        if note:
            meta.set_note(proxy.node, note)
        return proxy

    def _enter(
        self,
        module: nn.Module,
        path: str,
        forward: Callable[..., object],
        args: tuple[object, ...],
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
        self._guarded = {(n, kind) for n, kind in self._guarded if not is_erased(n)}
        alive = {n for n, p in self._attribute_proxies.items() if not is_erased(p.node)}
        self._attribute_proxies = {n: self._attribute_proxies[n] for n in alive}

    def path_of_module(self, mod: nn.Module) -> str:
        assert self.submodule_paths is not None
        return self.submodule_paths[mod]


def _nothing(root: nn.Module) -> None:
    """What is recorded before :meth:`CaptureTracer.record` says what."""


CaptureTracer.entry = CaptureTracer.record.__code__
