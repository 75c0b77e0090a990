"""correct-bias: take the mean error of quantized weights out of the bias.

Rounding a weight shifts the mean of the output by ``(Q(W) - W) E[x]``, which in a network with
one-sided activations is a large part of the error. With the channel means of the input seen during
calibration it is known, and the bias absorbs it:

    b' = b - sum_k (Q(W) - W)[o, i, k] E[x_i]

after Nagel et al. 2019 (arXiv:1906.04721, section 4.2), with empirical means. Padding is neglected:
border pixels see fewer taps than the sum over the kernel assumes. A layer that is called several
times keeps one bias: the means of its calls are averaged.

A layer that saw inputs of zeros only keeps the zeros of its bias, for which
:mod:`qfx_passes.accuracy.record_input_means` gives the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, fx

from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.history.events import NearMiss
from qfx.quant.recorders import recorder_of
from qfx.quant.spec import QuantSpec
from qfx.vocab import bound
from qfx_passes.accuracy.corrected_layers import corrected_spec, originals
from qfx_passes.weights import QuantizedWeights, quantized_weights


class CorrectBias(Pass):
    """Fold the mean error of quantized weights into biases; removes the recorders."""

    name = "correct-bias"
    keeps_values = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        means: dict[_Layer, dict[fx.Node, _Seen]] = defaultdict(dict)
        for node in list(graph.nodes):
            recorder = recorder_of(node)
            if recorder is None:
                continue
            for user in list(node.users):
                spec = corrected_spec(user)
                if spec is not None and recorder.seen:
                    seen = _Seen(recorder.mean(), bool(recorder.silent > 0))
                    means[_layer(user, spec)][user] = seen
            ctx.rewriter.replace(node, node.args[0])
        weights = quantized_weights(ctx)
        for layer, of_node in means.items():
            _correct(layer, of_node, weights, ctx)


class _Seen(NamedTuple):
    """What calibration found in the inputs of one call."""

    mean: Tensor
    silent: bool  # whether some output read zeros only


_Layer: TypeAlias = "tuple[str, str | None, int, QuantSpec]"
"""Names of weight and bias, groups, and the spec of the weight."""


def _layer(node: fx.Node, spec: QuantSpec) -> _Layer:
    arguments = bound(node)
    bias = arguments["bias"]
    name = str(bias.target) if isinstance(bias, fx.Node) else None
    return str(arguments["weight"].target), name, arguments.get("groups", 1), spec


def _correct(
    layer: _Layer, calls: Mapping[fx.Node, _Seen], weights: QuantizedWeights, ctx: PassContext
) -> None:
    """Give all calls of one layer the same new bias, so that they still share one."""
    rw, before = ctx.rewriter, originals(ctx)
    first = next(iter(calls))
    arguments = bound(first)
    weight = rw.tensor(arguments["weight"])
    weight_name, bias_name, groups, spec = layer
    integers, qparams = weights.get(weight_name, weight, spec)
    wide = torch.promote_types(weight.dtype, torch.float32)
    error = qparams.dequantize(integers, wide).sub_(weight.detach())
    mean = torch.stack([seen.mean for seen in calls.values()]).double().mean(0)
    shift = mean_output_shift(error, mean.to(error.dtype), groups).double()
    old = arguments["bias"]
    bias = rw.tensor(old) if isinstance(old, fx.Node) else torch.zeros_like(shift)
    if any(seen.silent for seen in calls.values()):
        before.silent.update(calls)
        shift = torch.where(bias == 0, 0.0, shift)
    if not shift.isfinite().all():
        reason = "calibration saw NaN or infinite values in what it reads"
        ctx.near_misses.append(NearMiss(f"{rw.pass_name}/layer", first.name, reason))
        return
    if not shift.any():
        return
    hint = bias_name or weight_name.rpartition("weight")[0] + "bias"
    with rw.at(first):
        made = rw.constant(hint, (bias.double() - shift).to(weight.dtype), origins=(first,))
    held = rw.tensor(old).detach() if isinstance(old, fx.Node) else None
    for node in calls:
        before.biases.setdefault(node, held)
        replaced = node.args[2] if len(node.args) > 2 else None
        with rw.at(node):
            read = made if node is first else rw.attribute(str(made.target), origins=(node,))
        rw.update(node, args=(*node.args[:2], read))
        if isinstance(replaced, fx.Node) and not replaced.users:
            rw.erase(replaced)


def mean_output_shift(error: Tensor, mean: Tensor, groups: int) -> Tensor:
    """Mean of the output shift that a weight error causes.

    Args:
        error: (out, in / groups, *kernel) error of the weight.
        mean: (in,) channel means of the input.
        groups: as of the convolution.

    Returns:
        (out,) expected shift.
    """
    taps = error.flatten(2).sum(2) if error.dim() > 2 else error
    per_group = taps.reshape(groups, -1, taps.shape[1])
    return torch.einsum("goi,gi->go", per_group, mean.reshape(groups, -1)).flatten()
