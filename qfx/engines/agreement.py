"""Whether what an engine computes is what the reference graph means.

The yardstick is what float arithmetic of other kernels does to the reference itself: results that
end some ulps apart round to other codes now and then, of which deep networks make more. Every
result of a layer is moved by a relative error of up to 2**-18, as far as OpenVINO's norms are off
on some CPUs, and the signal-to-noise ratio of that,

    floor = SQNR(reference, reference with moved results)

is what no engine can be blamed for: such a model is as far from the float one as before (MiniLM:
24.9 dB, at 30 dB between the two). One agrees from 35 dB on, or within 6 dB of the floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qfx.engines.base import CannotRun, EngineProgram
from qfx.engines.pieces import Piece
from qfx.graph.interpret import NamedInterpreter
from qfx.numerics.measures import Error, error_of
from qfx.torch_private import pytree
from qfx.vocab import Kind, OpDef

AGREES, BELOW_FLOOR, LEAST = 35.0, 6.0, 15.0
"""dB: from where on an engine agrees, how far it may lie below the floor, and the least of all."""

AS_NEAR = 0.5
"""dB that a form which rounds more may be further from what unrounded activations yield."""

_NOTHING = 2.0**-40
"""Of the signal of all outputs: an output that has no more than that is made of rounding."""

_MOVED = 2.0**-18
_INTEGERS_OFF = 0.05
"""The fraction of integers, as of an argmax, that may be others."""


@dataclass(frozen=True)
class Agreement:
    """How far results are from the reference.

    Attributes:
        sqnr: signal-to-noise ratio in dB of the worst output of floating point, and no better than
            that over all of them; inf where equal.
        max_error: the largest difference.
        wrong: what is wrong with them, whatever the ratio; "" if nothing.
    """

    sqnr: float
    max_error: float
    wrong: str = ""


def compare(wanted: object, found: object) -> Agreement:
    """Hold results against those of the reference graph."""
    ours, form = pytree.tree_flatten(wanted)
    theirs, other = pytree.tree_flatten(found)
    if form != other:
        return _wrong("its result has another structure")
    error, integers, off = Error(), 0, 0
    apart: list[Error] = []
    for want, have in zip(ours, theirs, strict=True):
        if not isinstance(want, Tensor):
            if type(want) is not type(have) or want != have:
                return _wrong(f"it yields {have!r} instead of {want!r}")
            continue
        if not isinstance(have, Tensor) or (want.shape, want.dtype) != (have.shape, have.dtype):
            return _wrong(f"it yields {_of(have)} instead of {_of(want)}")
        if want.is_floating_point():
            error.add(want, have)
            apart.append(error_of(want, have))
            continue
        integers += want.numel()
        off += int((want != have).sum())
    if math.isnan(error.sqnr) or math.isnan(error.max_error):
        return _wrong("it yields NaN")
    counted = [each.sqnr for each in apart if each.signal > _NOTHING * error.signal]
    sqnr = min([error.sqnr, *counted])
    if off > _INTEGERS_OFF * integers:
        return Agreement(sqnr, error.max_error, f"{off} of {integers} integers are others")
    return Agreement(sqnr, error.max_error)


def _wrong(what: str) -> Agreement:
    return Agreement(math.nan, math.nan, what)


def _of(value: object) -> str:
    return (
        f"{value.dtype}{list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    )


def floor(wanted: object, moved: object) -> float:
    """The ratio in dB that moved results leave of what is wanted."""
    found = compare(wanted, moved)
    return math.inf if found.wrong else found.sqnr


def run_moved(reference: fx.GraphModule, arguments: Mapping[str, Any], seed: int = 0) -> Any:
    """What a reference graph yields for arguments by name, if its layers are off by some ulps."""
    with torch.no_grad():
        return _Moved(reference, arguments, seed).run()


class _Moved(NamedInterpreter):
    """Runs a graph whose layers are off by some ulps."""

    def __init__(self, module: fx.GraphModule, arguments: Mapping[str, Any], seed: int) -> None:
        super().__init__(module, arguments)
        self._random = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        op = n.target
        if not isinstance(op, OpDef) or op.kind not in (Kind.MATMUL, Kind.NORM, Kind.REDUCE):
            return made
        if not isinstance(made, Tensor) or made.dtype != torch.float32:
            return made
        noise = torch.rand(made.shape, generator=self._random).sub_(0.5).mul_(2 * _MOVED)
        return made * noise.add_(1.0)


def reason_against(found: Agreement, least: float) -> str:
    """Why results don't agree; "" if they do."""
    if found.wrong:
        return found.wrong
    if found.sqnr >= least:
        return ""
    return f"disagrees with the reference: {found.sqnr:.1f} dB"


def least_of(floor: float) -> float:
    """The least ratio in dB with which an engine agrees."""
    return max(LEAST, min(AGREES, floor - BELOW_FLOOR))


class HoldsAgainst:
    """Holds programs that are built for other sizes against their pieces.

    Args:
        least: the least ratio in dB with which one agrees, whatever the floor for these sizes.
    """

    def __init__(self, least: float) -> None:
        self._least = least

    def __call__(self, piece: Piece, program: EngineProgram, inputs: Sequence[Tensor]) -> None:
        with torch.no_grad():
            wanted = tuple(piece.graph_module(*inputs))
        found = compare(wanted, tuple(program(inputs)))
        if not reason_against(found, self._least):
            return
        names = (node.name for node in piece.inputs)
        moved = run_moved(piece.graph_module, dict(zip(names, inputs, strict=True)))
        against = reason_against(found, least_of(floor(wanted, tuple(moved))))
        if against:
            raise CannotRun(f"a program for other sizes {against}")
