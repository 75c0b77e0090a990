"""training-form: from the graph that is meant, the one that is trained.

Until here a graph that is to be trained is the one that would be calibrated: what it computes in
inference, with fake-quants where observers would be and folds of batch-norms written out.
``training-form`` derives from it what is trained:

    conv(x, fold_weight(@w, @var, @g), fold_bias(...), post=(relu,))

    f = norm_factor(@var, @g)                        y = conv(x, fake_quant(scale_channels(@w, f)))
    relu(batch_norm(unscale_channels(y, f, @b)))     with the user's own batch-norm module

Weights without a batch-norm pass a fake-quant, batch-norms of their own and dropouts become modules
again. :mod:`qfx_passes.training.inference_form` puts the first graph back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from qfx import vocab
from qfx.configuration.configuration import Configuration
from qfx.errors import CalibrationError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.clone import copy_graph
from qfx.graph.modes import ModeFlag
from qfx.private_attributes import is_erased
from qfx.quant.annotation import annotation
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.fake_quant_kinds import make_weight_fake_quant
from qfx.quant.qparams import QParams
from qfx.quant.recorders import observer_of
from qfx.quant.spec import QuantSpec
from qfx.rewrite.rewriter import Rewriter
from qfx.runtime.trained import Start, Trained
from qfx.torch_private import pytree
from qfx.training.dropout import AttentionDropout, Dropout
from qfx.training.norm_factor import NormFactor
from qfx.vocab import OpDef, bound, is_op
from qfx_passes.canonical.norms import Norms
from qfx_passes.fusion.fusible import PostOp
from qfx_passes.operands import is_constant, parameter_value, weight_operands
from qfx_passes.training.derived_weights import expression_of, parameter_of


class TrainingForm(Pass):
    """Turn an observed graph into one that trains."""

    name = "training-form"
    requires = Level.OBSERVED
    produces = Level.FAKE_QUANT

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        if ctx.has(Trained):
            return  # it is one already
        meaning = copy_graph(graph)
        norms = ctx.get(Norms) if ctx.has(Norms) else Norms({})
        start = ctx.get(Start).weights if ctx.has(Start) else {}
        form = _Form(ctx.rewriter, norms, start)
        for node in list(graph.nodes):
            form.visit(node)
        form.kept_still += [n for n in graph.nodes if n.op != "output" and _holds_flag(n)]
        if form.kept_still and ctx.has(Configuration):
            places = ", ".join(map(meta.where, form.kept_still))
            ctx.get(Configuration).warn(
                f"does in training what it does in inference: {places}. Written as a module of "
                "PyTorch's (nn.BatchNorm2d, nn.RReLU), it would follow the mode"
            )
        ctx.put(Trained(meaning, form.weights))


def _holds_flag(node: fx.Node) -> bool:
    """Whether a training flag is handed to a function that stayed as it was written."""
    leaves = pytree.tree_leaves((node.args, dict(node.kwargs)))
    return any(isinstance(leaf, ModeFlag) for leaf in leaves)


class _Form:
    def __init__(self, rw: Rewriter, norms: Norms, start: Mapping[str, QParams]) -> None:
        self.rw = rw
        self.norms = norms
        self.start = start  # by layer, what calibration found for its weight
        self.weights: dict[str, tuple[tuple[str, str], ...]] = {}
        self.fake_quants: dict[tuple[object, ...], str] = {}
        self.passed: dict[
            fx.Node, object
        ] = {}  # moved values, and the fake-quants that they passed
        self.kept_still: list[fx.Node] = []  # what does in training what it does in inference

    def visit(self, node: fx.Node) -> None:
        if is_erased(node):
            return
        with self.rw.at(node):
            if is_op(node, vocab.DROPOUT):
                self._drop(node)
            elif is_op(node, vocab.ATTENTION) and "dropout" in node.kwargs:
                self._attend(node)
            elif is_op(node, vocab.BATCH_NORM):
                self._normalize(node)
            elif observer_of(node) is not None:
                self._skip_if_rounded(node)
            elif isinstance(node.target, OpDef) and _has_weights(node):
                self._layer(node)
            else:
                self._rounded_by(node)  # in graph order, so that nobody has far to look back

    def _skip_if_rounded(self, node: fx.Node) -> None:
        """Drop a fake-quant of values that passed it before, and were only moved since."""
        value = node.args[0]
        assert isinstance(value, fx.Node)
        if self._rounded_by(value) == node.target:
            self.rw.replace(node, value)

    def _rounded_by(self, value: fx.Node) -> object:
        """The fake-quant that ``value`` passed, if it was only moved since; None if none."""
        if observer_of(value) is not None:
            return value.target
        moves = isinstance(value.target, OpDef) and value.target.moves
        if not moves or "spread" in value.kwargs:
            return None
        if value not in self.passed:
            sources = (n for n in value.all_input_nodes if meta.is_float_value(n))
            found = {self._rounded_by(source) for source in sources}
            self.passed[value] = found.pop() if len(found) == 1 else None
        return self.passed[value]

    def _drop(self, node: fx.Node) -> None:
        """Call a dropout; what it scales up is no range to remember, so fake-quants go before."""
        arguments = bound(node)
        source = arguments["input"]
        by, readers = (
            self._rounded_by(source),
            [u for u in node.users if observer_of(u) is not None],
        )
        targets = {reader.target for reader in readers}
        if by is None and len(targets) == 1 and len(readers) == len(node.users):
            (by,) = targets
            source = self._call_module(str(by), source, node)
        made = self._call_dropout(source, arguments["p"], arguments["kind"], node)
        self.rw.replace(node, made)
        for reader in readers:
            if reader.target == by:
                self.rw.replace(reader, made)

    def _call_dropout(self, source: fx.Node, p: float, kind: str, like: fx.Node) -> fx.Node:
        hint = meta.module_path(like) or "dropout"
        value = meta.value_of(source)
        module = Dropout(p, kind).train(self.rw.graph_module.training)
        return self.rw.call_module(hint, module, source, origins=(like,), value=value)

    def _attend(self, node: fx.Node) -> None:
        flags = dict(node.kwargs)
        module = AttentionDropout(flags.pop("dropout"), flags)  # type: ignore[arg-type]
        module.train(self.rw.graph_module.training)
        hint = f"{meta.module_path(node)}.mixed".lstrip(".")
        value = meta.value_of(node)
        made = self.rw.call_module(hint, module, *node.args, origins=(node,), value=value)
        self.rw.replace(node, made)

    def _normalize(self, node: fx.Node) -> None:
        arguments = bound(node)
        path = str(arguments["running_var"].target).rpartition(".")[0]
        if not self.norms.restore(self.rw.graph_module, path):
            self.kept_still.append(node)
            return
        made = self._call_module(path, arguments["input"], node)
        self.rw.replace(node, self._after(made, arguments["post"], node))

    def _call_module(self, path: str, input: fx.Node, like: fx.Node) -> fx.Node:
        """Call a module that is there already."""
        return self.rw.call_submodule(path, input, origins=(like,), value=meta.value_of(like))

    def _layer(self, node: fx.Node) -> None:
        note = annotation(node)
        spec = None if note is None or not note.decision.quantized else note.weight
        if spec is not None and spec.dtype == torch.float16:
            spec = None
        weight = weight_operands(node)[0]
        if isinstance(weight, fx.Node) and is_op(weight, vocab.FOLD_WEIGHT):
            self._folded(node, weight, spec)
            return
        if spec is not None:
            self._plain(node, spec)
        post = bound(node).get("post", ())
        if any(name == "dropout" for name, *_ in post):
            self.rw.replace(node, self._after(self._without_post(node, *node.args), post, node))

    def _plain(self, node: fx.Node, spec: QuantSpec) -> None:
        """Let every weight of ``node`` pass a fake-quant."""
        names = []
        for weight in dict.fromkeys(weight_operands(node)):
            if not isinstance(weight, fx.Node) or not is_constant(weight):
                continue
            rounded = self._rounded(node, weight, spec, weight)
            names.append((weight.name, str(rounded.target)))
            self.rw.rewire(node, weight, rounded)
        self.weights[node.name] = tuple(names)

    def _folded(self, node: fx.Node, weight: fx.Node, spec: QuantSpec | None) -> None:
        """Take a layer and the batch-norm that is folded into it apart."""
        arguments, fold = bound(node), bound(weight)
        of_bias = bound(arguments["bias"])
        path = str(fold["var"].target).rpartition(".")[0]
        restored = self.norms.restore(self.rw.graph_module, path)
        assert restored, path
        bias = of_bias["bias"]
        kept = self._fresh(fold["weight"]), None if bias is None else self._fresh(bias)
        if spec is None:
            y = self._without_post(node, arguments["input"], *(p for p in kept if p is not None))
        else:
            gamma = fold["gamma"]
            parameters = [fold["var"]] if gamma is None else [fold["var"], gamma]
            factor = self.rw.call_module(
                f"{path}_factor", NormFactor(fold["eps"]), *map(self._fresh, parameters),
                origins=(node,), value=meta.value_of(fold["var"]),
            )  # fmt: skip
            scaled = self.rw.call(
                vocab.SCALE_CHANNELS, kept[0], factor, groups=fold["groups"],
                transposed=fold["transposed"], origins=(node,), value=meta.value_of(weight),
            )  # fmt: skip
            rounded = self._rounded(node, scaled, spec, weight)
            self.weights[node.name] = ((weight.name, str(rounded.target)),)
            y = self._without_post(node, arguments["input"], rounded)
            unscaled = [y, factor] if kept[1] is None else [y, factor, kept[1]]
            y = self.rw.call(
                vocab.UNSCALE_CHANNELS, *unscaled, origins=(node,), value=meta.value_of(node)
            )
        made = self._call_module(path, y, node)
        self.rw.replace(node, self._after(made, arguments["post"], node))

    def _fresh(self, node: fx.Node) -> fx.Node:
        return self.rw.attribute(str(node.target), origins=(node,))

    def _without_post(self, node: fx.Node, *operands: object) -> fx.Node:
        """The layer of ``node`` alone, on operands of its own."""
        attributes = {k: v for k, v in node.kwargs.items() if k != "post"}
        assert isinstance(node.target, OpDef)
        value = meta.value_of(node)
        return self.rw.call(node.target, *operands, origins=(node,), value=value, **attributes)

    def _rounded(
        self, layer: fx.Node, weight: fx.Node, spec: QuantSpec, meaning: fx.Node
    ) -> fx.Node:
        """``weight`` through its fake-quant: one for all that read it under one spec.

        Args:
            layer: what reads it.
            weight: what is rounded in training.
            spec: how.
            meaning: what that is in inference, a parameter or derived from some.
        """
        key = (expression_of(meaning), spec)
        if key in self.fake_quants:
            return self._call_module(self.fake_quants[key], weight, weight)
        fake_quant = self._made(spec, meaning)
        if layer.name in self.start:
            fake_quant.start_from(self.start[layer.name])
        hint = f"{parameter_of(meaning).target}_fake_quant"
        value = meta.value_of(weight)
        made = self.rw.call_module(hint, fake_quant, weight, origins=(weight,), value=value)
        self.fake_quants[key] = str(made.target)
        return made

    def _made(self, spec: QuantSpec, meaning: fx.Node) -> FakeQuantize:
        try:
            return make_weight_fake_quant(spec, parameter_value(meaning, self.rw))
        except CalibrationError as error:
            raise CalibrationError(f"{parameter_of(meaning).target}: {error}") from error

    def _after(self, value: fx.Node, post: tuple[PostOp, ...], like: fx.Node) -> fx.Node:
        """``value`` through the operations that were fused into ``like``."""
        for name, *operands in post:
            if name == "dropout":
                p, kind = operands
                value = self._call_dropout(value, p, kind, like)  # type: ignore[arg-type]
                continue
            op, tensors, attributes = vocab.call_of_post_op((name, *operands))
            value = self.rw.call(
                op, value, *tensors, origins=(like,), value=meta.value_of(like), **attributes
            )
        return value


def _has_weights(node: fx.Node) -> bool:
    return not {"weight", "weights"}.isdisjoint(bound(node))
