"""Capture: from a model and example inputs to a graph that keeps what was written.

The model is deep-copied and traced with proxies that know their values (:mod:`qfx.capture.tracer`).
The graph has the signature of the model's ``forward``: every parameter is a placeholder, and
arguments that the examples leave out, or that are no tensors or numbers, are fixed by a guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from torch import fx, nn

from qfx.capture import arguments
from qfx.capture.examples import alike
from qfx.capture.gradients import hold_back
from qfx.capture.naming import rename_reserved
from qfx.capture.tracing import Task, Traced, rightly_traced, with_unseen_draws
from qfx.errors import CaptureError
from qfx.graph import meta
from qfx.graph.copying import (
    check_model,
    copy_of,
    side_effects_undone,
)
from qfx.graph.leaves import LeafPolicy, copy_hooks
from qfx.graph.locks import CAPTURE_LOCK
from qfx.graph.working import WorkingGraphModule
from qfx.private_attributes import buffers_held, unsaved_buffers

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

PASSED = "qfx.passed"
"""Key of ``graph_module.meta`` of a graph that may be trained: where forward holds gradients back,
and the graph does not ("file:line")."""

BY_WEIGHTS = "qfx.by_weights"
"""Key of ``graph_module.meta``: whether forward decides by the values of parameters or buffers, so
that the graph holds for these values."""


def capture(
    model: nn.Module,
    example_inputs: tuple[object, ...],
    example_kwargs: Mapping[str, object] | None = None,
    *,
    leaf: Callable[[nn.Module, str], bool] | None = None,
    keep_untraceable: bool = False,
    modes: bool = False,
    keep_expected: bool = False,
    data_sizes: bool = True,
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
        data_sizes: allow guards on sizes that data decides (:mod:`qfx.capture.data_sizes`); where
            there would be one, tracing ends with a DecidedByDataError else.

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
        task = Task(model, bound, leaves, keep_untraceable, expected, modes, data_sizes=data_sizes)
        traced = rightly_traced(task)
        drawn, is_right = bool(traced.by_draw), alike(traced.result, expected)
        if not isinstance(expected, Exception) and (drawn or not is_right):
            # Two draws may be near each other by chance, but not the same.
            again = _run(model, *arguments.copy_tensors((args, kwargs)))
            is_same = alike(expected, again, to_the_bit=drawn)
            if is_same and not is_right:
                raise CaptureError(_UNSEEN_DECISION)
            traced = traced if is_same else with_unseen_draws(traced)
            keep_expected = keep_expected and is_same
        elif not isinstance(expected, Exception):
            _check_left(model, left, traced)
    graph_module = graph_module_of(traced.root, traced.graph, type(model).__name__)
    if modes:
        graph_module.meta[PASSED] = hold_back(graph_module, traced.blocks)
    graph_module.meta[ASSIGNED] = traced.assigned
    graph_module.meta[FILLED] = traced.filled
    graph_module.meta[DECIDED_BY_MODE] = traced.decided
    graph_module.meta[BY_STATE] = traced.by_state
    graph_module.meta[BY_DRAW] = tuple(traced.by_draw)
    graph_module.meta[BY_LAYOUT] = tuple(traced.by_layout)
    graph_module.meta[BY_WEIGHTS] = traced.by_weights
    if keep_expected and not isinstance(expected, Exception):
        graph_module.meta[EXPECTED] = expected
    return graph_module


def _run(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
    """What a copy of the model yields for these inputs; the exception if it raises one."""
    root = copy_of(model)
    with side_effects_undone(model):
        try:
            return root.forward(*args, **kwargs)
        except Exception as error:
            return error


_UNSEEN_DECISION = (
    "the captured graph does not compute what the model computes for the example inputs: the model "
    "decides something in Python that tracing can't see (a type check, say). What to do: find the "
    "module at fault by capturing its children one by one, and write what it decides by with "
    "tensors, or keep that module float."
)


def _check_left(model: nn.Module, left: tuple[Any, Any], traced: Traced) -> None:
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


# -- results -------------------------------------------------------------------------------------
def graph_module_of(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """The graph over the parts of the copy that was traced."""
    rename_reserved(root, graph)
    graph_module = WorkingGraphModule(root, graph, name)
    copy_hooks(root, graph_module)  # what is hooked to the model itself runs around the graph
    for path, module in graph_module.named_modules():
        original = root.get_submodule(path)
        if original is module:
            continue
        module.training = original.training
        unsaved = unsaved_buffers(original) & buffers_held(module).keys()
        unsaved_buffers(module).update(unsaved)
    for node in graph.nodes:
        if node.op == "get_attr" and meta.value_of(node) is None:  # a tensor that is no parameter
            meta.set_value(node, meta.describe(attrgetter(str(node.target))(graph_module)))
    return graph_module
