"""The float graph as it stands before quantization, against what the float model computes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from qfx.errors import CaptureError, PassError
from qfx.framework.manager import transform
from qfx.graph.clone import clone_graph_module
from qfx.graph.state import may_write
from qfx.private_attributes import registry_of
from qfx.runtime.prepared import PreparedModel
from qfx.verification.outputs import (
    Batch,
    Outcome,
    agreement,
    compared,
    outcome,
    outputs,
    shaken_outcomes,
)
from qfx.verification.stages import KeepsValues


class FloatCheck(NamedTuple):
    """What came of comparing a prepared model with the model that it was made from.

    Attributes:
        expected: what the float model makes of the batch now.
        sqnr: of the prepared model, its observers aside, in dB.
        note: on what could not be compared, or "".
        outcome: what the prepared model makes of the batch, where it was run.
    """

    expected: Any
    sqnr: float
    note: str = ""
    outcome: Outcome | None = None


def check_untrained(prepared: PreparedModel) -> None:
    """Compare a model to be trained with the float model, while its parameters are the same.

    Raises:
        PassError: a pass changed what the graph computes; names it and the first node.
    """
    settings = prepared.settings
    batch = (settings.example_inputs, settings.example_kwargs)
    captured = settings.captured
    assert captured is not None  # it was captured a moment ago
    _check(prepared.copy_to_convert(), batch, outputs(captured, batch), captured)


def check_float(
    prepared: PreparedModel, batch: Batch, expected: object, changed: bool
) -> FloatCheck:
    """How well a prepared model, its observers aside, agrees with the model that it was made from.

    Args:
        prepared: to be converted; training may have moved its parameters.
        batch: the example inputs, on its device.
        expected: what the model made of them before training.
        changed: whether parameters were written to, and not by training.

    Raises:
        PassError: a pass changed what the graph computes; names it and the first node.
        CaptureError: the captured graph does not compute what the model computes.
    """
    settings, captured = prepared.settings, prepared.settings.captured
    if captured is None:
        return _not_compared(prepared, batch, "the model comes from a file")
    if settings.method == "qat":
        trained = _with_tensors_of(captured, prepared)
        if trained is None:
            return _not_compared(prepared, batch, "parameters have other names")
        return _check(prepared, batch, outputs(trained, batch), trained)
    if changed:
        return _not_compared(prepared, batch, "parameters were written to")
    if expected is None:
        expected = outputs(captured, batch)
    return _check(prepared, batch, expected, captured, settings.buffers)


def _not_compared(prepared: PreparedModel, batch: Batch, why: str) -> FloatCheck:
    return FloatCheck(outputs(prepared, batch), math.nan, f"the float graph: not compared, {why}")


def _check(
    prepared: PreparedModel,
    batch: Batch,
    expected: object,
    captured: fx.GraphModule,
    buffers: Mapping[str, Tensor] = MappingProxyType({}),
) -> FloatCheck:
    """The comparison itself; ``captured`` is what the passes were given, its buffers as then."""
    ours = outcome(prepared, batch)
    actual = ours.result
    verdict, shaken = compared(expected, actual), None
    if verdict.holds and not ours.arguments and not may_write(captured):
        return FloatCheck(expected, verdict.found, outcome=ours)
    if not verdict.holds:
        shaken = shaken_outcomes(captured, batch, buffers)
    of_outputs = None if shaken is None else (shaken[0].result, shaken[1].result)
    meant = outcome(captured, batch, buffers)
    again = meant.result
    if not compared(meant, ours, shaken).holds:
        _blame(prepared, captured, batch)
        note = "the float graph: not compared, a pass changes what it computes"
        return FloatCheck(actual, math.nan, note, ours)
    verdict = compared(expected, actual, of_outputs)
    if verdict.holds:
        return FloatCheck(expected, verdict.found, outcome=ours)
    if not compared(again, outputs(captured, batch, seed=1), of_outputs).holds:
        return FloatCheck(actual, agreement(again, actual), "the model draws random numbers", ours)
    raise CaptureError(
        f"the captured graph does not compute what the model computes: on the example inputs the "
        f"outputs agree to {verdict.found:.1f} dB, and rounding leaves {verdict.least:.0f} dB. The "
        "model decides something in Python that tracing can't see. What to do: find the module at "
        "fault by capturing its children one by one, and write what it decides by with tensors, or "
        "keep that module float."
    )


def _blame(prepared: PreparedModel, captured: fx.GraphModule, batch: Batch) -> None:
    """Run the passes again and raise at the one at fault, unless those at fault say that they are.

    What a pass that does not keep values computes is what those after it are held to.
    """
    settings = prepared.settings
    again = clone_graph_module(captured, apart=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given the first time
        transform(again, settings.before, settings.context(again), None, [KeepsValues(batch)])
    if all(getattr(step, "keeps_values", True) for step in settings.before.passes):
        raise PassError(
            "the prepared model does not compute what the model computes, and no single pass is "
            "to blame. What to do: run the passes with NumericCheck, and report it.",
            pass_name=settings.before.passes[-1].name,
            graph_module=captured,
        )


def _with_tensors_of(captured: fx.GraphModule, prepared: PreparedModel) -> fx.GraphModule | None:
    """A copy of ``captured`` over what training made of its tensors; None if names don't match."""
    clone = clone_graph_module(captured, deep=True)
    own, trained = _tensors(clone), _tensors(prepared)
    if any(name not in trained or trained[name].shape != own[name].shape for name in own):
        return None
    for name in own:
        path, _, leaf = name.rpartition(".")
        owner = clone.get_submodule(path)
        registry_of(owner, leaf)[leaf] = trained[name]
    return clone


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
