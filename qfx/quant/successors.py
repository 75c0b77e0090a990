"""What stands for kernels that passes after lowering replace: it is reported and checked as those.

A pass need not know how kernels are marked. The heir of kernel calls that are gone is the last new
call that derives from all that they derive from, and hands out the same kind of values. It has
their multiply-accumulates together, and the name of the one that did most. An operation of the
vocabulary that stands where a kernel did computes in float, and is no heir.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from qfx.framework.instruments import Instrument
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.history.stage import Stage
from qfx.private_attributes import is_erased
from qfx.quant.annotation import Kernel, kernel_of, mark_kernel
from qfx.quant.meaning import hand_on_meaning, meaning_of
from qfx.vocab import OpDef


class HeirsOfKernels(Instrument):
    """Marks what takes the place of kernel calls, after each pass over a lowered graph."""

    def __init__(self) -> None:
        self._before: dict[fx.Node, Kernel | None] = {}

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        is_lowered = ctx.level is Level.LOWERED
        self._before = {n: kernel_of(n) for n in ctx.graph_module.graph.nodes} if is_lowered else {}

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        before, self._before = self._before, {}
        gone = [n for n, kernel in before.items() if kernel is not None and is_erased(n)]
        if not gone:
            return
        marked, new = set[str](), list[fx.Node]()
        for node in ctx.graph_module.graph.nodes:
            if kernel_of(node) is not None:
                marked |= _origins(node)
            elif node not in before and node.op.startswith("call_"):
                new.append(node)
        _mark([n for n in gone if not _origins(n) <= marked], new)


def _mark(gone: Iterable[fx.Node], new: list[fx.Node]) -> None:
    heirs: dict[fx.Node, list[fx.Node]] = {}
    for node in gone:
        heir = next((each for each in reversed(new) if _may_follow(node, each)), None)
        if heir is not None:
            heirs.setdefault(heir, []).append(node)
    for heir, nodes in heirs.items():
        kernels = [kernel for kernel in map(kernel_of, nodes) if kernel is not None]
        most = max(kernels, key=lambda kernel: kernel.macs)
        total = sum(kernel.macs for kernel in kernels)
        mark_kernel(heir, Kernel(most.name, total, most.decision))
        if meaning_of(heir) is None:
            hand_on_meaning(nodes[-1], heir)


def _may_follow(gone: fx.Node, heir: fx.Node) -> bool:
    """Whether ``heir`` may compute what ``gone`` did."""
    if isinstance(heir.target, OpDef) and heir.target is not gone.target:
        return False
    return _origins(gone) <= _origins(heir) and meta.is_float_value(gone) == meta.is_float_value(
        heir
    )


def _origins(node: fx.Node) -> set[str]:
    return {origin.node for origin in meta.origins(node)}
