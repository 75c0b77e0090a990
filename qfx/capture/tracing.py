"""Tracing a copy of a model, again and otherwise where that shows more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from torch import fx, nn

from qfx.capture import arguments
from qfx.capture.assignments import kept_tensors
from qfx.capture.data_sizes import DecidedByDataError
from qfx.capture.decisions import place
from qfx.capture.draws import ENDS
from qfx.capture.examples import alike
from qfx.capture.gradients import GradientBlocks
from qfx.capture.signature import keep_keyword_only
from qfx.capture.tracer import CaptureTracer
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta, source
from qfx.graph.copying import (
    Holder,
    apart_from_buffers,
    buffers_restored,
    copy_of,
    parameters_restored,
    side_effects_undone,
)
from qfx.graph.leaves import LeafPolicy
from qfx.graph.modes import Decisions, watch_modes
from qfx.graph.state import parameters_of_writers, written_names

OPAQUE_ROOTS = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Models that do not trace, being leaves themselves."""

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


class Traced(NamedTuple):
    """The copy that was traced, its graph, what it yields for the examples, and leaves of them,
    what forward sets.

    And where it asks for its training flag, what else it decides by that no guard holds, and what
    it computes where gradients are held back.
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
    by_weights: bool
    blocks: GradientBlocks


@dataclass(frozen=True)
class Task:
    """What is traced, and how.

    Attributes:
        expected: what the model yields for the example inputs, or the exception that it raises.
        plain_dtypes: whether the model is told dtypes as they are.
        data_sizes: whether guards on sizes that data decides are allowed.
    """

    model: nn.Module
    bound: tuple[arguments.Argument, ...]
    leaves: LeafPolicy
    keep_untraceable: bool
    expected: Any
    modes: bool
    plain_dtypes: bool = False
    data_sizes: bool = True

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
            data_sizes=self.data_sizes or isinstance(self.expected, Exception),
            draw=draw,
            converting=converting.values(),
        )


def rightly_traced(task: Task) -> Traced:
    """The model traced; with dtypes told as they are where the model computes otherwise else.

    Proxies for dtypes are not what ``is`` compares them with.
    """
    found: Traced | None = None
    failed: CaptureError | None = None
    try:
        found = _traced(task)
    except DecidedByDataError:
        raise
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


def _traced(task: Task) -> Traced:
    """The model traced once, or again where that shows more.

    Which modules make numbers of Python from sizes shows when they do. There ``int`` and ``float``
    get stand-ins, and the model is traced anew: once for nearly all that have any.
    """
    found: Traced | None = None
    converting: _Modules = {}
    while True:
        tracer = task.tracer(converting)
        failed: CaptureError | ConfigError | None = None
        try:
            found = _trace(task, tracer)
        except (CaptureError, ConfigError) as error:
            failed = error
        if isinstance(failed, DecidedByDataError) and failed.branches:
            raise failed  # which no stand-in changes
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


def _without_idle_branches(found: Traced, task: Task, converting: _Modules) -> Traced:
    """``found``, which forgets what it decided by if deciding otherwise changes no values."""
    if not _same(task, converting, contrary=True):
        return found
    told = {where: branches for where, branches in found.by_layout.items() if not branches}
    return found._replace(by_state=(), by_layout=told)


def _same(task: Task, converting: _Modules, **options: Any) -> bool:
    """Whether the model, told otherwise, computes the same."""
    try:
        other = _trace(task, task.tracer(converting, **options))
    except (CaptureError, ConfigError):
        return False
    return not isinstance(task.expected, Exception) and alike(other.result, task.expected)


def with_unseen_draws(traced: Traced) -> Traced:
    """``traced``, of a model that yields something else each time, with a word if no node does."""
    if traced.by_draw or any(meta.drew(node) for node in traced.graph.nodes):
        return traced
    return traced._replace(by_draw={"something that tracing can't see": False})


def _trace(task: Task, tracer: CaptureTracer) -> Traced:
    model, leaves, root = task.model, task.leaves, copy_of(task.model)
    bound = arguments.copies(task.bound)
    if isinstance(root, OPAQUE_ROOTS):
        root = Holder(root)
    decisions = Decisions(tracer.askers)
    if task.modes:
        decisions = watch_modes(
            root, lambda m, path: path == "" or not leaves.is_leaf(m, path), tracer.askers
        )
    restored = parameters_restored(root, model)
    with side_effects_undone(model), buffers_restored(root), restored as written:
        try:
            graph = tracer.record(root, lambda m: arguments.call(m, tracer, bound))
            written |= written_names(graph) | parameters_of_writers(graph, root).keys()
            assigned = tuple(tracer.assignments.found())
            tracer.result = apart_from_buffers(tracer.result, root)
        except Exception as error:
            tracer.check_data_sizes()
            known = isinstance(error, (CaptureError, ConfigError))
            told = error if known else _explain(tracer, error, task)
            if isinstance(told, CaptureError):
                told.by_weights = tracer.by_weights
            raise told from (None if known else error)
    tracer.drop_unused()
    meta.set_contiguous_outputs(next(iter(reversed(graph.nodes))), tracer.result)
    keep_keyword_only(graph, [each.parameter for each in bound])
    if task.modes:
        root.eval()
    return Traced(
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
        tracer.by_weights,
        tracer.blocks,
    )


def _explain(tracer: CaptureTracer, error: Exception, task: Task) -> CaptureError | ConfigError:
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
