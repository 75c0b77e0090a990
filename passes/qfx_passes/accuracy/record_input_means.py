"""record-input-means: find the channel means of what quantized weights read, for correct-bias.

    conv(x, W, b)  ->  conv(input_mean(x), W, b)        hands x through, in calibration only

Where all inputs are zero the weights don't matter, however they are rounded: the output is the
bias, exactly, and the shift would be an error. It is a small one, except where the bias is zero:
then a zero vector would become one with a direction of its own, and what only looks at directions
(cosine attention, over tokens that were padded with zeros) would take it at full length. So a layer
that saw such inputs keeps the zeros of its bias.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.channel_mean import ChannelMean, Reach
from qfx.quant.recorders import recorder_of
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound, is_op
from qfx_passes.accuracy.corrected_layers import corrected_spec


class RecordInputMeans(Pass):
    """Record the channel means of the inputs of quantized weights during calibration."""

    name = "record-input-means"

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        recorders: dict[tuple[fx.Node, int, Reach | None], fx.Node] = {}
        for node in list(graph.nodes):
            if corrected_spec(node) is None:
                continue
            observed = bound(node)["input"]
            if recorder_of(observed) is not None:
                continue
            key = (observed, node.target.channel_axis, _watched(node, ctx.rewriter))
            if key not in recorders:
                with ctx.rewriter.at(observed.next):
                    recorder = ChannelMean(*key[1:])
                    value = meta.value_of(observed)
                    made = ctx.rewriter.call_module("input_mean", recorder, observed, value=value)
                recorders[key] = made
            ctx.rewriter.rewire(node, observed, recorders[key])


def _watched(node: fx.Node, rw: Rewriter) -> Reach | None:
    """How ``node`` reads its input, if zeros in there would matter: if its bias has zeros."""
    arguments = bound(node)
    bias = arguments["bias"]
    if isinstance(bias, fx.Node) and bool((rw.tensor(bias) != 0).all()):
        return None
    if is_op(node, vocab.LINEAR):
        return Reach()
    kernel = rw.tensor(arguments["weight"]).shape[2:]
    geometry = (tuple(arguments[name]) for name in ("stride", "padding", "dilation"))
    return Reach(tuple(kernel), *geometry)
