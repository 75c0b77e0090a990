"""Pieces put together: a graph that calls what an engine built, and runs the rest node by node.

For each shape of its inputs a piece finds its program: that for all sizes where it takes them, else
one of its own, of which a bounded number is kept.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from operator import attrgetter
from typing import Any, TypeAlias

from torch import Tensor, fx

from qfx.engines.base import BuildSettings, Built, CannotRun, EngineProgram, PieceEngine
from qfx.engines.containers import whole
from qfx.engines.pieces import Partition, Piece, copy_into, partition
from qfx.export.problems import Problem, opaque_modules
from qfx.graph import meta
from qfx.private_attributes import code_of

MOST_BUILDS = 8
"""For how many shapes that need one a piece keeps a program of its own."""

Shape: TypeAlias = "tuple[int, ...]"

_CHECKED = 4
"""For how many other sizes the program for all of them is held against the piece."""

_MOST_SHAPES = 4096
_ROUNDS = 8


class Runner:
    """Runs a piece: it stands in the graph that puts the pieces together.

    Attributes:
        piece: what it runs.
    """

    def __init__(
        self,
        engine: PieceEngine,
        piece: Piece,
        settings: BuildSettings,
        agrees: Agrees,
        programs: Programs,
    ) -> None:
        self.piece = piece
        self._engine, self._settings, self._agrees = engine, settings, agrees
        self._lock = threading.Lock()
        self._programs: dict[tuple[Shape, ...], EngineProgram] = {}
        self._own: set[tuple[Shape, ...]] = set()
        self._single = piece.yields_one
        self._examples = programs.shapes
        self._free = programs.free
        self._to_check = _CHECKED
        if programs.free is not None and programs.free.takes(self._examples):
            self._programs[self._examples] = programs.free.program
        self._kept = programs.own
        if programs.own is not None:
            self._programs[self._examples] = programs.own.program
            self._own.add(self._examples)

    @property
    def is_free(self) -> bool:
        """Whether it has a program for all sizes that its piece takes."""
        return self._free is not None

    def hold(self, agrees: Agrees) -> None:
        """Hold programs for other sizes against the piece by this."""
        self._agrees = agrees

    @property
    def programs(self) -> Programs:
        """What it was made with, as far as it is still in use."""
        return Programs(self._examples, self._free, self._kept)

    def prefer(self, other: Runner) -> None:
        """Take the program of ``other`` for the sizes of the examples."""
        self._kept = other._kept
        self._programs[self._examples] = other._programs[self._examples]
        self._own.add(self._examples)

    def __call__(self, *inputs: Tensor) -> Any:
        """What the piece yields: a tensor, or a tuple of several."""
        key = tuple([given.shape for given in inputs])
        program = self._programs.get(key)
        if program is None:
            program = self._for(key, inputs)
        made = program(inputs)
        return made[0] if self._single else tuple(made)

    def __deepcopy__(self, memo: dict[int, Any]) -> Runner:
        return self

    def _for(self, key: tuple[Shape, ...], inputs: Sequence[Tensor]) -> EngineProgram:
        shapes = tuple(map(tuple, key))
        with self._lock:
            known = self._programs.get(shapes)
            if known is not None:
                return known
            if self._free is not None and self._free.takes(shapes):
                if len(self._programs) > _MOST_SHAPES:
                    self._programs = {k: v for k, v in self._programs.items() if k in self._own}
                program = self._checked(self._free.program, shapes, inputs)
            else:
                program = self._special(shapes, inputs)
            self._programs[shapes] = program
            return program

    def _checked(
        self, program: EngineProgram, shapes: tuple[Shape, ...], inputs: Sequence[Tensor]
    ) -> EngineProgram:
        """The program for all sizes, if it agrees for the first of them; else one of their own."""
        if not self._to_check:
            return program
        try:
            self._agrees(self.piece, program, inputs)
        except CannotRun:
            self._free = None
            self._programs = {k: v for k, v in self._programs.items() if v is not program}
            return self._special(shapes, inputs)
        self._to_check -= 1
        return program

    def _special(self, shapes: tuple[Shape, ...], inputs: Sequence[Tensor]) -> EngineProgram:
        """A program for these shapes alone, which agrees with the piece."""
        if len(self._own - {self._examples}) >= MOST_BUILDS:
            raise CannotRun(f"{MOST_BUILDS} other sizes have builds of their own")
        if any(0 in shape for shape in shapes):
            raise CannotRun("a tensor without elements")
        program = self._engine.build(self.piece, replace(self._settings, shapes=shapes)).program
        self._agrees(self.piece, program, inputs)
        self._own.add(shapes)
        return program


@dataclass(frozen=True)
class Programs:
    """What a piece is run by at first.

    Attributes:
        shapes: of its inputs, with the examples.
        free: for all sizes that it takes.
        own: for those of the examples alone.
    """

    shapes: tuple[Shape, ...]
    free: Built | None = None
    own: Built | None = None


Agrees = Callable[[Piece, EngineProgram, Sequence[Tensor]], None]
"""Raises :class:`CannotRun` where a program does not agree with its piece."""


@dataclass(frozen=True)
class Assembly:
    """A model as an engine runs it.

    Attributes:
        forward: takes and yields what the model does.
        runners: its pieces; none where the engine takes the model as a whole.
        plan: what is in them and what is not; None where the engine takes the model as a whole.
    """

    forward: Callable[..., Any]
    runners: tuple[Runner, ...] = ()
    plan: Partition | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the engine computes."""
        return self.plan is not None and self.plan.is_plain

    @property
    def inside(self) -> float | None:
        """The fraction of the multiply-accumulates that the engine runs; None if there are none."""
        if self.plan is None:
            return 1.0
        if not self.plan.macs:
            return None
        return sum(piece.macs for piece in self.plan.pieces) / self.plan.macs


def plan_for(engine: PieceEngine, reference: fx.GraphModule) -> Partition:
    """The pieces of a graph that an engine takes.

    Raises:
        CannotRun: it takes nothing of it.
    """
    refused: dict[str, Problem] = {found.node: found for found in opaque_modules(reference)}
    for _ in range(_ROUNDS):
        plan = partition(reference, refused)
        more = [found for piece in plan.pieces for found in engine.problems(piece)]
        if not more:
            break
        refused.update((found.node, found) for found in more)
    else:
        raise CannotRun(f"what it takes of the model was not settled in {_ROUNDS} rounds")
    counts = [piece.macs for piece in plan.pieces]
    if not counts or (plan.macs and not sum(counts)):
        first = f": {plan.outside[0]}" if plan.outside else ""
        raise CannotRun(f"it takes nothing of the model that would pay{first}")
    return plan


def assemble(
    engine: PieceEngine,
    reference: fx.GraphModule,
    plan: Partition,
    settings: BuildSettings,
    agrees: Agrees,
    *,
    free: bool,
) -> Assembly:
    """Build every piece.

    Args:
        engine: builds them.
        reference: the graph that ``plan`` is of.
        plan: what is in the pieces.
        settings: how they are built.
        agrees: asked about each program that is built later, for other sizes.
        free: one program for all sizes that a piece takes, else for those of the examples.

    Raises:
        CannotRun: a piece can't be built.
    """
    found = [_programs(engine, piece, settings, free=free) for piece in plan.pieces]
    return put_together(engine, reference, plan, settings, agrees, found)


def put_together(
    engine: PieceEngine,
    reference: fx.GraphModule,
    plan: Partition,
    settings: BuildSettings,
    agrees: Agrees,
    programs: Sequence[Programs],
) -> Assembly:
    """The model, of programs that were built: one for each piece of ``plan``."""
    pairs = zip(plan.pieces, programs, strict=True)
    runners = {piece: Runner(engine, piece, settings, agrees, p) for piece, p in pairs}
    outer = _outer(reference, plan, runners)
    return Assembly(outer.forward, tuple(runners.values()), plan)


def _programs(
    engine: PieceEngine, piece: Piece, settings: BuildSettings, *, free: bool
) -> Programs:
    shapes = _shapes_seen(piece)
    if free:
        return Programs(shapes, free=engine.build(piece, settings))
    return Programs(shapes, own=engine.build(piece, replace(settings, shapes=shapes)))


def _shapes_seen(piece: Piece) -> tuple[Shape, ...]:
    """The shapes of the inputs of a piece with the examples; as captured where none were seen."""
    pairs = zip(piece.inputs, piece.shapes, strict=True)
    return tuple(piece.seen.shapes.get(node.name, captured) for node, captured in pairs)


def _outer(
    reference: fx.GraphModule, plan: Partition, runners: dict[Piece, Runner]
) -> fx.GraphModule:
    """The graph with a call in place of each piece; arguments and results are the model's."""
    graph = fx.Graph()
    now: dict[fx.Node, Any] = {}
    calls: dict[str, Any] = {}
    for node in reference.graph.find_nodes(op="placeholder"):
        copy_into(graph, node, now, plan.carried)
    for number, step in enumerate(plan.steps):
        if isinstance(step, fx.Node):
            if step not in now:
                copy_into(graph, step, now, plan.carried)
            continue
        name = f"piece_{number}"
        calls[name] = runners[step]
        call = graph.call_module(name, tuple(now[node] for node in step.inputs))
        elements = (graph.call_function(_element, (call, index)) for index in count())
        tensors = iter((call,)) if step.yields_one else elements
        for node in step.outputs:
            now[node] = whole(meta.value_of(node), tensors)
    (output,) = reference.graph.find_nodes(op="output")
    copy_into(graph, output, now, plan.carried)
    graph.set_codegen(copy.deepcopy(code_of(reference.graph)))
    held = (str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module"))
    root: dict[str, Any] = {name: attrgetter(name)(reference) for name in held if name not in calls}
    return fx.GraphModule(root | calls, graph)


def _element(container: Any, index: int) -> Any:
    return container[index]
