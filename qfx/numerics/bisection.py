"""bisect: the first place where a quantized model departs from the float model, and which pass.

Every operation of the reference graph is run on *float* inputs, so that it shows the error it makes
by itself and not what it inherits; what biases were moved by to make up for the rounding before
them is left out. The culprit is the first whose own error stands out, that is

1. it is worse than rounding explains: codes of b bits over a range of up to 17 times the root mean
   square leave ``6 b - 20`` dB or more (28 dB at 8 bits; an even 8-bit model has 35 to 50), and
2. 10 dB worse than the median operation, or than what rounding explains (where all are bad).

If its error remains when no activation is rounded, a pass made it: what it removed before the
operation, or how it rewrote that (see :mod:`qfx.numerics.suspects`); otherwise quantization itself.
When the lowered graph is further from the reference graph than rounding explains, the operations of
the lowered graph are run on what the reference graph computes: the fault lies in the first that is
off by itself, by more than rounding explains or than it does to the model and to that operation. If
none is, the model amplifies what kernels round otherwise, as it amplifies all else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import median

import torch
from torch import fx, nn

from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph.clone import clone_graph_module
from qfx.numerics import observation, suspects
from qfx.numerics.compared_graphs import ComparedGraph, Pair
from qfx.numerics.comparison import run_against
from qfx.numerics.lowering_faults import (
    ROUNDING_PASS,
    STANDS_OUT,
    add_lowered,
    lowering_fault,
    site_of,
)
from qfx.numerics.measures import Error, explained_by
from qfx.numerics.sums import Sums
from qfx.numerics.verdict import Bisection
from qfx.quant.annotation import Annotation, annotation, made_up_by
from qfx.quant.spec import QuantSpec
from qfx.report.merging import addressed
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import OpDef, bound, is_op

_MOST_BITS = 8


def bisect(model: nn.Module, qmodel: nn.Module, data: Iterable[object]) -> Bisection:
    """Find the first operation where the quantized model departs from the float model.

    Args:
        model: the float model, in eval mode; not mutated.
        qmodel: what ``qfx.quantize`` or ``qfx.convert`` made of it. Regions of one that has several
            come in the order of its modules.
        data: iterable of batches, as for calibration.

    Raises:
        ConfigError: the two don't belong together, or there is no data.
    """
    pair = Pair(model, qmodel)
    measured = {part: _MeasuredError(part) for part in pair.parts}
    for batch in pair.batches(data):
        for part, given in pair.given(batch):
            apart = measured[part].add(given)
            if not pair.has_regions:
                pair.note_apart(apart)
    every = [each for each in measured.values() if each.part.captured is not None]
    if not every:
        raise ConfigError("the data reaches no region: give batches on which they are called")
    finite = [s for each in every for s in each.known().values() if math.isfinite(s)]
    typical = median(finite) if finite else math.inf
    verdicts = [_addressed(each.part, _Verdict(each, typical).find()) for each in every]
    found = next((v for v in verdicts if v.stands_out), None) or min(verdicts, key=_quality)
    if pair.has_regions:
        found = replace(found, output=pair.output.sqnr)
    return replace(found, doubt=pair.doubt(found.output))


def _quality(verdict: Bisection) -> float:
    return math.inf if math.isnan(verdict.sqnr) else verdict.sqnr


def _addressed(part: ComparedGraph, found: Bisection) -> Bisection:
    """``found`` in a graph, with its operations named among those of all."""
    site = found.site
    if not part.name:
        return found
    return replace(
        found,
        site=None if site is None else addressed(part.name, site),
        shown_by=found.shown_by and part.addressed(found.shown_by),
    )


class _MeasuredError:
    """What is measured of one graph."""

    def __init__(self, part: ComparedGraph) -> None:
        self.part = part
        self.alone = _by_themselves(part.reference)
        self.points = observation.observation_points(self.alone.graph)
        self.unrounded = _without_rounding(self.alone)
        self.plain_points = observation.observation_points(self.unrounded.graph)
        self.names = list(part.points.values())
        self.sums = Sums({n: Error() for n in self.names}, {n: Error() for n in self.names})

    def add(self, given: observation.Batch) -> str:
        """Run the graph in all of its forms on what it is given; why outputs are apart, or ""."""
        part, sums = self.part, self.sums
        expected, result = observation.float_values(part.float_graph(given), self.names, given)
        run_against(self.alone, given, self.points, expected, sums.alone, corrected=True)
        run_against(
            self.unrounded, given, self.plain_points, expected, sums.unrounded, corrected=True
        )
        return add_lowered(part.graph, part.reference, given, result, sums)

    def known(self) -> dict[str, float]:
        """SQNR of each operation by itself."""
        return {name: error.sqnr for name, error in self.sums.alone.items() if error.count}


class _Verdict:
    """Reads the measurements of one graph, where the median of all operations is ``typical``."""

    def __init__(self, measured: _MeasuredError, typical: float) -> None:
        part = measured.part
        assert part.captured is not None
        self.qmodel, self.sums = part.graph, measured.sums
        self.captured, self.batch = part.captured, part.first
        self.nodes = {origin: node for node, origin in part.points.items()}
        self.known = measured.known()
        self.typical = typical
        bits = {name: _bits(node) for name, node in self.nodes.items()}
        least = min((b for b in bits.values() if b is not None), default=_MOST_BITS)
        # What is float may have inherited the rounding of a value that could not be compared.
        self.explained = {n: explained_by(least if b is None else b) for n, b in bits.items()}
        self.least = explained_by(least)

    def find(self) -> Bisection:
        """The first operation that stands out, else the worst."""
        if self.sums.lowering.sqnr < self.least:
            found = lowering_fault(self.qmodel, self.sums, self.least)
            if found is not None:
                return found  # else each operation does what it should, and the model amplifies
        if not self.known:
            return Bisection(None, "", (), math.nan, math.nan, self.sums.output.sqnr, False)
        first = next((n for n, s in self.known.items() if self._stands_out(n, s)), None)
        name = first or min(self.known, key=self.known.__getitem__)
        makers = suspects.makers_of(self.qmodel, self.nodes[name])
        found = Bisection(
            site=site_of(self.qmodel, name),
            pass_name=ROUNDING_PASS,
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
            found, pass_name=suspects.suspect(makers, ROUNDING_PASS)
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
            site=site_of(self.qmodel, origin),
            pass_name=maker.partition("/")[0],
            makers=(maker,),
            shown_by=name,
        )


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


def _by_themselves(reference: fx.GraphModule) -> fx.GraphModule:
    """The reference graph without what biases add to make up for the rounding before them.

    Given what the float model computes, a layer has nothing to make up for.
    """
    if not any(map(made_up_by, reference.graph.nodes)):
        return reference
    clone = clone_graph_module(reference)
    rw = Rewriter(clone, pass_name="by-themselves")
    for node in list(clone.graph.nodes):
        is_moved = isinstance(node.target, OpDef) and made_up_by(node)
        bias = bound(node).get("bias") if is_moved else None
        if not isinstance(bias, fx.Node) or bias.op != "get_attr":
            continue
        held = rw.tensor(bias)
        added = held.new_tensor(made_up_by(node))
        if added.shape == held.shape:
            with rw.at(node):
                rw.rewire(node, bias, rw.constant(str(bias.target), held - added, origins=(bias,)))
    clone.recompile()
    return clone


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
