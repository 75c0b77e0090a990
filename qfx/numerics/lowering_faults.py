"""Which kernel is at fault, if one is further off than quantization itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.numerics import observation, suspects
from qfx.numerics.measures import Error, added
from qfx.numerics.sums import Sums
from qfx.numerics.verdict import Bisection
from qfx.quant.annotation import kernel_of
from qfx.report.sites import Site
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import is_op

STANDS_OUT = 10.0
"""By how many dB the error of the culprit exceeds that of the median operation, or its rounding."""

ROUNDING_PASS = "reference"

_LOWERING_PASS = "lower"


def site_of(qmodel: QuantizedModel, name: str) -> Site | None:
    return next((s for s in qmodel.report.sites if s.node == name), None)


# -- lowering ------------------------------------------------------------------------------------
@dataclass
class _Explicit:
    """What the reference graph computes for each captured operation."""

    exact: dict[str, Tensor] = field(default_factory=dict)
    rounded: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def keep(self, node: fx.Node, value: object) -> Any:
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


def add_lowered(
    qmodel: QuantizedModel,
    reference: fx.GraphModule,
    batch: observation.Batch,
    result: object,
    sums: Sums,
) -> str:
    """Compare the lowered graph with the reference graph, integers with integers.

    Returns:
        Why the outputs can't be compared, or "".
    """
    explicit = _Explicit()
    meant = observation.run_watched(reference, batch, explicit.keep)
    points = _lowered_points(qmodel.graph)

    def measure(node: fx.Node, value: object) -> Any:
        origin = points.get(node)
        found = explicit.like(origin, value) if origin and isinstance(value, Tensor) else None
        if origin is None or found is None:
            return value
        error, corrected = found
        sums.lowered[origin] = min(sums.lowered.get(origin, math.inf), error.sqnr)
        return corrected  # so that each operation shows the error that it makes by itself

    added(meant, observation.run_watched(qmodel, batch, measure), sums.remaining)
    actual = observation.run_watched(qmodel, batch, lambda _, value: value)
    added(meant, actual, sums.lowering)
    added(result, meant, sums.reference)
    return added(result, actual, sums.output)


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


def lowering_fault(qmodel: QuantizedModel, sums: Sums, explained: float) -> Bisection | None:
    """The first operation of the lowered graph further off than quantization itself.

    Where the model amplifies, the reference graph is far off for no fault of its operations; what
    one of them makes by itself tells more, if that is little.
    """
    limit = min(sums.reference.sqnr, explained)
    limits = {
        n: max(limit, min(error.sqnr - STANDS_OUT, explained))
        for n, error in sums.alone.items()
        if error.count
    }
    name = next((n for n, s in sums.lowered.items() if not s >= limits.get(n, limit)), None)
    if name is None and sums.remaining.sqnr >= limit:
        return None
    node = next((n for n in qmodel.graph.nodes if observation.computed_origin(n) == name), None)
    makers = () if node is None else suspects.makers_of(qmodel, node, _lowering_start(qmodel))
    foreign = [m for m in makers if suspects.is_foreign(m)]
    return Bisection(
        site=None if name is None else site_of(qmodel, name),
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
    return history[ROUNDING_PASS].index + 1 if ROUNDING_PASS in history else len(history)


def _kernel(qmodel: QuantizedModel, name: str) -> str:
    nodes = (n for n in qmodel.graph.nodes if observation.computed_origin(n) == name)
    return next((k.name for k in map(kernel_of, nodes) if k is not None), "")
