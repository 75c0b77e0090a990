"""What graphs return for the example inputs, and how well two of them agree.

Graphs run as they are before quantization: observers and fake-quants hand on what they are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qfx.graph.arguments import copy_tensors
from qfx.graph.clone import clone_graph_module
from qfx.graph.steps import Steps, arguments_by_name, state_kept
from qfx.quant.channel_mean import ChannelMean
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers import Observer
from qfx.report.measures import Error

Batch = tuple[tuple[Any, ...], Mapping[str, Any]]

_RECORDERS = (Observer, ChannelMean, FakeQuantize)

EIGHT_BITS = 28.0
"""SQNR in dB that eight bits leave at least; see :mod:`qfx.report.bisection`."""

FLIPS = 10.0
"""By how many dB values that lie between two codes may do worse than rounding itself."""

_OTHER_INTEGERS = 0.01
"""What fraction of integers may differ: where two logits are level, the last bit decides."""


_MARGIN = 10.0
"""By how many dB rounding on the way may do worse than that of parameters."""


class FloatSteps(Steps):
    """Runs a graph without recording or rounding anything."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module yields; observers and fake-quants hand on their input."""
        if isinstance(self.fetch_attr(str(target)), _RECORDERS):
            return args[0]
        return super().call_module(target, args, kwargs)


def float_steps(graph_module: fx.GraphModule, batch: Batch, **options: Any) -> FloatSteps:
    """A run of ``graph_module`` on copies of ``batch``; ``options`` are those of Steps."""
    args, kwargs = copy_tensors((batch[0], dict(batch[1])))
    given = arguments_by_name(graph_module.graph, args, kwargs)
    return FloatSteps(graph_module, given, **options)


def outputs(graph_module: fx.GraphModule, batch: Batch, *, seed: int = 0) -> Any:
    """What ``graph_module`` returns; it and the state of the process stay as they are."""
    with state_kept(graph_module):
        return float_steps(graph_module, batch, seed=seed).run_to_end()


def outcome(
    graph_module: fx.GraphModule, batch: Batch, buffers: Mapping[str, Tensor] | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """What ``graph_module`` returns, and the buffers that it writes to as they are afterwards.

    They hold ``buffers`` at first, if given.
    """
    with state_kept(graph_module):
        steps = float_steps(graph_module, batch, buffers=buffers)
        return steps.run_to_end(), steps.written()


def agreement(expected: Any, actual: Any) -> float:
    """SQNR in dB of all tensors of ``actual`` together; -inf where they can't be the same thing.

    Both are tensors, or nests of them. Where there are no floats, the answer is inf or, where more
    integers differ than a tie explains, -inf.
    """
    pairs = list(zip(_tensors(expected), _tensors(actual), strict=False))
    if len(pairs) != len(_tensors(expected)) or len(pairs) != len(_tensors(actual)):
        return -math.inf
    error = Error()
    for one, other in pairs:
        if one.shape != other.shape or one.dtype.is_floating_point != other.is_floating_point():
            return -math.inf
        if one.is_floating_point():
            error.add(*_finite(one, other))
        elif one.numel() and float((one != other).float().mean()) > _OTHER_INTEGERS:
            return -math.inf
    return -math.inf if math.isnan(error.sqnr) else error.sqnr


def _tensors(value: Any) -> list[Tensor]:
    return [_real(t) for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def _real(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _finite(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The two without NaN that both have."""
    both = one.isnan() & other.isnan()
    return one.masked_fill(both, 0.0), other.masked_fill(both, 0.0)


def least_agreement(*values: Any) -> float:
    """What rounding leaves of the agreement of two ways to compute the same, in dB.

    Deep graphs lose up to a thousand times the rounding error of their dtype; for those that lose
    more there is :func:`least_when_shaken`.
    """
    kinds = [t.dtype for v in values for t in _tensors(v) if t.is_floating_point()]
    coarsest = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    return 60.0 if coarsest < 1e-6 else 20.0


def least_when_shaken(
    graph_module: fx.GraphModule, batch: Batch, buffers: Mapping[str, Tensor] | None = None
) -> float:
    """What rounding leaves of the outputs of a graph that amplifies it, in dB.

    That is what a random last bit of each parameter leaves, less ten: a graph whose softmax takes
    one of two equal scores, say, tells as much from bits that nobody chose.
    """
    shaken = clone_graph_module(graph_module, deep=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in shaken.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.addcmul_(parameter, noise, value=torch.finfo(parameter.dtype).eps)
    both = (outcome(each, batch, buffers)[0] for each in (graph_module, shaken))
    return agreement(*both) - _MARGIN
