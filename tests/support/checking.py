"""``check``: run passes on a model, and compare IR, rules that fired, reasons and numbers.

check(FuseConvRelu(), ConvReadTwice(), after=GOLDEN, mismatch="conv: expected 1 user, has 2")
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qfx.capture.capture import capture
from qfx.custom_passes import with_canonicalization
from qfx.framework.manager import run_pipeline
from qfx.framework.pass_base import Pass, PassContext, PatternPass
from qfx.framework.pipeline import Pipeline
from qfx.history.history import History
from qfx.quant.level_checks import QUANTIZATION
from tests.support import golden


@dataclass
class Result:
    """What running passes gave."""

    graph_module: fx.GraphModule
    history: History
    ctx: PassContext

    @property
    def text(self) -> str:
        return self.history[-1].snapshot.to_text(provenance=False)

    @property
    def reasons(self) -> list[str]:
        """Reasons of the near-misses, in graph order."""
        return [miss.reason for miss in self.ctx.near_misses if miss.node]


def run(
    passes: Pass | Sequence[Pass],
    model: nn.Module,
    inputs: Any = None,
    *,
    settings: Sequence[object] = (),
) -> Result:
    """Capture ``model``, canonicalize it unless the passes begin as written, and run them."""
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
    inputs: Any = None,
    *,
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
        after: the IR afterwards, without provenance. ``QFX_GOLDEN=rewrite`` writes it.
        fired: rewrites of the last pass, in all or per rule; for a PatternPass once when None, or
            not at all with ``mismatch``.
        mismatch: the reason of a near-miss of the last pass.
        atol: largest absolute error against the model; 0 asks for equal bits.
    """
    args = _as_args(inputs)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    reference = _outputs(copy.deepcopy(model), args)
    result = run(passes, model, args, settings=settings)
    _check_fired(result, passes if isinstance(passes, Pass) else passes[-1], fired, mismatch)
    if mismatch is not None and mismatch not in result.reasons:
        raise AssertionError(f"no near-miss says {mismatch!r}; they say {result.reasons}")
    if after is not None:
        frame = sys._getframe(1)
        _check_text(result.text, after, frame.f_code.co_filename, frame.f_lineno)
    assert_close(_outputs(result.graph_module, args), reference, atol)
    assert_unchanged(model, state)
    return result


def assert_close(actual: list[Tensor], reference: list[Tensor], atol: float = 0.0) -> None:
    """Equality up to ``atol``, which must mean something: at most 1 % of the largest value."""
    assert len(actual) == len(reference) > 0, f"{len(actual)} outputs, not {len(reference)}"
    for ours, theirs in zip(actual, reference, strict=True):
        largest = float(theirs.double().abs().max()) if theirs.numel() else 0.0
        assert atol <= 0.01 * largest or atol == 0, f"atol={atol} is vacuous: outputs ≤ {largest}"
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol, equal_nan=True)


def assert_unchanged(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``model`` still has ``state``, bit for bit."""
    now = model.state_dict()
    assert list(now) == list(state)
    for name, tensor in state.items():
        assert torch.equal(now[name], tensor), f"the pass changed {name} of the user's model"


def _check_fired(
    result: Result, last: Pass, fired: int | Mapping[str, int] | None, mismatch: str | None
) -> None:
    counts = {
        rule.partition("/")[2]: n for rule, n in result.history[-1].fired.items() if "/" in rule
    }
    if isinstance(fired, Mapping):
        assert counts == dict(fired), f"rules fired: {counts}; reasons: {result.reasons}"
        return
    if fired is None and not isinstance(last, PatternPass):
        return
    expected = fired if fired is not None else int(mismatch is None)
    assert sum(counts.values()) == expected, f"rules fired: {counts}; reasons: {result.reasons}"


def _check_text(actual: str, expected: str, path: str, line: int) -> None:
    actual, expected = golden.normal(actual), golden.normal(expected)
    if actual != expected and golden.rewriting():
        golden.rewrite(path, line, "after", actual)
        return
    assert actual == expected, "the IR differs; QFX_GOLDEN=rewrite writes the new one"


def _as_args(inputs: Any) -> tuple[Any, ...]:
    if inputs is None:
        return (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _outputs(module: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        result = module(*copy.deepcopy(args))
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
