"""Lowering under a net: what a kernel gets wrong is put back to float, and the report says so.

lower -> compare every call -> put back what fails -> lower again ... -> compare the whole
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from qfx.errors import PassError
from qfx.framework.instruments import Instrument
from qfx.graph import meta
from qfx.graph.clone import clone_graph_module
from qfx.history.history import History
from qfx.quant.annotation import annotation
from qfx.quant.reasons import refusal
from qfx.report.checked import Checked
from qfx.runtime.prepared import PreparedModel
from qfx.torch_private import pytree
from qfx.verification.calls import CallCheck, Fault, check_calls
from qfx.verification.contents import KeepsContents
from qfx.verification.floats import check_float
from qfx.verification.lowering import AfterLowering, BeforeLowering, Following
from qfx.verification.outputs import (
    EIGHT_BITS,
    FLIPS,
    Batch,
    Outcome,
    agreement,
    outcome,
    outputs,
)
from qfx.verification.put_back import KERNEL_FAILED

LowerFunction = Callable[[fx.GraphModule, History, Mapping[str, str]], None]


class Net:
    """Checks one conversion on its example inputs, step by step.

    Args:
        prepared: what is converted, as the user left it.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        settings = prepared.settings
        self._device = "cpu" if settings.backend.cpu_only else None
        self._batch: Batch = self._moved((settings.example_inputs, dict(settings.example_kwargs)))
        self._expected = self._moved(settings.expected)
        self._changed = prepared.parameters_changed
        self._float = math.nan
        self._start: Outcome | None = None
        self._notes: list[str] = []
        self._put_back: dict[str, str] = {}
        self._calls = CallCheck()
        self._lowered = self._output = math.nan
        self._closely, self._following = False, Following(self._batch)

    def check_float(self, prepared: PreparedModel) -> None:
        """Compare the graph before quantization with the float model; see there for errors."""
        found = check_float(prepared, self._batch, self._expected, self._changed)
        self._expected, self._float, self._start = found.expected, found.sqnr, found.outcome
        self._notes += [found.note] if found.note else []

    def instruments(self) -> list[Instrument]:
        """To run beside passes, which keep what the graph computes.

        Each is looked at up to the one that lowers the graph, whose calls are compared one by one.
        Those after it are looked at together, and one by one if they do change something.
        """
        if self._closely:
            return [KeepsContents(), AfterLowering(self._batch)]
        self._following = Following(self._batch)
        start, self._start = self._start, None  # the graph goes on from there
        return [KeepsContents(), BeforeLowering(self._batch, start), self._following]

    def lower(
        self, reference: fx.GraphModule, lower: LowerFunction, history: History
    ) -> tuple[fx.GraphModule, History]:
        """Lower a copy of ``reference`` until every call of it computes what it stands for.

        Args:
            reference: the reference form; stays as it is.
            lower: runs the passes of lowering on a graph, in place, and adds their stages; what is
                named, each with the reason, stays float.
            history: up to the reference form; stays as it is.

        Returns:
            The lowered graph, and the history with its stages.

        Raises:
            PassError: the whole is wrong, or a fault is none that floats would cure.
        """
        while True:
            stages, graph_module = History(history), clone_graph_module(reference, apart=True)
            lower(graph_module, stages, self._put_back)
            self._calls = check_calls(reference, graph_module, self._batch)
            self._check_following(reference, graph_module, lower, history)
            faults = self._calls.faults
            if not faults:
                break
            found = _curable(reference, faults)
            if not found.keys() - self._put_back.keys():
                raise _error(graph_module, faults[0])
            self._put_back.update(found)
        self._check_whole(reference, graph_module)
        return graph_module, stages

    def _check_following(
        self,
        reference: fx.GraphModule,
        lowered: fx.GraphModule,
        lower: LowerFunction,
        history: History,
    ) -> None:
        """Hold the passes after the one that lowers to what the graph computed right after it."""
        if self._following.keep_values(lowered):
            return
        self._closely, again = True, clone_graph_module(reference, apart=True)
        lower(again, History(history), self._put_back)  # raises at the one at fault
        self._closely = False
        if self._following.all_keep:
            raise PassError(
                "the passes after lowering change what the model computes, and no single one is to "
                "blame. What to do: leave them out one by one, and report it.",
                pass_name=self._following.last,
                graph_module=reference,
            )

    def _check_whole(self, reference: fx.GraphModule, lowered: fx.GraphModule) -> None:
        meant = self._calls.result
        actual = self._following.outcome or outcome(lowered, self._batch)
        self._output = agreement(self._expected, meant)
        self._lowered = agreement(meant, actual.result)
        # Every call is right by now: what is looked for is a value that is overwritten too early.
        least = min(EIGHT_BITS, self._output) - FLIPS
        if self._lowered >= least:
            self._check_arguments(reference, actual.arguments)
            return
        if agreement(actual.result, outputs(lowered, self._batch, seed=1)) >= least:
            raise PassError(
                f"the lowered model gives other outputs than its reference form: they agree to "
                f"{self._lowered:.1f} dB on the example inputs, though each kernel call is right. "
                "What to do: quantize with backend='reference', and report it.",
                pass_name="lower",
                graph_module=reference,
            )
        self._lowered = math.nan
        self._notes.append("the output: not compared, the model draws random numbers")

    def _check_arguments(self, reference: fx.GraphModule, changed: dict[str, Any]) -> None:
        """PassError if the lowered model does other things to its arguments than it should."""
        meant = self._calls.arguments
        same = meant.keys() == changed.keys()
        found = agreement(meant, changed) if same else -math.inf
        if found >= EIGHT_BITS - FLIPS:
            return
        names = ", ".join(sorted({*meant, *changed}))
        raise PassError(
            f"the lowered model leaves its arguments ({names}) in another state than its reference "
            f"form does: they agree to {found:.1f} dB on the example inputs. What to do: quantize "
            "with backend='reference', and report it.",
            pass_name="lower",
            graph_module=reference,
        )

    def checked(self) -> Checked:
        """What was checked so far, for the report."""
        return Checked(
            float_graph=self._float,
            calls=self._calls.checked,
            put_back=len(self._put_back),
            lowered=self._lowered,
            output=self._output,
            notes=tuple(self._notes),
        )

    def _moved(self, value: object) -> Any:
        if self._device is None:
            return value
        return pytree.tree_map_only(Tensor, lambda t: t.to(self._device), value)


def _named(node: fx.Node) -> str:
    return str(getattr(node.target, "name", node.target))


def _curable(reference: fx.GraphModule, faults: list[Fault]) -> dict[str, str]:
    """The quantized operations that are at fault, and why each stays float."""
    nodes = {node.name: node for node in reference.graph.nodes}
    found: dict[str, str] = {}
    for fault in faults:
        node = nodes.get(fault.operation)
        note = None if node is None else annotation(node)
        if node is None or note is None or not note.decision.quantized:
            continue
        detail = f"{fault.kernel}: {fault.detail}"
        why = refusal(KERNEL_FAILED, op=_named(node), detail=detail)
        found.setdefault(fault.operation, why.message)
    return found


def _error(graph_module: fx.GraphModule, fault: Fault) -> PassError:
    node = next(n for n in graph_module.graph.nodes if n.name == fault.node)
    maker, _, rule = meta.rule_of(node).partition("/")
    return PassError(
        f"{meta.where(node)} of the lowered graph does not compute what it stands for on "
        f"the example inputs: {fault.detail}. What to do: quantize with backend='reference', and "
        "report it.",
        pass_name=maker or "lower",
        rule=rule or None,
        node=fault.node,
        graph_module=graph_module,
    )
