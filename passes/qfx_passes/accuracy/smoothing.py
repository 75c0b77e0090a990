"""What smoothing does wherever the scales come from: measures, takes the best, says why not.

The scales themselves: :mod:`qfx_passes.accuracy.channel_scales`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from qfx.framework.pass_context import PassContext
from qfx.history.events import NearMiss
from qfx.rewrite.rewriter import Rewriter
from qfx_passes.accuracy import channel_scales
from qfx_passes.accuracy.channel_scales import ALPHAS
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.watching import samples_of


@dataclass(frozen=True)
class Smoothing:
    """How a pass evens out the channels of values.

    Attributes:
        rule: what its rewrites are called.
        site_of: the value with what reads it, or why it stays as it is; "" if that goes without
            saying. It is given how many nodes read each parameter.
        most: what the error may be, relative to that without scales, for one to be taken.
        refusal: why none is, where it is more.
        divide: lets a value be divided by scales.
    """

    rule: str
    site_of: Callable[[fx.Node, Counter[str]], ScalableActivation | str]
    most: float
    refusal: str
    divide: Callable[[ScalableActivation, Tensor, Rewriter], None]

    def run(self, values: Sequence[fx.Node], ctx: PassContext) -> None:
        """Scale those of ``values`` where that helps."""
        samples, rw = samples_of(ctx) if values else [], ctx.rewriter
        if not samples:
            return
        owners = Counter(str(n.target) for n in rw.graph.nodes if n.op == "get_attr")
        sites = []
        for value in values:
            found = self.site_of(value, owners)
            if isinstance(found, ScalableActivation):
                found.candidates = channel_scales.candidates(found, rw)
                sites.append(found)
            elif found:
                self._stays(value, found, ctx)
        channel_scales.measure(ctx.graph_module, samples, sites, rw)
        for site in sites:
            self._settle(site, ctx)

    def _settle(self, site: ScalableActivation, ctx: PassContext) -> None:
        best, gain = channel_scales.chosen(site)
        if best == 0 or gain > self.most:
            self._stays(site.value, f"{self.refusal} (x {gain:.2f})", ctx)
            return
        rw = ctx.rewriter
        with rw.named(f"alpha={ALPHAS[best - 1]:g}, error x {gain:.2f}"):
            self.divide(site, site.candidates[best], rw)
            channel_scales.apply(site, best, rw)

    def _stays(self, value: fx.Node, reason: str, ctx: PassContext) -> None:
        rule = f"{ctx.rewriter.pass_name}/{self.rule}"
        ctx.near_misses.append(NearMiss(rule, value.name, reason))
