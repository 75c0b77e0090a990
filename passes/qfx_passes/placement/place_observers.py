"""place-observers: put one observer on every value that is annotated as quantized.

A value that an integer kernel hands out is read through its observer by everyone; a value that is
float until it is quantized is read through it by the integer operations only. The values of a
group share one observer module, so their qparams agree by construction.
"""

from __future__ import annotations

from torch import fx, nn

from qfx.errors import ConfigError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.annotation import Annotation, Edge, annotation
from qfx.quant.fake_quant_kinds import make_fake_quant
from qfx.quant.recorders import is_observer
from qfx.rewrite.rewriter import Rewriter
from qfx_passes.operands import is_float_operation


class PlaceObservers(Pass):
    """Insert the observers that the annotations ask for.

    Attributes:
        fake_quant: place fake-quants, which round what they observe, for training.
    """

    name = "place-observers"
    requires = Level.STUBBED
    produces = Level.OBSERVED
    fake_quant: bool = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if not any(map(annotation, graph.nodes)) and any(map(is_float_operation, graph.nodes)):
            raise ConfigError(
                f"{self.name}: no operation is annotated, so there is nothing to observe; put the "
                "pass annotate, which decides what is quantized, before it in the pipeline"
            )
        _Placer(graph, ctx.rewriter, self.fake_quant).run()


class _Placer:
    def __init__(self, graph: fx.Graph, rw: Rewriter, fake_quant: bool) -> None:
        self.graph = graph
        self.rw = rw
        self.fake_quant = fake_quant
        self.modules: dict[int, str] = {}
        self.placed: dict[tuple[fx.Node, int], fx.Node] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            note = annotation(node)
            if note is None or not note.decision.quantized:
                continue
            self._read_observed(node, note)
            if note.output is not None and meta.tensor_info(node) is not None:
                self._hand_out_observed(node, note.output)

    def _read_observed(self, node: fx.Node, note: Annotation) -> None:
        for value in list(node.all_input_nodes):
            edge = note.reads.get(value.name)
            if edge is None or edge.spec.dynamic or meta.tensor_info(value) is None:
                continue
            self.rw.rewire(node, value, self._observed(value, edge))

    def _hand_out_observed(self, node: fx.Node, edge: Edge) -> None:
        users = list(node.users)
        if any(map(is_observer, users)) and (node, edge.group) not in self.placed:
            return  # the pass ran before
        observed = self._observed(node, edge)
        for user in users:
            if not is_observer(user):
                self.rw.rewire(user, node, observed)

    def _observed(self, value: fx.Node, edge: Edge) -> fx.Node:
        key = (value, edge.group)
        if key not in self.placed:
            self.placed[key] = self._insert(value, edge)
        return self.placed[key]

    def _insert(self, value: fx.Node, edge: Edge) -> fx.Node:
        like = meta.value_of(value)
        with self.rw.at(after(value)):
            if edge.group in self.modules:
                return self.rw.call_submodule(self.modules[edge.group], value, value=like)
            node = self.rw.call_module(*self._made(edge), value, value=like)
        self.modules[edge.group] = str(node.target)
        return node

    def _made(self, edge: Edge) -> tuple[str, nn.Module]:
        """A name, and what observes there."""
        if self.fake_quant:
            return f"fake_quant_{edge.group}", make_fake_quant(edge.spec)
        return f"observer_{edge.group}", edge.spec.make_observer()


def after(value: fx.Node) -> fx.Node:
    """The node before which an observer of ``value`` goes; placeholders stay together."""
    following = value.next
    while value.op == "placeholder" and following.op == "placeholder":
        following = following.next
    return following
