"""settle-joins: whether a value shares the qparams of a concatenation that reads it.

A kernel that can requantize what it joins (:attr:`~qfx.backends.base.KernelRule.requantizes`)
leaves the choice. What is made for it alone shares its qparams: nobody else reads that, so nothing
is lost. A value that others read, too, is kept apart at first, and calibration shows both steps: s,
its own, and S, that of the concatenation, which spans the ranges of all operands. With rounding
errors of step^2 / 12,

    shared:  the concatenation errs by S^2,        the other readers see S^2
    apart:   the concatenation errs by S^2 + s^2,  the other readers see s^2

so sharing, which also spares the kernel the arithmetic, errs no more in sum where S^2 <= 2 s^2. A
max-pool beside two convolutions that make values ten times as large is the case for keeping apart;
a chain of concatenations that each add a little to the last is the case for sharing. Of a group
that has grown by sharing, s is the finest step that any of its members had, so that a chain whose
steps creep up is cut, too.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace

from torch import fx

from qfx.backends.base import Backend, Output
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.quant.annotation import Annotation, Edge, annotate, annotation
from qfx.quant.observers import Observer
from qfx.quant.recorders import observer_of
from qfx.rewrite.rewriter import Rewriter
from qfx_passes.operands import asks_shape, float_operands
from qfx_passes.placement.calibrated import calibrated_qparams


class SettleJoins(Pass):
    """Let joined values that were kept apart share one observer where that errs less."""

    name = "settle-joins"
    requires = Level.OBSERVED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        settlement, backend = _Settlement(ctx.rewriter), ctx.get(Backend)
        for node in graph.nodes:
            rule, note = backend.rule(node.target), annotation(node)
            if rule is not None and rule.requantizes and note is not None:
                settlement.settle(node, note)
        settlement.write()


def made_for(join: fx.Node, value: fx.Node, backend: Backend) -> bool:
    """Whether ``join`` alone reads ``value``, and what ``value`` shares its qparams with."""
    pending = [(value, join)]
    while pending:
        node, reader = pending.pop()
        if any(user is not reader and not asks_shape(user) for user in node.users):
            return False
        rule = backend.rule(node.target)
        if rule is not None and rule.output is Output.SHARED and not rule.requantizes:
            pending += [(operand, node) for operand in float_operands(node, rule.operands)]
    return True


class _Settlement:
    """Merges observers; which nodes call which is looked up once."""

    def __init__(self, rw: Rewriter) -> None:
        self.rw = rw
        self.copied: set[str] = set()
        self.calls: dict[str, list[fx.Node]] = defaultdict(list)
        for node in self.rw.graph.nodes:
            if observer_of(node) is not None:
                self.calls[str(node.target)].append(node)
        self.scales: dict[str, float] = {}
        self.finest: dict[str, float] = {}  # of the members of a group, before they shared
        self.merged: dict[int, Edge] = {}  # group given up -> what took its place

    def settle(self, join: fx.Node, note: Annotation) -> None:
        output = next((user for user in join.users if observer_of(user) is not None), None)
        if output is None or note.output is None:
            return
        for value in join.all_input_nodes:
            if observer_of(value) is None or value.target == output.target:
                continue
            (operand,) = value.all_input_nodes
            if operand.name in note.reads and self._close(value, output):
                self._merge(value, output)
                given_up = self._current(note.reads[operand.name])
                self.merged[given_up.group] = self._current(note.output)

    def _close(self, value: fx.Node, output: fx.Node) -> bool:
        """Whether the two observers find steps S^2 <= 2 s^2, or close enough to share one."""
        mine, theirs = observer_of(value), observer_of(output)
        if not (isinstance(mine, Observer) and isinstance(theirs, Observer)):
            return False
        if type(mine) is not type(theirs) or mine.spec != theirs.spec:
            return False
        if not (mine.seen and theirs.seen):
            return False  # the reference pass names what has seen nothing
        coarsest = max(self._scale(value, mine), self._scale(output, theirs))
        finest = min(self.finest[str(node.target)] for node in (value, output))
        return coarsest**2 <= 2 * finest**2

    def _scale(self, call: fx.Node, observer: Observer) -> float:
        name = str(call.target)
        if name not in self.scales:
            scale = calibrated_qparams(call, observer).scale
            assert isinstance(scale, float)
            self.scales[name] = scale
            self.finest.setdefault(name, scale)
        return self.scales[name]

    def _merge(self, value: fx.Node, output: fx.Node) -> None:
        """Let all that reads through the observer of ``value`` read through that of ``output``."""
        mine, theirs = observer_of(value), observer_of(output)
        assert isinstance(mine, Observer)
        assert isinstance(theirs, Observer)
        dropped, kept = str(value.target), str(output.target)
        if kept not in self.copied:  # observers may be those of a model that others hold, too
            theirs = copy.deepcopy(theirs)
            self.rw.graph_module.set_submodule(kept, theirs)
            self.copied.add(kept)
        theirs.merge(mine)
        for call in self.calls[dropped]:
            self.rw.retarget(call, kept)
        self.calls[kept] += self.calls.pop(dropped)
        self.finest[kept] = min(self.finest[kept], self.finest[dropped])
        del self.scales[kept]  # the merged range may be wider

    def _current(self, edge: Edge) -> Edge:
        while edge.group in self.merged:
            edge = self.merged[edge.group]
        return edge

    def write(self) -> None:
        """Bring the annotations up to date."""
        for node in self.rw.graph.nodes if self.merged else ():
            note = annotation(node)
            if note is None:
                continue
            reads = {name: self._current(edge) for name, edge in note.reads.items()}
            output = None if note.output is None else self._current(note.output)
            annotate(node, replace(note, reads=reads, output=output))
