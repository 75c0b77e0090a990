"""bisect: the first place where a quantized model departs from the float model, and which pass.

Every operation of the reference graph is run on *float* inputs, so that it shows the error it makes
by itself and not what it inherits. The culprit is the first whose own error stands out: 10 dB
beyond the median. If its error remains when no activation is rounded, the passes that rewrote the
operation are named, a pass that is not installed (one under development) before those that are;
otherwise quantization itself. When the lowered graph is further
from the reference graph than that is from the float model, the fault lies in lowering, and the
first value that differs there is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor, fx, nn

from qfx import vocab
from qfx.graph.clone import clone_graph_module
from qfx.quant.annotation import kernel_of
from qfx.registry import list_passes
from qfx.report import observation
from qfx.report.measures import Error, error_of
from qfx.report.numerics import run_against
from qfx.report.sites import Site
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import is_op

STANDS_OUT = 10.0
"""By how many dB the error of the culprit exceeds that of the median operation."""

_ROUNDING_PASS = "reference"
_LOWERING_PASS = "lower"


@dataclass(frozen=True)
class Bisection:
    """Where the error enters.

    Attributes:
        site: the operation, as in the report; None where no operation could be compared.
        pass_name: the pass that made it what it is.
        makers: every pass and rule that rewrote it, oldest first.
        sqnr: of the operation by itself, in dB.
        typical: SQNR of the median operation by itself, in dB.
        output: SQNR of the whole model, as it runs, in dB.
        stands_out: whether the operation is clearly worse than the others; else it is the worst.
        kernel: for a fault of lowering, the kernel at work, or "".
    """

    site: Site | None
    pass_name: str
    makers: tuple[str, ...]
    sqnr: float
    typical: float
    output: float
    stands_out: bool
    kernel: str = ""

    def __str__(self) -> str:
        if self.site is None:
            return f"no operation could be compared; output {self.output:.1f} dB"
        place = ", ".join(p for p in (self.site.module_path, self.site.source) if p)
        at = f"{self.site.node} ({place})" if place else self.site.node
        numbers = f"{self.sqnr:.1f} dB by itself where {self.typical:.1f} dB is typical"
        whole = f"The whole model: {self.output:.1f} dB."
        if not self.stands_out:
            return f"No operation stands out; the worst is {at}: {numbers}.\n{whole}"
        chain = f" (rewritten by {', '.join(self.makers)})" if self.makers else ""
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        return (
            f"The error enters at {at}: {numbers}.\n"
            f"Made by pass {self.pass_name}{chain}{kernel}. {whole}"
        )


@dataclass
class _Sums:
    """What is measured.

    Attributes:
        alone: error of each captured operation by itself.
        unrounded: the same with activations left unrounded.
        lowered: SQNR of the lowered graph against the reference graph, per captured operation.
        output: error of the model as it runs.
        reference: error of the reference graph.
        lowering: error of the lowered graph against the reference graph.
    """

    alone: dict[str, Error]
    unrounded: dict[str, Error]
    lowered: dict[str, float] = field(default_factory=dict)
    output: Error = field(default_factory=Error)
    reference: Error = field(default_factory=Error)
    lowering: Error = field(default_factory=Error)


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
    for batch in observation.all_batches(data, qmodel):
        captured = captured or observation.float_graph(model, qmodel, batch)
        expected, result = observation.float_values(captured, names, batch)
        run_against(reference, batch, points, expected, sums.alone, corrected=True)
        run_against(unrounded, batch, plain_points, expected, sums.unrounded, corrected=True)
        _add_lowered(qmodel, reference, batch, result, sums)
    return _verdict(qmodel, reference, points, sums)


def _verdict(
    qmodel: QuantizedModel, reference: fx.GraphModule, points: dict[fx.Node, str], sums: _Sums
) -> Bisection:
    if sums.lowering.sqnr < sums.reference.sqnr:
        return _lowering_fault(qmodel, sums)
    known = {name: error.sqnr for name, error in sums.alone.items() if error.count}
    if not known:
        return Bisection(None, "", (), math.nan, math.nan, sums.output.sqnr, False)
    typical = median(known.values())
    name, stands_out = _first_outlier(known, typical)
    node = next(n for n, origin in points.items() if origin == name)
    makers = _makers(qmodel, node)
    rewritten = stands_out and sums.unrounded[name].sqnr < typical - STANDS_OUT
    return Bisection(
        site=_site(qmodel, name),
        pass_name=_suspect(makers) if rewritten else _ROUNDING_PASS,
        makers=makers,
        sqnr=known[name],
        typical=typical,
        output=sums.output.sqnr,
        stands_out=stands_out,
    )


def _first_outlier(known: dict[str, float], typical: float) -> tuple[str, bool]:
    """The first operation well below typical, else the worst; and whether it stands out."""
    first = next((n for n, s in known.items() if not s >= typical - STANDS_OUT), None)
    return (first, True) if first else (min(known, key=known.__getitem__), False)


def _makers(qmodel: QuantizedModel, node: fx.Node) -> tuple[str, ...]:
    """Passes and rules that rewrote the operation whose rounded result ``node`` may be."""
    while is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE):
        node = node.all_input_nodes[0]
    return tuple(dict.fromkeys(s.rule for s in qmodel.history.blame(node.name).steps))


def _suspect(makers: tuple[str, ...]) -> str:
    """The first pass that is not installed, else the last one."""
    passes = [maker.partition("/")[0] for maker in makers]
    installed = list_passes()
    unknown = next((name for name in passes if name not in installed), None)
    return unknown or (passes[-1] if passes else _ROUNDING_PASS)


def _site(qmodel: QuantizedModel, name: str) -> Site | None:
    return next((s for s in qmodel.report.sites if s.node == name), None)


def _without_rounding(reference: fx.GraphModule) -> fx.GraphModule:
    """The reference graph with float activations and the weights as they are."""
    clone = clone_graph_module(reference)
    for node in list(clone.graph.nodes):
        source = node.args[0] if is_op(node, vocab.DEQUANTIZE) else None
        if isinstance(source, fx.Node) and is_op(source, vocab.QUANTIZE):
            node.replace_all_uses_with(source.all_input_nodes[0])
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
            zero = node.args[2] if isinstance(node.args[2], int) else 0
            self.codes[origin] = value.float() - zero, zero
        else:
            held = self.rounded if is_op(node, vocab.DEQUANTIZE) else self.exact
            held[origin] = value.detach().clone()
        return value

    def error(self, origin: str, value: Tensor) -> Error | None:
        """How far a value of the lowered graph is off; None if there is nothing alike."""
        if value.is_quantized:
            value = value.int_repr()
        if not value.is_floating_point():
            codes, zero = self.codes.get(origin, (None, 0))
            return _between(codes, value.float() - zero)
        found = (_between(held.get(origin), value) for held in (self.exact, self.rounded))
        return max((e for e in found if e is not None), key=lambda e: e.sqnr, default=None)


def _between(expected: Tensor | None, value: Tensor) -> Error | None:
    if expected is None or expected.shape != value.shape:
        return None
    error = Error()
    error.add(expected, value)
    return error


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

    def measure(node: fx.Node, value: Any) -> Any:
        origin = observation.computed_origin(node)
        if origin is not None and isinstance(value, Tensor):
            error = explicit.error(origin, value)
            worst = sums.lowered.get(origin, math.inf)
            if error is not None:
                sums.lowered[origin] = min(worst, error.sqnr)
        return value

    actual = observation.run_watched(qmodel, batch, measure)
    error_of(meant, actual, sums.lowering)
    error_of(result, meant, sums.reference)
    error_of(result, actual, sums.output)


def _lowering_fault(qmodel: QuantizedModel, sums: _Sums) -> Bisection:
    """The first value of the lowered graph further off than quantization itself."""
    limit = sums.reference.sqnr
    name = next((n for n, s in sums.lowered.items() if not s >= limit), None)
    return Bisection(
        site=None if name is None else _site(qmodel, name),
        pass_name=_LOWERING_PASS,
        makers=(),
        sqnr=sums.lowering.sqnr if name is None else sums.lowered[name],
        typical=median(sums.lowered.values()) if sums.lowered else math.nan,
        output=sums.output.sqnr,
        stands_out=True,
        kernel="" if name is None else _kernel(qmodel, name),
    )


def _kernel(qmodel: QuantizedModel, name: str) -> str:
    nodes = (n for n in qmodel.graph.nodes if observation.computed_origin(n) == name)
    return next((k.name for k in map(kernel_of, nodes) if k is not None), "")
