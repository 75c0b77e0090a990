"""What graphs return for the example inputs, and how well two of them agree.

Graphs run as they are before quantization: observers and fake-quants hand on what they are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from qfx.capture.arguments import copy_tensors
from qfx.graph.clone import clone_graph_module
from qfx.graph.layouts import computable, dense
from qfx.graph.steps import Steps, arguments_by_name, state_kept
from qfx.numerics.measures import Error
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers import Observer
from qfx.torch_private import pytree

Batch = tuple[tuple[Any, ...], Mapping[str, Any]]

RECORDERS = (Observer, ChannelMean, FakeQuantize)
"""Modules that are not run, and so write nothing."""

EIGHT_BITS = 28.0
"""SQNR in dB that eight bits leave at least; see :mod:`qfx.numerics.bisection`."""

FLIPS = 10.0
"""By how many dB values that lie between two codes may do worse than rounding itself."""

_OTHER_INTEGERS = 0.01
"""What fraction of integers may differ: where two logits are level, the last bit decides."""


_FILL = 100.0
"""How many times as large as what differs a value is that stands for none."""

_LOST_IN_HALF = 20.0
"""How much of 16-bit floats rounding on the way takes, in dB."""

_MARGIN = 10.0
"""By how many dB rounding on the way may do worse than that of parameters."""


class FloatSteps(Steps):
    """Runs a graph without recording or rounding anything."""

    idle = RECORDERS

    def call_module(self, target: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
        """What a module yields; observers and fake-quants hand on their input."""
        if isinstance(self.fetch_attr(str(target)), self.idle):
            return args[0]
        return super().call_module(target, args, kwargs)


def float_steps(graph_module: fx.GraphModule, batch: Batch, **options: Any) -> FloatSteps:
    """A run of ``graph_module`` on copies of ``batch``; ``options`` are those of Steps."""
    return FloatSteps(graph_module, copy_tensors(_by_name(graph_module, batch)), **options)


def _by_name(graph_module: fx.GraphModule, batch: Batch) -> dict[str, Any]:
    return arguments_by_name(graph_module.graph, batch[0], dict(batch[1]))


def outputs(graph_module: fx.GraphModule, batch: Batch, *, seed: int = 0) -> Any:
    """What ``graph_module`` returns; it and the state of the process stay as they are."""
    with state_kept(graph_module, RECORDERS):
        return float_steps(graph_module, batch, seed=seed).run_to_end()


class Outcome(NamedTuple):
    """What running a graph comes to.

    Attributes:
        result: what it returns.
        written: the buffers that it changed, by name, as they are afterwards.
        arguments: the arguments that it changed, likewise.
    """

    result: Any
    written: dict[str, Tensor]
    arguments: dict[str, Any]


def outcome(
    graph_module: fx.GraphModule, batch: Batch, buffers: Mapping[str, Tensor] | None = None
) -> Outcome:
    """What running ``graph_module`` comes to; buffers hold ``buffers`` at first, if given."""
    with state_kept(graph_module, RECORDERS):
        steps = float_steps(graph_module, batch, buffers=buffers)
        result, given = steps.run_to_end(), _by_name(graph_module, batch)
        return Outcome(result, steps.written(), steps.changed(given))


class Verdict(NamedTuple):
    """How well two values agree, and how well they have to, in dB, where that is worst."""

    found: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether they agree well enough."""
        return self.found >= self.least


def agreement(expected: object, actual: object) -> float:
    """SQNR in dB of the tensor of ``actual`` that is worst; -inf where one can't be the same thing.

    Both are tensors, or nests of them. Each counts by itself, so that boxes in pixels don't hide
    scores, and what is filled in (-1e9 in masked logits) counts in none. Where there are no floats,
    the answer is inf or, where more integers differ than a tie explains, -inf.
    """
    pairs = _pairs(expected, actual)
    return -math.inf if pairs is None else min((_agreement(*p) for p in pairs), default=math.inf)


def compared(
    expected: object,
    actual: object,
    shaken: tuple[object, object] | None = None,
    *,
    cap: float = math.inf,
) -> Verdict:
    """Whether two ways to compute the same agree as far as rounding lets them.

    Args:
        expected: what one of them makes of some inputs: a tensor, or a nest of them.
        actual: what the other makes of them.
        shaken: what :func:`shaken_outcomes` gives for the graph in question, once it is needed.
        cap: the most that is asked, in dB.
    """
    pairs, loose = _pairs(expected, actual), None if shaken is None else _pairs(*shaken)
    if pairs is None:
        return Verdict(-math.inf, 0.0)
    verdicts = []
    for index, (one, other) in enumerate(pairs):
        least = min(cap, _least(one, other))
        if loose is not None and len(loose) == len(pairs):
            least = min(least, _agreement(*loose[index]) - _MARGIN)
        verdicts.append(Verdict(_agreement(one, other), least))
    failed = [v for v in verdicts if not v.holds]
    return min(failed or verdicts, default=Verdict(math.inf, 0.0))


def _pairs(expected: object, actual: object) -> list[tuple[Tensor, Tensor]] | None:
    ours, theirs = _tensors(expected), _tensors(actual)
    return list(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else None


def _agreement(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or one.dtype.is_floating_point != other.is_floating_point():
        return -math.inf
    if not one.is_floating_point():
        differ = float((one != other).float().mean()) if one.numel() else 0.0
        return -math.inf if differ > _OTHER_INTEGERS else math.inf
    one, other = computable(one), computable(other)
    error = Error()
    error.add(*_unfilled(*_finite(one, other)))
    return -math.inf if math.isnan(error.sqnr) else error.sqnr


def _unfilled(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The two without what is the same and far larger than all that is not."""
    other = other.to(one.dtype)
    differ = one != other
    if not bool(differ.any()):
        return one, other
    largest = torch.maximum(one.abs(), other.abs())[differ].max()
    kept = (one.abs() <= _FILL * largest) | differ
    return one[kept], other[kept]


def _tensors(value: object) -> list[Tensor]:
    return [_real(t) for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def _real(value: Tensor) -> Tensor:
    value = dense(value.detach().cpu())
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _finite(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The two without NaN that both have."""
    both = one.isnan() & other.isnan()
    return one.masked_fill(both, 0.0), other.masked_fill(both, 0.0)


def _least(*values: Tensor) -> float:
    """What rounding leaves of the agreement of two ways to compute a tensor, in dB.

    Graphs lose up to a hundred times the rounding error of their dtype, deep ones in float32 a
    thousand times; for those that lose more there is :func:`shaken_outcomes`.
    """
    kinds = [value.dtype for value in values if value.is_floating_point()]
    coarsest = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    return 60.0 if coarsest < 1e-6 else -20 * math.log10(coarsest) - _LOST_IN_HALF


def shaken_outcomes(
    graph_module: fx.GraphModule, batch: Batch, buffers: Mapping[str, Tensor] | None = None
) -> tuple[Outcome, Outcome]:
    """The :func:`outcome` of a graph, and the same when each parameter's last bit is random.

    Where the two differ, the graph amplifies rounding: one whose softmax takes one of two equal
    scores, say, tells as much from bits that nobody chose.
    """
    shaken = clone_graph_module(graph_module, deep=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in shaken.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.addcmul_(parameter, noise, value=torch.finfo(parameter.dtype).eps)
    return outcome(graph_module, batch, buffers), outcome(shaken, batch, buffers)
