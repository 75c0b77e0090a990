"""``check``: run passes on a model, and compare IR, rules that fired, reasons and numbers.

check(FuseConvRelu(), ConvReadTwice(), after=GOLDEN, mismatch="conv: expected 1 user, has 2")
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.capture import capture
from qfx.custom_passes import with_canonicalization
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import Pass, PatternPass
from qfx.framework.pass_context import PassContext
from qfx.framework.pipeline import Pipeline
from qfx.history.history import History
from qfx.quant.level_checks import QUANTIZATION
from qfx.testing import golden
from qfx.torch_private import pytree


@dataclass
class Result:
    """What running passes gave.

    Attributes:
        graph_module: the graph module.
        history: every stage, the capture first.
        ctx: the context that passes had.
    """

    graph_module: fx.GraphModule
    history: History
    ctx: PassContext

    @property
    def text(self) -> str:
        """The graph at the end as text, without provenance."""
        return self.text_of(-1)

    def text_of(self, stage: int) -> str:
        """The graph of a stage as text, without provenance."""
        return self.history[stage].snapshot.to_text(provenance=False)

    @property
    def reasons(self) -> list[str]:
        """Reasons of the near-misses, in graph order."""
        return [miss.reason for miss in self.ctx.near_misses if miss.node]


def run(
    passes: Pass | Sequence[Pass],
    model: nn.Module,
    inputs: object = None,
    *,
    settings: Sequence[object] = (),
) -> Result:
    """Capture ``model``, canonicalize it unless the passes begin as written, and run them.

    Args:
        passes: one, or several in order.
        model: in the mode it is to be captured in.
        inputs: a tensor or a tuple; a random (1, 3, 8, 8) when None.
        settings: what passes ask of their context by type.
    """
    steps = with_canonicalization([passes] if isinstance(passes, Pass) else list(passes))
    args = _as_args(inputs)
    graph_module = capture(model, args)
    ctx = PassContext(graph_module, example_inputs=args).put(QUANTIZATION, *settings)
    history = History()
    run_pipeline(graph_module, Pipeline(tuple(steps)), ctx, history)
    return Result(graph_module, history, ctx)


def check(
    passes: Pass | Sequence[Pass],
    model: nn.Module,
    inputs: object = None,
    *,
    before: str | None = None,
    after: str | None = None,
    fired: int | Mapping[str, int] | None = None,
    mismatch: str | None = None,
    atol: float = 0.0,
    settings: Sequence[object] = (),
) -> Result:
    """Check what passes do to a model.

    Args:
        passes: one, or several in order; what is said of rules is of the last one.
        model: in the mode it is to be captured in.
        inputs: a tensor or a tuple; a random (1, 3, 8, 8) when None.
        before: the IR that the last pass finds, without provenance.
        after: the IR afterwards, without provenance; ``pytest --update-golden`` writes both.
        fired: rewrites of the last pass, in all or per rule; for a PatternPass once when None, or
            not at all with ``mismatch``.
        mismatch: the reason of a near-miss of the last pass.
        atol: largest absolute error against the model; 0 asks for equal bits. Outputs are not
            compared where a pass says that it does not keep values (``keeps_values = False``).
        settings: what passes ask of their context by type.

    Returns:
        The graph module, the history, and the reasons of near-misses.

    Raises:
        AssertionError: something is not as it should be, or the pass changed the user's model.
    """
    steps = [passes] if isinstance(passes, Pass) else list(passes)
    args = _as_args(inputs)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    reference = _outputs(copy.deepcopy(model), args)
    result = run(steps, model, args, settings=settings)
    _check_fired(result, steps[-1], fired, mismatch)
    if mismatch is not None and mismatch not in result.reasons:
        raise AssertionError(f"no near-miss says {mismatch!r}; they say {result.reasons}")
    caller = sys._getframe(1)
    place = caller.f_code.co_filename, caller.f_lineno
    for keyword, expected, stage in (("before", before, -2), ("after", after, -1)):
        if expected is not None:
            _check_text(result.text_of(stage), expected, keyword, *place)
    if all(step.keeps_values for step in steps):
        assert_close(_outputs(result.graph_module, args), reference, atol)
    assert_unchanged(model, state)
    return result


def assert_close(actual: list[Tensor], reference: list[Tensor], atol: float = 0.0) -> None:
    """Equality up to ``atol``, which must mean something: at most 1 % of the largest value."""
    if not len(actual) == len(reference) > 0:
        raise AssertionError(f"{len(actual)} outputs, not {len(reference)}")
    for ours, theirs in zip(actual, reference, strict=True):
        largest = float(theirs.double().abs().max()) if theirs.numel() else 0.0
        if not (atol <= 0.01 * largest or atol == 0):
            raise AssertionError(f"atol={atol} is vacuous: outputs ≤ {largest}")
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol, equal_nan=True)


def assert_unchanged(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``model`` still has ``state``, bit for bit."""
    now = model.state_dict()
    if list(now) != list(state):
        raise AssertionError(f"the pass changed what the user's model holds: {list(now)}")
    for name, tensor in state.items():
        if not torch.equal(now[name], tensor):
            raise AssertionError(f"the pass changed {name} of the user's model")


def _check_fired(
    result: Result, last: Pass, fired: int | Mapping[str, int] | None, mismatch: str | None
) -> None:
    counts = {
        rule.partition("/")[2]: n for rule, n in result.history[-1].fired.items() if "/" in rule
    }
    told = f"rules fired: {counts}; reasons: {result.reasons}"
    if isinstance(fired, Mapping):
        if counts != dict(fired):
            raise AssertionError(told)
        return
    if fired is None and not isinstance(last, PatternPass):
        return
    expected = fired if fired is not None else int(mismatch is None)
    if sum(counts.values()) != expected:
        raise AssertionError(told)


def _check_text(actual: str, expected: str, keyword: str, path: str, line: int) -> None:
    actual, expected = golden.normal(actual), golden.normal(expected)
    if actual == expected:
        return
    if golden.updates.enabled:
        golden.updates.add(path, line, keyword, actual)
        return
    raise AssertionError(
        f"the IR {keyword} the pass differs; pytest --update-golden writes the new one\n"
        + "\n".join(unified_diff(expected.splitlines(), actual.splitlines(), lineterm="", n=1))
    )


def _as_args(inputs: object) -> tuple[Any, ...]:
    if inputs is None:
        return (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _outputs(module: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        result = module(*copy.deepcopy(args))
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
