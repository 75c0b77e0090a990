"""bisect: the first place where a quantized model departs from the float model, and which pass.

Every operation of the reference graph is run on *float* inputs, so that it shows the error it makes
by itself and not what it inherits. The culprit is the first whose own error stands out, that is

1. it is worse than rounding explains: codes of b bits over a range of up to 17 times the root mean
   square leave ``6 b - 20`` dB or more (28 dB at 8 bits; an even 8-bit model has 35 to 50), and
2. 10 dB worse than the median operation, or than what rounding explains (where all are bad).

If its error remains when no activation is rounded, a pass made it: what it removed before the
operation, or how it rewrote that (see :mod:`qfx.numerics.suspects`); otherwise quantization itself.
When the lowered graph is further from the reference graph than that is from the float model, and
than rounding explains, the operations of the lowered graph are run on what the reference graph
computes: the fault lies in the first that is off by itself. If none is, the model amplifies what
kernels round otherwise, as it amplifies all else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.graph.clone import clone_graph_module
from qfx.numerics import observation, suspects
from qfx.numerics.comparison import run_against
from qfx.numerics.measures import Error, error_of
from qfx.numerics.verdict import Bisection
from qfx.quant.annotation import Annotation, annotation, kernel_of
from qfx.quant.spec import QuantSpec
from qfx.report.sites import Site
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import is_op

STANDS_OUT = 10.0
"""By how many dB the error of the culprit exceeds that of the median operation."""

_HEADROOM = 20.0
_MOST_BITS = 8
_ROUNDING_PASS = "reference"
_LOWERING_PASS = "lower"


@dataclass
class _Sums:
    """What is measured.

    Attributes:
        alone: error of each captured operation by itself.
        unrounded: the same with activations left unrounded.
        lowered: SQNR of each captured operation of the lowered graph by itself, against the
            reference graph.
        output: error of the model as it runs.
        reference: error of the reference graph.
        lowering: error of the lowered graph against the reference graph.
        remaining: the same with each operation yielding what it should: what none of them makes.
    """

    alone: dict[str, Error]
    unrounded: dict[str, Error]
    lowered: dict[str, float] = field(default_factory=dict)
    output: Error = field(default_factory=Error)
    reference: Error = field(default_factory=Error)
    lowering: Error = field(default_factory=Error)
    remaining: Error = field(default_factory=Error)


def bisect(model: nn.Module, qmodel: QuantizedModel, data: Iterable[Any]) -> Bisection:
    """Find the first operation where the quantized model departs from the float model.

    Args:
        model: the float model, in eval mode; not mutated.
        qmodel: what ``qfx.quantize`` or ``qfx.convert`` made of it.
        data: iterable of batches, as for calibration.

    Raises:
        ConfigError: the two don't belong together, or there is no data.
    """
    reference = observation.reference_of(qmodel)
    unrounded = _without_rounding(reference)
    points = observation.observation_points(reference.graph)
    plain_points = observation.observation_points(unrounded.graph)
    names = list(points.values())
    sums = _Sums({name: Error() for name in names}, {name: Error() for name in names})
    captured: fx.GraphModule | None = None
    first: observation.Batch = (), {}
    for batch in observation.all_batches(data, qmodel):
        if captured is None:
            captured, first = observation.float_graph(model, qmodel, batch), batch
        expected, result = observation.float_values(captured, names, batch)
        run_against(reference, batch, points, expected, sums.alone, corrected=True)
        run_against(unrounded, batch, plain_points, expected, sums.unrounded, corrected=True)
        _add_lowered(qmodel, reference, batch, result, sums)
    assert captured is not None  # without a batch, all_batches raises
    found = _Verdict(qmodel, points, sums, captured, first).find()
    return replace(found, doubt=observation.doubt(qmodel, found.output))


class _Verdict:
    """Reads the measurements."""

    def __init__(
        self,
        qmodel: QuantizedModel,
        points: dict[fx.Node, str],
        sums: _Sums,
        captured: fx.GraphModule,
        batch: observation.Batch,
    ) -> None:
        self.qmodel, self.sums, self.captured, self.batch = qmodel, sums, captured, batch
        self.nodes = {origin: node for node, origin in points.items()}
        self.known = {name: error.sqnr for name, error in sums.alone.items() if error.count}
        finite = [s for s in self.known.values() if math.isfinite(s)]
        self.typical = median(finite) if finite else math.inf
        bits = {name: _bits(node) for name, node in self.nodes.items()}
        least = min((b for b in bits.values() if b is not None), default=_MOST_BITS)
        # What is float may have inherited the rounding of a value that could not be compared.
        self.explained = {n: _explained(least if b is None else b) for n, b in bits.items()}
        self.least = _explained(least)

    def find(self) -> Bisection:
        """The first operation that stands out, else the worst."""
        if self.sums.lowering.sqnr < min(self.sums.reference.sqnr, self.least):
            found = _lowering_fault(self.qmodel, self.sums, self.least)
            if found is not None:
                return found  # else each operation does what it should, and the model amplifies
        if not self.known:
            return Bisection(None, "", (), math.nan, math.nan, self.sums.output.sqnr, False)
        first = next((n for n, s in self.known.items() if self._stands_out(n, s)), None)
        name = first or min(self.known, key=self.known.__getitem__)
        makers = suspects.makers_of(self.qmodel, self.nodes[name])
        found = Bisection(
            site=_site(self.qmodel, name),
            pass_name=_ROUNDING_PASS,
            makers=makers,
            sqnr=self.known[name],
            typical=self.typical,
            output=self.sums.output.sqnr,
            stands_out=first is not None,
            explained=self.explained[name],
        )
        if first is None or not self._stands_out(name, self.sums.unrounded[name].sqnr):
            return found
        return self._removed(found, name) or replace(
            found, pass_name=suspects.suspect(makers, _ROUNDING_PASS)
        )

    def _stands_out(self, name: str, sqnr: float) -> bool:
        explained = self.explained[name]
        return not sqnr >= explained and not sqnr >= max(self.typical, explained) - STANDS_OUT

    def _removed(self, found: Bisection, name: str) -> Bisection | None:
        """The verdict if the fault of ``name`` is that something before it was removed."""
        removed = suspects.removed_before(
            self.qmodel, self.captured, self.nodes[name], self.known, self.batch
        )
        if removed is None:
            return None
        origin, maker = removed
        return replace(
            found,
            site=_site(self.qmodel, origin),
            pass_name=maker.partition("/")[0],
            makers=(maker,),
            shown_by=name,
        )


def _explained(bits: float) -> float:
    return 6.02 * bits - _HEADROOM


def _bits(node: fx.Node) -> float | None:
    """Fewest bits in the specs of what ``node`` computes or rounds; None where all is float."""
    rounded = is_op(node, vocab.DEQUANTIZE)
    while is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE):
        node = node.all_input_nodes[0]
    note = annotation(node)
    reads = any(is_op(n, vocab.DEQUANTIZE) for n in node.all_input_nodes)
    specs = [] if note is None else [*_specs(note)]
    bits = [_bits_of(spec) for spec in specs] + [_MOST_BITS] * (rounded or reads)
    return min(bits, default=None)


def _specs(note: Annotation) -> Iterator[QuantSpec]:
    yield from (edge.spec for edge in note.reads.values())
    yield from (spec for spec in (note.output and note.output.spec, note.weight) if spec)


def _bits_of(spec: QuantSpec) -> float:
    if spec.dtype == torch.float16:
        return _MOST_BITS
    low, high = spec.bounds
    return min(_MOST_BITS, math.log2(high - low + 1))


def _site(qmodel: QuantizedModel, name: str) -> Site | None:
    return next((s for s in qmodel.report.sites if s.node == name), None)


def _without_rounding(reference: fx.GraphModule) -> fx.GraphModule:
    """The reference graph with float activations and the weights as they are."""
    clone = clone_graph_module(reference)
    rw = Rewriter(clone, pass_name="without-rounding")
    for node in list(clone.graph.nodes):
        source = node.args[0] if is_op(node, vocab.DEQUANTIZE) else None
        if isinstance(source, fx.Node) and is_op(source, vocab.QUANTIZE):
            for reader in list(node.users):  # what was rounded stays, to be compared
                rw.rewire(reader, node, source.all_input_nodes[0])
    clone.recompile()
    return clone


# -- lowering ------------------------------------------------------------------------------------
@dataclass
class _Explicit:
    """What the reference graph computes for each captured operation."""

    exact: dict[str, Tensor] = field(default_factory=dict)
    rounded: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def keep(self, node: fx.Node, value: Any) -> Any:
        """Remember the value of ``node``; a hook."""
        origin = observation.computed_origin(node)
        if origin is None or not isinstance(value, Tensor):
            return value
        if is_op(node, vocab.QUANTIZE):
            given = vocab.bound(node)["zero_point"]
            zero = given if isinstance(given, int) else 0
            self.codes[origin] = value.float() - zero, zero
        else:
            held = self.rounded if is_op(node, vocab.DEQUANTIZE) else self.exact
            held[origin] = value.detach().clone()
        return value

    def like(self, origin: str, value: Tensor) -> tuple[Error, Tensor] | None:
        """How far a value of the lowered graph is off, and what it should be.

        None if the reference graph has nothing alike.
        """
        if value.is_quantized:
            found = self.like(origin, value.int_repr())
            if found is None:
                return None
            real = (found[1].float() - value.q_zero_point()) * value.q_scale()
            return found[0], value.contiguous().clone().copy_(real.contiguous())
        if not value.is_floating_point():
            codes, zero = self.codes.get(origin, (None, 0))
            return _compared(codes, value, zero)
        either = (_compared(held.get(origin), value) for held in (self.exact, self.rounded))
        return max((f for f in either if f is not None), key=lambda f: f[0].sqnr, default=None)


def _compared(expected: Tensor | None, value: Tensor, zero: int = 0) -> tuple[Error, Tensor] | None:
    if expected is None or expected.shape != value.shape:
        return None
    error = Error()
    error.add(expected, value.float() - zero)
    return error, torch.empty_like(value).copy_(expected + zero)  # in the layout that it has


def _add_lowered(
    qmodel: QuantizedModel,
    reference: fx.GraphModule,
    batch: observation.Batch,
    result: object,
    sums: _Sums,
) -> None:
    """Compare the lowered graph with the reference graph, integers with integers."""
    explicit = _Explicit()
    meant = observation.run_watched(reference, batch, explicit.keep)
    points = _lowered_points(qmodel.graph)

    def measure(node: fx.Node, value: Any) -> Any:
        origin = points.get(node)
        found = explicit.like(origin, value) if origin and isinstance(value, Tensor) else None
        if origin is None or found is None:
            return value
        error, corrected = found
        sums.lowered[origin] = min(sums.lowered.get(origin, math.inf), error.sqnr)
        return corrected  # so that each operation shows the error that it makes by itself

    error_of(meant, observation.run_watched(qmodel, batch, measure), sums.remaining)
    actual = observation.run_watched(qmodel, batch, lambda _, value: value)
    error_of(meant, actual, sums.lowering)
    error_of(result, meant, sums.reference)
    error_of(result, actual, sums.output)


def _lowered_points(graph: fx.Graph) -> dict[fx.Node, str]:
    """The nodes that yield what an operation computes: from its kernel on, if it has one.

    What stands before its kernel makes operands ready.
    """
    steps: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        origin = observation.computed_origin(node)
        if origin is None:
            continue
        if kernel_of(node) is not None:
            steps[origin] = []
        steps.setdefault(origin, []).append(node)
    return {node: origin for origin, nodes in steps.items() for node in nodes}


def _lowering_fault(qmodel: QuantizedModel, sums: _Sums, explained: float) -> Bisection | None:
    """The first operation of the lowered graph further off than quantization itself."""
    limit = min(sums.reference.sqnr, explained)
    name = next((n for n, s in sums.lowered.items() if not s >= limit), None)
    if name is None and sums.remaining.sqnr >= limit:
        return None
    node = next((n for n in qmodel.graph.nodes if observation.computed_origin(n) == name), None)
    makers = () if node is None else suspects.makers_of(qmodel, node, _lowering_start(qmodel))
    foreign = [m for m in makers if suspects.is_foreign(m)]
    return Bisection(
        site=None if name is None else _site(qmodel, name),
        pass_name=suspects.suspect(foreign, _LOWERING_PASS),
        makers=tuple(foreign),
        sqnr=sums.lowering.sqnr if name is None else sums.lowered[name],
        typical=median(sums.lowered.values()) if sums.lowered else math.nan,
        output=sums.output.sqnr,
        stands_out=True,
        kernel="" if name is None else _kernel(qmodel, name),
        explained=explained,
    )


def _lowering_start(qmodel: QuantizedModel) -> int:
    """The first stage after the reference form."""
    history = qmodel.history
    return history[_ROUNDING_PASS].index + 1 if _ROUNDING_PASS in history else len(history)


def _kernel(qmodel: QuantizedModel, name: str) -> str:
    nodes = (n for n in qmodel.graph.nodes if observation.computed_origin(n) == name)
    return next((k.name for k in map(kernel_of, nodes) if k is not None), "")
