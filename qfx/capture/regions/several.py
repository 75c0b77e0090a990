"""The graphs of one module: as many as it takes to hold its recorded calls.

The first is captured on the largest call. Calls of other forms (other ranks, an argument that is
None, another flag, integers for floats) that it refuses are captured by themselves, the largest
first. A graph that takes a call and computes something else, or refuses one of a form that it
takes, speaks against them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, fx, nn

from qfx.capture.capture import ASSIGNED, EXPECTED, FILLED, capture
from qfx.capture.regions.recording import Calls, RecordedCall
from qfx.capture.regions.sharing import Key, likeness, put_over
from qfx.capture.regions.trial import Disagreement, disagreement, has_way_out, outcome
from qfx.errors import CaptureError, ConfigError
from qfx.graph.ways import MOST_WAYS, CallForm
from qfx.torch_private import pytree


class CapturedWay(NamedTuple):
    """A graph of a module.

    Attributes:
        call: what it was captured on.
        forms: the forms of the recorded calls that it takes, and how many there were of each.
        captured: the graph.
    """

    call: RecordedCall
    forms: dict[CallForm, int]
    captured: fx.GraphModule


class _Refusal(NamedTuple):
    """Why there are no graphs of a module, and whether there are none of modules that are alike."""

    why: str
    of_all: bool = False


class Capturing:
    """Captures modules, and those that are alike once.

    Args:
        modes: as for :func:`qfx.capture.capture.capture`; then there is one graph of each module.
    """

    def __init__(self, *, modes: bool) -> None:
        self.modes = modes
        self._known: dict[Key, tuple[CapturedWay, ...]] = {}
        self._refused: dict[Key, str] = {}

    def ways(self, module: nn.Module, calls: Calls) -> tuple[CapturedWay, ...] | str:
        """Graphs of ``module`` that hold its calls between them, or why there are none.

        Args:
            module: never mutated.
            calls: as recorded; there is one.
        """
        key = None if self.modes else likeness(module, calls)
        if key is not None and key in self._refused:
            return self._refused[key]
        known = () if key is None else self._known.get(key, ())
        found = _ways(module, calls, known, modes=self.modes) if known else _Refusal("")
        if isinstance(found, _Refusal):
            found = _ways(module, calls, (), modes=self.modes)
        if not isinstance(found, _Refusal):
            if key is not None:
                self._known.setdefault(key, found)
            return found
        if key is not None and found.of_all:
            self._refused[key] = found.why
        return found.why


def _ways(
    module: nn.Module, calls: Calls, like: Sequence[CapturedWay], *, modes: bool
) -> tuple[CapturedWay, ...] | _Refusal:
    """Graphs of ``module``: those of a module that is alike, or captured."""
    ways: list[CapturedWay] = []
    waiting, why = calls.kept, ""
    while waiting:
        call = max(waiting, key=lambda each: each.size)
        shared = like[len(ways)].captured if len(ways) < len(like) else None
        put = shared and put_over(shared, module)
        captured = put or _captured(module, call, modes)
        if isinstance(captured, _Refusal):
            return captured
        taken: dict[CallForm, int] = {}
        refused: list[RecordedCall] = []
        for each in (call, *(other for other in waiting if other is not call)):
            theirs = outcome(module, each)
            if each is call and put and shared and EXPECTED in shared.meta:
                captured.meta[EXPECTED] = theirs.result
            odd = disagreement(captured, theirs, each)
            if odd is None and _floats(each) != _floats(call):
                odd = Disagreement("it is given integers for floats", refuses=True)
            if odd is None:
                taken[each.form] = calls.forms[each.form]
            elif odd.refuses:
                refused.append(each)
                why = odd.why
            else:
                return _Refusal(odd.why)
        if any(each.form in taken for each in refused) or (refused and not has_way_out(captured)):
            return _Refusal(why)
        ways.append(CapturedWay(call, taken, captured))
        if refused and modes:
            return _Refusal(f"{_SEVERAL_WAYS}: {why}")
        if refused and len(ways) == MOST_WAYS:
            return _Refusal(why)
        waiting = refused
    return tuple(ways)


def _floats(call: RecordedCall) -> list[bool]:
    """Which of the tensors of a call are rounded, if what reads them is quantized."""
    leaves = pytree.tree_leaves((call.args, call.kwargs))
    return [leaf.is_floating_point() for leaf in leaves if isinstance(leaf, Tensor)]


_SEVERAL_WAYS = "it is called in several ways, and what is trained has one graph"


def _captured(module: nn.Module, call: RecordedCall, modes: bool) -> fx.GraphModule | _Refusal:
    try:
        captured = capture(
            module, call.args, call.kwargs, modes=modes, keep_expected=True, data_sizes=False
        )
    except (CaptureError, ConfigError) as error:
        of_all = isinstance(error, CaptureError) and not error.by_weights
        return _Refusal(first_line(error), of_all)
    changed = (*captured.meta[ASSIGNED], *captured.meta[FILLED])
    if changed:
        return _Refusal(f"its forward sets {', '.join(changed)}, which a graph can't")
    return captured


def first_line(error: Exception | str) -> str:
    """What an error says, without the advice."""
    return str(error).partition("\n")[0].partition(" What to do:")[0].rstrip(". ")
