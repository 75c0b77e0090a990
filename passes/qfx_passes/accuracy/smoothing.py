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
from qfx_passes.accuracy import channel_scales, scalable_activations
from qfx_passes.accuracy.kept_rows import KeptRows, kept_rows
from qfx_passes.accuracy.scalable_activations import ScalableActivation
from qfx_passes.accuracy.watching import samples_of


@dataclass(frozen=True)
class Smoothing:
    """How a pass evens out the channels of values.

    Attributes:
        rule: what its rewrites are called.
        site_of: the value with what reads it, or why it stays as it is; "" if that goes without
            saying. It is given what :func:`~scalable_activations.owners_in` counts.
        most: what the error may be, relative to that without scales, for one to be taken.
        refusal: why none is, where it is more.
        divide: lets a value be divided by scales.
    """

    rule: str
    site_of: Callable[[fx.Node, Counter[str]], ScalableActivation | str]
    most: float
    refusal: str
    divide: Callable[[ScalableActivation, Tensor, Rewriter], None]

    def run(
        self, values: Sequence[fx.Node], ctx: PassContext, ahead: Sequence[fx.Node] = ()
    ) -> None:
        """Scale those of ``values`` where that helps.

        ``ahead`` are values of a later pass, of which rows are kept, too, once the graph runs.
        """
        samples = samples_of(ctx) if values else []
        if not samples:
            return
        owners = scalable_activations.owners_in(ctx.rewriter.graph)
        sites = []
        for value in values:
            found = self.site_of(value, owners)
            if isinstance(found, ScalableActivation):
                sites.append(found)
            elif found:
                self._stays(value, found, ctx)
        later = scalable_activations.sites_of(ahead, owners)
        kept = kept_rows(ctx, samples, sites, [site for site in later if not site.others])
        seen = [site for site in sites if kept.of(site)]  # the rest had no values in the batches
        channel_scales.measure(seen, kept, ctx.rewriter)
        for site in seen:
            self._settle(site, kept, ctx)

    def _settle(self, site: ScalableActivation, kept: KeptRows, ctx: PassContext) -> None:
        best, gain = channel_scales.chosen(site, kept)
        if best == 0 or gain > self.most:
            self._stays(site.value, f"{self.refusal} (x {gain:.2f})", ctx)
            return
        rw, (told, scale) = ctx.rewriter, site.candidates[best]
        with rw.named(f"{told}, error x {gain:.2f}"):
            self.divide(site, scale, rw)
            channel_scales.apply(site, best, rw)

    def _stays(self, value: fx.Node, reason: str, ctx: PassContext) -> None:
        rule = f"{ctx.rewriter.pass_name}/{self.rule}"
        ctx.near_misses.append(NearMiss(rule, value.name, reason))
