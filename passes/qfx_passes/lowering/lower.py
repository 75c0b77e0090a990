"""lower: replace float operations between dequantize and quantize by the backend's kernels.

One sweep in graph order over the reference form. A table keeps, for each float value, the integer
tensor that stands for it (if any) and its qparams:

    dequantize(q)                      stands for q
    op that passes values through      stands for the same op on integers
    quantize(v), v stands for q        is q itself: the pair cancels
    kernel op, all operands integers   becomes the kernel; its result replaces the quantize that
                                       follows, or the float value where the kernel hands out float

What the backend's row declines stays float between dequantize and quantize, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from qfx.backends.base import Backend, KernelRule, Output
from qfx.errors import BackendError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph.effects import has_effect
from qfx.private_attributes import is_erased
from qfx.quant.annotation import Annotation, annotate, annotation
from qfx.quant.meaning import Meaning, set_meaning
from qfx.quant.qparams import QParams
from qfx.quant.reasons import refusal
from qfx.quant.reference_form import Measured, qparams_of
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import DEQUANTIZE, QUANTIZE, is_op
from qfx_passes.lowering.kernel_calls import Integers, KernelCalls, decline
from qfx_passes.operands import asks_shape, float_operands, post_operands


class Lower(Pass):
    """Emit the backend's kernels; a backend without any keeps the reference form."""

    name = "lower"
    requires = Level.REFERENCE
    produces = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        backend = ctx.get(Backend)
        if backend.quantize is not None:
            _Lowering(graph, backend, ctx.rewriter).run()


class _Lowering:
    """The sweep, and its table."""

    def __init__(self, graph: fx.Graph, backend: Backend, rw: Rewriter) -> None:
        self.graph = graph
        self.backend = backend
        self.rw = rw
        self.stands_for: dict[fx.Node, Integers] = {}
        self.qparams: dict[fx.Node, QParams | Measured] = {}
        self.calls = KernelCalls(backend, rw)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if is_erased(node):
                continue
            if is_op(node, QUANTIZE):
                self._quantize(node)
            elif is_op(node, DEQUANTIZE):
                self._dequantize(node)
            else:
                self._operation(node)
        measured = [q for q in self.qparams.values() if isinstance(q, Measured)]
        numbers = {number for q in measured for number in (q.scale, q.zero_point)}
        self.rw.erase_unread(lambda node: node in numbers or has_effect(node))
        for node in self.graph.nodes:
            if node in self.stands_for and is_op(node, DEQUANTIZE):
                self._write_dequantize(node)
        self.rw.erase_unread()

    # -- the four lines of the table ----------------------------------------------------------
    def _dequantize(self, node: fx.Node) -> None:
        integers = node.args[0]
        assert isinstance(integers, fx.Node)
        if integers in self.qparams:
            self.stands_for[node] = Integers(integers, self.qparams[integers])

    def _quantize(self, node: fx.Node) -> None:
        value = node.args[0]
        assert isinstance(value, fx.Node)
        qparams = qparams_of(node, self.rw.graph_module)
        if isinstance(qparams, Measured):
            self._measure(node, value, qparams)
            return
        known = self.stands_for.get(value)
        if known is not None and known.qparams == qparams:
            set_meaning(known.node, Meaning(value.name, value.name, node.name))
            self.rw.replace(node, known.node)
            return
        integers = node
        if self.backend.quantize is not None:
            integers = self._written("quantize", node, value, qparams)
            set_meaning(integers, Meaning(value.name, node.name, node.name))
            self.rw.replace(node, integers)
        self.qparams[integers] = qparams

    def _measure(self, node: fx.Node, value: fx.Node, qparams: Measured) -> None:
        """Quantize ``value`` with what it measures, unless kernels do that themselves."""
        integers = node
        if self.backend.measure is not None:
            wanted = "the node of the codes and their Measured"
            made: Any = self._called("measure", node, (value, node), _is_measured, wanted)
            integers, qparams = made
            set_meaning(integers, Meaning(value.name, node.name, node.name))
            self.rw.replace(node, integers)
        self.qparams[integers] = qparams

    def _operation(self, node: fx.Node) -> None:
        if asks_shape(node):
            self._query(node)
        note = annotation(node)
        if note is None or not note.decision.quantized:
            return
        rule = self.backend.rule(node.target, note.method)
        assert rule is not None
        read = list(float_operands(node, rule.operands))
        operands = (*read, *post_operands(node))
        inputs = {v: self.stands_for[v] for v in operands if v in self.stands_for}
        if note.method != "static":
            self._float_kernel(node, rule, inputs)
        elif any(v not in inputs for v in read):
            annotate(node, Annotation(refusal("float-inputs")))
        elif rule.output is Output.SHARED and not self._requantizes(node, rule, inputs):
            self._share(node, rule, inputs)
        else:
            self._kernel(node, rule, inputs)

    def _query(self, node: fx.Node) -> None:
        """Integers have the shape of the float value; asking for it takes no dequantize."""
        for value in node.all_input_nodes:
            if value in self.stands_for:
                self.rw.rewire(node, value, self.stands_for[value].node)

    def _requantizes(
        self, node: fx.Node, rule: KernelRule, inputs: dict[fx.Node, Integers]
    ) -> bool:
        """Whether the result of ``node`` is to have other qparams than some of its inputs."""
        owner = self.rw.graph_module
        asked = [qparams_of(user, owner) for user in node.users if is_op(user, QUANTIZE)]
        given = (known.qparams for known in inputs.values())
        return rule.requantizes and any(qparams != own for own in given for qparams in asked)

    def _share(self, node: fx.Node, rule: KernelRule, inputs: dict[fx.Node, Integers]) -> None:
        qparams, *others = (known.qparams for known in inputs.values())
        if any(other != qparams for other in others):
            decline(node, Mismatch("its operands have different qparams"))
            return
        assert isinstance(qparams, QParams)
        lowered = self.calls.emit(node, rule, inputs, qparams, shares=True)
        if lowered is not None:
            self.stands_for[node] = Integers(lowered, qparams)
            self.qparams[lowered] = qparams

    def _float_kernel(
        self, node: fx.Node, rule: KernelRule, inputs: dict[fx.Node, Integers]
    ) -> None:
        """Emit a kernel that takes and hands out float; inside, it computes with integers."""
        lowered = self.calls.emit(node, rule, inputs, None)
        if lowered is not None:
            self.rw.replace(node, lowered)

    def _kernel(self, node: fx.Node, rule: KernelRule, inputs: dict[fx.Node, Integers]) -> None:
        queries = [user for user in node.users if asks_shape(user)]
        readers = [user for user in node.users if user not in queries]
        asked = self._asked(readers)
        if asked is not None:
            following, qparams = asked
            lowered = self.calls.emit(node, rule, inputs, qparams)
            if lowered is not None:
                set_meaning(lowered, Meaning(node.name, node.name, following.name))
                for query in queries:
                    self.rw.rewire(query, node, lowered)
                self.rw.replace(following, lowered)
                self.qparams[lowered] = qparams
            return
        lowered = self.calls.emit(node, rule, inputs, None)
        if lowered is not None:
            self.rw.replace(node, lowered)

    def _asked(self, readers: list[fx.Node]) -> tuple[fx.Node, QParams] | None:
        """The QUANTIZE that alone reads a result, where its qparams are known beforehand."""
        if len(readers) != 1 or not is_op(readers[0], QUANTIZE):
            return None
        qparams = qparams_of(readers[0], self.rw.graph_module)
        return None if isinstance(qparams, Measured) else (readers[0], qparams)

    def _written(self, hook: str, node: fx.Node, *given: object) -> fx.Node:
        """The call that ``quantize`` or ``dequantize`` of the backend writes in front of a node."""
        wanted = "the node of the call that it writes, e.rw.call(...)"
        made = self._called(hook, node, given, lambda made: isinstance(made, fx.Node), wanted)
        assert isinstance(made, fx.Node)
        return made

    def _called(
        self,
        hook: str,
        node: fx.Node,
        given: tuple[object, ...],
        is_right: Callable[[object], bool],
        wanted: str,
    ) -> object:
        """What a hook of the backend gives; errors name it, and the node that it is called for."""
        write: Callable[..., object] = getattr(self.backend, hook)
        with self.rw.at(node):
            try:
                made = write(self.calls, *given)
                if not is_right(made):
                    raise BackendError(
                        f"{hook}= of Backend({self.backend.name!r}) gave {made!r}; return {wanted}"
                    )
            except Exception:
                self.rw.blame(f"{self.backend.name}.{hook}", node)
                raise
        return made

    def _write_dequantize(self, node: fx.Node) -> None:
        known = self.stands_for[node]
        if self.backend.dequantize is None or is_op(known.node, QUANTIZE):
            return
        value = self._written("dequantize", node, known.node, known.qparams)
        set_meaning(value, Meaning(node.name, node.name))
        self.rw.replace(node, value)


def _is_measured(made: object) -> bool:
    """Whether a hook gave codes, and what they mean."""
    if not isinstance(made, tuple) or len(made) != 2:
        return False
    return isinstance(made[0], fx.Node) and isinstance(made[1], Measured)
