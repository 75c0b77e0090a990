"""fuse-pads: let a max pool do the padding in front of it.

    max_pool(pad(x, spread, fill))  ->  max_pool(x, spread=spread, fill=fill)

"Same" padding of a max pool fills with minus infinity, or with the least number of a dtype. No
scale can represent that, and none needs to. Quantizing, ``q(v) = clamp(round(v / scale) + zero)``,
is monotonic and saturates, so it commutes with the maximum whatever the fill is:

    q(max(x_1, ..., x_n, fill)) = max(q(x_1), ..., q(x_n), q(fill))

Where the fill is below all that can be represented, ``q(fill)`` is the lowest code, which wins no
maximum that a value takes part in. So the padding is no value of the graph that an observer sees,
and the pool pads in integers, exactly. Zeros stay a padding of their own: they have a code.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import PatternPass
from qfx.rewrite import Any, Match, Mismatch, Op, Rewriter, rewrite
from qfx_passes.placement.fills import number_of


@rewrite(Op(vocab.MAX_POOLS, Op(vocab.PAD, Any("x"), bind="pad"), bind="pool"))
def fuse_pad(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    pad, pool = vocab.bound(match["pad"]), match["pool"]
    refusal = _refusal(pad, pool)
    if refusal is not None:
        return refusal
    fill = number_of(pad["value"])
    return rw.with_args(pool, match["x"], spread=pad["pad"], fill=fill)


def _refusal(pad: Mapping[str, object], pool: fx.Node) -> Mismatch | None:
    fill, spread = number_of(pad["value"] or 0), pad["pad"]
    if pad["mode"] != "constant":
        return Mismatch("mode is {0}", pad["mode"])
    if fill is None:
        return Mismatch("what it fills with is computed")
    if fill == 0:
        return Mismatch("it pads with zeros, which have a code")
    if isinstance(spread, (tuple, list)) and any(isinstance(n, int) and n < 0 for n in spread):
        return Mismatch("it crops")
    if pool.kwargs.get("return_indices") or "spread" in pool.kwargs:
        return Mismatch("the pool yields indices, or pads already")
    return None


class FusePads(PatternPass):
    """Fuse padding into max pools."""

    name = "fuse-pads"
    requires = Level.CANONICAL
    patterns = (fuse_pad,)
