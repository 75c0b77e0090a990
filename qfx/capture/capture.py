"""Capture: from a model and example inputs to a graph that keeps what was written.

The model is deep-copied and traced with proxies that know their values (:mod:`qfx.capture.tracer`).
The graph has the signature of the model's ``forward``: every parameter is a placeholder, and
arguments that the examples leave out, or that are no tensors or numbers, are fixed by a guard.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from torch import fx, nn

from qfx.capture import arguments
from qfx.capture.assignments import kept_tensors
from qfx.capture.decisions import place
from qfx.capture.draws import ENDS
from qfx.capture.examples import alike
from qfx.capture.naming import rename_reserved
from qfx.capture.signature import keep_keyword_only
from qfx.capture.tracer import CaptureTracer
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta, source
from qfx.graph.copying import (
    Holder,
    apart_from_buffers,
    buffers_restored,
    check_model,
    copy_of,
    parameters_restored,
    side_effects_undone,
)
from qfx.graph.interpret import NamedInterpreter
from qfx.graph.leaves import LeafPolicy, copy_hooks
from qfx.graph.locks import CAPTURE_LOCK
from qfx.graph.modes import Decisions, watch_modes
from qfx.graph.state import written_names
from qfx.graph.working import WorkingGraphModule

_OPAQUE_ROOTS = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Models that do not trace, being leaves themselves."""


ASSIGNED = "qfx.assigned"
"""Key of ``graph_module.meta``: qualified names of the attributes that forward sets."""

FILLED = "qfx.filled"
"""Key of ``graph_module.meta``: the lists and dicts among its arguments that forward fills with
what a graph can't hold."""

EXPECTED = "qfx.expected"
"""Key of ``graph_module.meta``: what the model yields for the example inputs, where asked for."""

DECIDED_BY_MODE = "qfx.decided_by_mode"
"""Key of ``graph_module.meta``: where forward asks whether it is in training ("file:line")."""


BY_STATE = "qfx.by_state"
"""Key of ``graph_module.meta``: what forward asks of how it is run, and where."""

BY_DRAW = "qfx.by_draw"
"""Key of ``graph_module.meta``: what draws random numbers in Python, and where."""

BY_LAYOUT = "qfx.by_layout"
"""Key of ``graph_module.meta``: where forward decides by the layout of a tensor ("file:line")."""


_OTHER_INPUTS = (
    "pass example inputs of the shapes and dtypes that the model takes, or mend the model: it "
    "raises without qfx too"
)
_RESET = (
    "; or, if it takes them, reset what a run on inputs of other sizes may have left in it "
    "({names}) to what it was at first, or pass a model that has not run yet"
)
_Modules: TypeAlias = "dict[int, dict[str, Any]]"
"""Globals of modules, by their identity."""


class _Traced(NamedTuple):
    """The copy that was traced, its graph, what it yields for the examples, and leaves of them,
    what forward sets.

    And where it asks for its training flag, and what else it decides by that no guard holds.
    """

    root: nn.Module
    graph: fx.Graph
    result: Any
    left: dict[str, Any]
    assigned: tuple[str, ...]
    filled: tuple[str, ...]
    decided: tuple[str, ...]
    by_state: tuple[str, ...]
    by_layout: Mapping[str, bool]
    by_draw: Mapping[str, bool]


def capture(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    leaf: Callable[[nn.Module, str], bool] | None = None,
    keep_untraceable: bool = False,
    modes: bool = False,
    keep_expected: bool = False,
) -> fx.GraphModule:
    """Trace ``model`` into a graph whose nodes carry origins, shapes and dtypes.

    Args:
        model: never mutated; the graph module holds a copy of its parameters.
        example_inputs: positional arguments (one tensor may stand for a tuple of one). Tensors,
            numbers, strings, None, and tuples, lists and dicts of them.
        example_kwargs: keyword arguments.
        leaf: ``(module, path) -> bool``, modules to record as one call beside PyTorch's own.
        keep_untraceable: record a child whose forward can't be traced as one call of the child,
            with a note; otherwise that is a CaptureError.
        modes: keep training flags that are handed on apart from constants
            (:mod:`qfx.graph.modes`); the model must be in eval mode.
        keep_expected: keep what the model yields under :data:`EXPECTED`.

    Returns:
        A graph module with the signature of ``model.forward``, in the mode of the model. Sizes
        stay symbolic; where the model's Python decides by them, the graph holds a guard.

    Raises:
        CaptureError: the model, or a copy of it, can't be captured.
        ConfigError: the example inputs do not fit the model.
    """
    check_model(model)
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    kwargs = dict(example_kwargs or {})
    bound = arguments.bind(model, *arguments.copy_tensors((args, kwargs)))
    with CAPTURE_LOCK:
        left = arguments.copy_tensors((args, kwargs))
        expected = _run(model, *left)
        leaves = LeafPolicy(leaf)
        traced = _rightly_traced(_Task(model, bound, leaves, keep_untraceable, expected, modes))
        drawn, is_right = bool(traced.by_draw), alike(traced.result, expected)
        if not isinstance(expected, Exception) and (drawn or not is_right):
            # Two draws may be near each other by chance, but not the same.
            again = _run(model, *arguments.copy_tensors((args, kwargs)))
            is_same = alike(expected, again, to_the_bit=drawn)
            if is_same and not is_right:
                raise CaptureError(_UNSEEN_DECISION)
            traced = traced if is_same else _with_unseen_draws(traced)
            keep_expected = keep_expected and is_same
        elif not isinstance(expected, Exception):
            _check_left(model, left, traced)
    graph_module = _graph_module(traced.root, traced.graph, type(model).__name__)
    graph_module.meta[ASSIGNED] = traced.assigned
    graph_module.meta[FILLED] = traced.filled
    graph_module.meta[DECIDED_BY_MODE] = traced.decided
    graph_module.meta[BY_STATE] = traced.by_state
    graph_module.meta[BY_DRAW] = tuple(traced.by_draw)
    graph_module.meta[BY_LAYOUT] = tuple(traced.by_layout)
    if keep_expected and not isinstance(expected, Exception):
        graph_module.meta[EXPECTED] = expected
    return graph_module


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a copy of the model yields for these inputs; the exception if it raises one."""
    root = copy_of(model)
    with side_effects_undone(model):
        try:
            return root.forward(*args, **kwargs)
        except Exception as error:
            return error


@dataclass(frozen=True)
class _Task:
    """What is traced, and how.

    Attributes:
        expected: what the model yields for the example inputs, or the exception that it raises.
        plain_dtypes: whether the model is told dtypes as they are.
    """

    model: nn.Module
    bound: tuple[arguments.Argument, ...]
    leaves: LeafPolicy
    keep_untraceable: bool
    expected: Any
    modes: bool
    plain_dtypes: bool = False

    @property
    def remedy(self) -> str:
        """What to do if the model itself raises on the example inputs; "" if it does not."""
        if not isinstance(self.expected, Exception):
            return ""
        kept = list(islice(kept_tensors(self.model), 4))
        return _OTHER_INPUTS + (_RESET.format(names=", ".join(kept)) if kept else "")

    def tracer(
        self, converting: _Modules, *, contrary: bool = False, draw: float | None = None
    ) -> CaptureTracer:
        """A tracer for it; options as the tracer has them."""
        return CaptureTracer(
            self.leaves,
            keep_untraceable=self.keep_untraceable,
            remedy=self.remedy,
            contrary=contrary,
            plain_dtypes=self.plain_dtypes,
            draw=draw,
            converting=converting.values(),
        )


def _rightly_traced(task: _Task) -> _Traced:
    """The model traced; with dtypes told as they are where the model computes otherwise else.

    Proxies for dtypes are not what ``is`` compares them with.
    """
    found: _Traced | None = None
    failed: CaptureError | None = None
    try:
        found = _traced(task)
    except CaptureError as error:
        failed = error
    is_wrong = found is None or not alike(found.result, task.expected)
    if is_wrong and not isinstance(task.expected, Exception):
        with suppress(CaptureError, ConfigError):
            other = _traced(replace(task, plain_dtypes=True))
            if alike(other.result, task.expected):
                return other
    if found is None:
        assert failed is not None
        raise failed
    return found


def _traced(task: _Task) -> _Traced:
    """The model traced once, or again where that shows more.

    Which modules make numbers of Python from sizes shows when they do. There ``int`` and ``float``
    get stand-ins, and the model is traced anew: once for nearly all that have any.
    """
    found: _Traced | None = None
    converting: _Modules = {}
    while True:
        tracer = task.tracer(converting)
        failed: CaptureError | ConfigError | None = None
        try:
            found = _trace(task, tracer)
        except (CaptureError, ConfigError) as error:
            failed = error
        if tracer.converting.keys() <= converting.keys():
            break
        converting = {**converting, **tracer.converting}
    if found is None:
        assert failed is not None
        raise failed
    if found.by_state or found.by_layout:
        found = _without_idle_branches(found, task, converting)
    is_even = found.by_draw and all(found.by_draw.values())
    if is_even and all(_same(task, converting, draw=end) for end in ENDS):
        found = found._replace(by_draw={})
    return found


def _without_idle_branches(found: _Traced, task: _Task, converting: _Modules) -> _Traced:
    """``found``, which forgets what it decided by if deciding otherwise changes no values."""
    if not _same(task, converting, contrary=True):
        return found
    told = {where: branches for where, branches in found.by_layout.items() if not branches}
    return found._replace(by_state=(), by_layout=told)


def _same(task: _Task, converting: _Modules, **options: Any) -> bool:
    """Whether the model, told otherwise, computes the same."""
    try:
        other = _trace(task, task.tracer(converting, **options))
    except (CaptureError, ConfigError):
        return False
    return not isinstance(task.expected, Exception) and alike(other.result, task.expected)


def _with_unseen_draws(traced: _Traced) -> _Traced:
    """``traced``, of a model that yields something else each time, with a word if no node does."""
    if traced.by_draw or any(meta.drew(node) for node in traced.graph.nodes):
        return traced
    return traced._replace(by_draw={"something that tracing can't see": False})


def _trace(task: _Task, tracer: CaptureTracer) -> _Traced:
    model, leaves, root = task.model, task.leaves, copy_of(task.model)
    bound = arguments.copies(task.bound)
    if isinstance(root, _OPAQUE_ROOTS):
        root = Holder(root)
    decisions = Decisions()
    if task.modes:
        decisions = watch_modes(root, lambda m, path: path == "" or not leaves.is_leaf(m, path))
    restored = parameters_restored(root, model)
    with side_effects_undone(model), buffers_restored(root), restored as written:
        try:
            graph = tracer.record(root, lambda m: arguments.call(m, tracer, bound))
            written |= written_names(graph)
            assigned = tuple(tracer.assignments.found())
            tracer.result = apart_from_buffers(tracer.result, root)
        except (CaptureError, ConfigError):
            raise
        except Exception as error:
            raise _explain(tracer, error, task) from error
    tracer.drop_unused()
    meta.set_contiguous_outputs(next(iter(reversed(graph.nodes))), tracer.result)
    keep_keyword_only(graph, [each.parameter for each in bound])
    if task.modes:
        root.eval()
    return _Traced(
        root,
        graph,
        tracer.result,
        {each.parameter.name: each.value for each in bound},
        assigned,
        tuple(tracer.unfilled),
        tuple(decisions.lines),
        tuple(tracer.by_state),
        tracer.by_layout,
        tracer.by_draw,
    )


_UNSEEN_DECISION = (
    "the captured graph does not compute what the model computes for the example inputs: the model "
    "decides something in Python that tracing can't see (a type check, say). What to do: find the "
    "module at fault by capturing its children one by one, and write what it decides by with "
    "tensors, or keep that module float."
)


def _check_left(model: nn.Module, left: tuple[Any, Any], traced: _Traced) -> None:
    """CaptureError unless the graph leaves the arguments as the model has ``left`` them."""
    if traced.filled:
        return  # which is said
    for each in arguments.bind(model, *left):
        name = each.parameter.name
        if not alike(traced.left[name], each.value):
            raise CaptureError(_UNSEEN_CHANGE.format(name=name))


_UNSEEN_CHANGE = (
    "the model changes its argument {name}, and does it in a way that tracing can't see: the "
    "captured graph leaves it otherwise. What to do: write to it with operations of torch, as in "
    "{name}.copy_(new), or return the new value."
)


def propagate_values(
    graph_module: fx.GraphModule,
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Run the graph once on the example inputs and set the Value of every node anew.

    Buffers and random state are afterwards as they were.

    Raises:
        ConfigError: an operation raises on these inputs.
    """
    args = arguments.copy_tensors(example_inputs)
    kwargs = arguments.copy_tensors(dict(example_kwargs or {}))
    bound = inspect.signature(graph_module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    with side_effects_undone(graph_module), buffers_restored(graph_module):
        _Values(graph_module, bound.arguments).run()


class _Values(NamedInterpreter):
    """Runs a graph and writes down what every node yields."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise ConfigError(
                f"{meta.where(n)}: raises on the example inputs: {error}\nWhat to do: pass example "
                "inputs of the shapes and dtypes that the model takes."
            ) from error
        meta.set_value(n, meta.describe(result))
        return result


# -- results -------------------------------------------------------------------------------------
def _graph_module(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    rename_reserved(root, graph)
    graph_module = WorkingGraphModule(root, graph, name)
    copy_hooks(root, graph_module)  # what is hooked to the model itself runs around the graph
    for path, module in graph_module.named_modules():
        original = root.get_submodule(path)
        if original is module:
            continue
        module.training = original.training
        unsaved = original._non_persistent_buffers_set & module._buffers.keys()
        module._non_persistent_buffers_set.update(unsaved)
    for node in graph.nodes:
        if node.op == "get_attr" and meta.value_of(node) is None:  # a tensor that is no parameter
            meta.set_value(node, meta.describe(attrgetter(str(node.target))(graph_module)))
    return graph_module


def _explain(tracer: CaptureTracer, error: Exception, task: _Task) -> CaptureError | ConfigError:
    """The error to raise when tracing raised ``error``: is it the model, or the tracing?"""
    where = place(tracer.failed_path, source.raised_at(error.__traceback__, tracer.entry))
    if task.remedy:
        return ConfigError(
            f"{where}: the model itself raises on the example inputs: "
            f"{type(task.expected).__name__}: {task.expected}\nWhat to do: {task.remedy}."
        )
    return CaptureError(
        f"{where}: this can't be captured in a graph: {type(error).__name__}: {error}\n"
        "What to do: write it with tensor operations, or quantize the modules around it one by one."
    )
