"""inference-form: put the graph back that a training graph means.

It is the one that :mod:`qfx_passes.training.training_form` started from, over what the parameters
have become, together with the qparams that training used for the weights. So that conversion never
has to find out what a training graph meant.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from qfx import vocab
from qfx.errors import CalibrationError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.private_attributes import is_erased
from qfx.quant.annotation import annotate, annotation
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.trained import Trained
from qfx.vocab import is_op
from qfx_passes.operands import parameter_value
from qfx_passes.training.derived_weights import parameter_of


class _Restored:
    """Put in a context once the graph is back."""


class InferenceForm(Pass):
    """Put the graph back that a training graph means."""

    name = "inference-form"
    requires = Level.FAKE_QUANT

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if not ctx.has(Trained) or ctx.has(_Restored):
            return
        ctx.put(_Restored())
        trained = ctx.get(Trained)
        ctx.rewriter.rebuild(trained.graph)
        for node in list(graph.nodes):
            if node.name in trained.weights:
                _settle_weights(node, trained.weights[node.name], ctx.rewriter)
            _forget_inside(node, ctx.rewriter)
            if is_op(node, vocab.DROPOUT, vocab.DETACH):
                _forget(node, ctx.rewriter)


def _settle_weights(node: fx.Node, names: tuple[tuple[str, str], ...], rw: Rewriter) -> None:
    """Note the qparams that training used, where they don't follow from the weight."""
    note = annotation(node)
    assert note is not None
    found: list[QParams | None] = []
    weights = {operand.name: operand for operand in node.all_input_nodes}
    for weight, name in names:
        module = rw.graph_module.get_submodule(name)
        assert isinstance(module, FakeQuantize)
        try:
            if module.follows_weight:
                found.append(None)
            else:
                found.append(module.qparams_of(parameter_value(weights[weight], rw)))
        except CalibrationError as error:
            parameter = parameter_of(weights[weight]).target
            raise CalibrationError(f"{parameter}: {error}") from error
    if any(qparams is not None for qparams in found):
        annotate(node, replace(note, weight_qparams=tuple(found)))


def _forget_inside(node: fx.Node, rw: Rewriter) -> None:
    """Remove dropouts from post-ops, and from attention."""
    if is_op(node, vocab.ATTENTION) and "dropout" in node.kwargs:
        rw.update(node, kwargs={k: v for k, v in node.kwargs.items() if k != "dropout"})
    post = node.kwargs.get("post", ())
    left = tuple(op for op in post if op[0] != "dropout")  # type: ignore[union-attr, index]
    if left != post:
        rw.update(node, kwargs={**node.kwargs, "post": left})


def _forget(node: fx.Node, rw: Rewriter) -> None:
    """Remove a dropout or a detach, and the second observer of what it hands through."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    for reader in list(node.users):
        if observer_of(reader) is None:
            continue
        if observer_of(source) is not None and source.target == reader.target:
            rw.replace(reader, source)
        elif observer_of(source) is not None:
            rw.rewire(reader, node, source.args[0])  # type: ignore[arg-type]
    if is_erased(node):
        return
    for reader in node.users:
        note = annotation(reader)
        if note is not None and node.name in note.reads:
            reads = {source.name if k == node.name else k: e for k, e in note.reads.items()}
            annotate(reader, replace(note, reads=reads))
    if node.users:
        rw.replace(node, source)
    else:
        rw.erase(node)
