"""start-from: let training begin where calibration of the same model ended.

Values are known by the operations of the capture that they derive from, which two captures of one
model have in common. From the reference graph of the quantized model are taken

* the qparams of activations, by the fake-quants of the same values;
* biases that calibration corrected (:mod:`qfx_passes.bias`): a bias is set; of a folded one, beta
  of the batch-norm moves by the difference, and what float32 can't hold of that is added in the
  fold, so that conversion without a step of training gives the same quantized model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import TypeAlias

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.pass_base import Pass, PassContext
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.qparams import QParams
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.trained import Start
from qfx.vocab import bound, is_op
from qfx_passes.observers import observer_of
from qfx_passes.operands import is_constant, value_of

_BIASED = (
    *(vocab.CONV1D, vocab.CONV2D, vocab.CONV3D, vocab.LINEAR),
    *(vocab.CONV_TRANSPOSE1D, vocab.CONV_TRANSPOSE2D, vocab.CONV_TRANSPOSE3D),
)

Made: TypeAlias = "frozenset[str]"
"""The captured operations that a value derives from."""


class StartFrom(Pass):
    """Take over qparams and corrected biases, if there is a model to start from."""

    name = "start-from"

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if not ctx.has(Start):
            return
        reference = ctx.get(Start).reference
        _take_qparams(graph, dict(_quantized(reference)))
        biases = dict(_biases(reference))
        for node in list(graph.nodes):
            if not is_op(node, *_BIASED) or not is_constant(bound(node)["bias"]):
                continue
            if _made_by(node) in biases:
                with ctx.rewriter.at(node):
                    _take_bias(node, biases[_made_by(node)], ctx.rewriter)


def _made_by(node: fx.Node) -> Made:
    return frozenset(o.node for o in meta.origins(node) if o.type_name != "parameter")


# -- qparams ---------------------------------------------------------------------------------------
def _quantized(reference: fx.GraphModule) -> Iterator[tuple[Made, QParams]]:
    """The values that are quantized with qparams known beforehand."""
    for node in reference.graph.nodes:
        if not is_op(node, vocab.QUANTIZE):
            continue
        a = bound(node)
        if not isinstance(a["scale"], float):
            continue
        ends = torch.iinfo(a["dtype"])
        low = ends.min if a["quant_min"] is None else a["quant_min"]
        high = ends.max if a["quant_max"] is None else a["quant_max"]
        yield _made_by(a["input"]), QParams(a["scale"], a["zero_point"], a["dtype"], low, high)


def _take_qparams(graph: fx.Graph, known: dict[Made, QParams]) -> None:
    wanted, taken = 0, 0
    for node in graph.nodes:
        fake_quant = observer_of(node)
        if not isinstance(fake_quant, FakeQuantize):
            continue
        wanted += 1
        qparams = known.get(_made_by(node))
        if qparams is None or not _fits(qparams, fake_quant):
            continue
        fake_quant.start_from(qparams)
        taken += 1
    if wanted and not taken:
        raise ConfigError(
            "qparams_from has no quantized value in common with this model: give what qfx.quantize "
            "or qfx.convert made of the same model, with activations of the same dtype and bounds"
        )


def _fits(qparams: QParams, fake_quant: FakeQuantize) -> bool:
    codes = qparams.dtype, (qparams.quant_min, qparams.quant_max)
    return codes == (fake_quant.spec.dtype, fake_quant.spec.bounds)


# -- biases ----------------------------------------------------------------------------------------
def _biases(reference: fx.GraphModule) -> Iterator[tuple[Made, Tensor]]:
    for node in reference.graph.nodes:
        bias = bound(node)["bias"] if is_op(node, *_BIASED) else None
        if isinstance(bias, fx.Node) and bias.op == "get_attr":
            yield _made_by(node), attrgetter(str(bias.target))(reference).detach()


def _take_bias(node: fx.Node, wanted: Tensor, rw: Rewriter) -> None:
    bias = bound(node)["bias"]
    if bias is None:
        hint = f"{meta.module_path(node) or node.name}.bias_shift"
        node.args = (*node.args, rw.constant(hint, wanted.clone(), origins=(node,)))
    elif is_op(bias, vocab.FOLD_BIAS):
        _shift_fold(bias, wanted, rw)
    else:
        with torch.no_grad():
            value_of(bias, rw).copy_(wanted)


@torch.no_grad()
def _shift_fold(fold: fx.Node, wanted: Tensor, rw: Rewriter) -> None:
    """Let a folded bias be ``wanted``."""
    arguments = bound(fold)
    tensors = {n: rw.tensor(v) for n, v in arguments.items() if isinstance(v, fx.Node)}

    def missing() -> Tensor:
        exact = {name: tensor.double() for name, tensor in tensors.items()}
        folded: Tensor = vocab.FOLD_BIAS(**exact, eps=arguments["eps"])
        return wanted.double() - folded

    if not (wanted != vocab.FOLD_BIAS(**tensors, eps=arguments["eps"])).any():
        return
    if "beta" in tensors:
        tensors["beta"].add_(missing().to(tensors["beta"].dtype))
    hint = str(arguments["mean"].target).removesuffix("running_mean") + "bias_shift"
    with rw.at(fold):
        shift = rw.constant(hint, missing(), origins=(fold,))
    names = ("mean", "var", "gamma", "beta", "bias")
    fold.args = (*(arguments[name] for name in names), shift)
