"""Fuse elementwise operations into the operation whose result they read, as post-ops.

    act(op(x))          ->  op(x, post=(("act", ...),))
    op(x) + residual    ->  op(x, post=(("add", residual),))

A fusion is data: the operation keeps its name and carries an ordered list of post-ops, so one rule
serves every pair. Which chains an operation may carry is read from the backend's table
(:meth:`~qfx.backends.base.Backend.post_ops`). Chains grow one post-op at a time, so the table must
list the prefixes of what it lists.

An activation is computed where its operand is. A residual may be computed later, so the operation
that adds it moves down to the addition, unless something in between could overwrite what it reads.

Fused is only what computes the same for every input the model accepts: a residual has exactly the
shape and dtype of the result it is added to (no broadcasting), and both depend on the inputs. A
position embedding has that shape too, but only in the batch of one that the model was captured
with.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import fx

from qfx import vocab
from qfx.backends.base import Backend
from qfx.configuration.configuration import Configuration
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, PassContext
from qfx.graph import meta
from qfx.rewrite import Any, Match, Mismatch, Op, Rewriter, RewriteRule, drive, rewrite
from qfx.rewrite.matcher import count_reads
from qfx.semantics.post import POST_OPS
from qfx.vocab import Kind, OpDef
from qfx_passes.operands import kernel_names
from qfx_passes.placement.insert_stubs import quantized_region

ACTIVATIONS = tuple(op for op in vocab.ops() if op.kind is Kind.ACTIVATION and op.name in POST_OPS)
CARRIERS = tuple(op for op in vocab.ops() if op.takes_post)
LAYERS = tuple(op for op in CARRIERS if op.kind is Kind.MATMUL)

PostOp: TypeAlias = "tuple[object, ...]"
"""A name of POST_OPS and its operands."""


class FusePostOps(Pass):
    """Fuse activations and residual additions into what the backend computes in one kernel."""

    name = "fuse-post-ops"
    requires = Level.CANONICAL
    produces = Level.FUSED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        backend = ctx.get(Backend)
        drive((clamp_at_zero,), ctx.rewriter)
        configuration = ctx.get(Configuration) if ctx.has(Configuration) else None
        fusion = _Fusion(graph, backend, configuration)
        rules = (fusion.of_activations(), fusion.of_residuals(), fusion.of_dropped_residuals())
        ctx.near_misses.extend(drive(rules, ctx.rewriter))


@rewrite(Op(vocab.CLAMP, Any("x"), min=0, max=None))
def clamp_at_zero(match: Match, rw: Rewriter) -> fx.Node:
    return rw.call(vocab.RELU, match["x"])


class _Fusion:
    """The rules, with what they need to know of the whole graph."""

    def __init__(
        self, graph: fx.Graph, backend: Backend, configuration: Configuration | None
    ) -> None:
        self.backend = backend
        self.configuration = configuration
        self.outside = _outside(graph)
        self.constant = _constant(graph)

    def of_activations(self) -> RewriteRule:
        @rewrite(Op(ACTIVATIONS, Op(CARRIERS, bind="layer", users=1)), name="fuse-activation")
        def rule(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
            layer, activation = match["layer"], match.root
            _, *attributes = vocab.bound(activation).items()
            for name, value in attributes:
                if not isinstance(value, (int, float, str)):
                    return Mismatch("{0}={1} is not a number", name, value)
            values = (value for _, value in attributes)
            with rw.at(layer):
                return self._fuse(rw, layer, activation, (_op(activation).name, *values))

        return rule

    def of_residuals(self) -> RewriteRule:
        layer = Op(LAYERS, bind="layer", users=1, where=self._takes_residual)

        @rewrite(Op(vocab.ADD, layer, Any("residual")), name="fuse-residual")
        def rule(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
            total, layer, residual = match.root, match["layer"], match["residual"]
            unfit = self._unfit(total, layer, residual)
            if unfit is not None:
                return unfit
            ways = [(layer, residual)]
            if self._could_take(residual):  # the longer branch, computed last, goes first
                ways.insert(0 if layer < residual else 1, (residual, layer))
            results = (self._add(rw, total, *way) for way in ways)
            first = next(results)
            return first if isinstance(first, fx.Node) else next(results, first)

        return rule

    def of_dropped_residuals(self) -> RewriteRule:
        """Residuals that are added behind a dropout, in graphs that are to be trained."""
        layer = Op(LAYERS, bind="layer", users=1, where=self._takes_residual)
        dropped = Op(vocab.DROPOUT, layer, bind="dropout", users=1)

        @rewrite(Op(vocab.ADD, dropped, Any("residual")), name="fuse-dropped-residual")
        def rule(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
            total, layer, residual = match.root, match["layer"], match["residual"]
            unfit = self._unfit(total, layer, residual)
            if unfit is not None:
                return unfit
            drop = vocab.bound(match["dropout"])
            return self._add(rw, total, layer, residual, ("dropout", drop["p"], drop["kind"]))

        return rule

    def _add(
        self, rw: Rewriter, total: fx.Node, layer: fx.Node, residual: fx.Node, *before: PostOp
    ) -> fx.Node | Mismatch:
        return self._fuse(rw, layer, total, *before, ("add", residual), *_post(total))

    def _takes_residual(self, layer: fx.Node) -> bool | Mismatch:
        refusal = _refused(self.backend, layer, (*_post(layer), ("add",)))
        return True if refusal is None else refusal

    def _could_take(self, node: fx.Node) -> bool:
        """Whether ``node`` would match as the layer of a residual addition, too."""
        is_layer = vocab.is_op(node, *LAYERS) and count_reads(node) == 1
        return is_layer and self._takes_residual(node) is True

    def _unfit(self, total: fx.Node, layer: fx.Node, residual: object) -> Mismatch | None:
        """Why ``residual`` is none, or None. Symmetric in ``layer`` and ``residual``."""
        if "alpha" in total.kwargs:
            return Mismatch("alpha is {0}", total.kwargs["alpha"])
        if not isinstance(residual, fx.Node):
            return Mismatch("{0} is a number, not a residual", residual)
        mine, other = meta.tensor_info(layer), meta.tensor_info(residual)
        if mine is None or other is None:
            return Mismatch("the shape of {0} or {1} is unknown", layer, residual)
        if mine.shape != other.shape:
            text = "residual has shape {0}, {1} yields {2}"
            return Mismatch(text, list(other.shape), _op(layer).name, list(mine.shape))
        if mine.dtype != other.dtype:
            text = "residual is {0}, {1} yields {2}"
            return Mismatch(text, other.dtype, _op(layer).name, mine.dtype)
        for node in (layer, residual):
            if node in self.constant:
                return Mismatch("{0} depends on no input: it may broadcast in other batches", node)
        return None

    def _fuse(
        self, rw: Rewriter, layer: fx.Node, last: fx.Node, *steps: PostOp
    ) -> fx.Node | Mismatch:
        """``layer`` with post-ops that compute ``last``, if the backend has them."""
        post = (*_post(layer), *steps)
        refusal = _refused(self.backend, layer, post)
        if refusal is not None:
            return refusal
        refusal = self._parted(layer, last)
        if refusal is not None:
            return refusal
        fused = rw.with_args(layer, post=post, origins=(layer, last))
        for group in (self.outside, self.constant):
            if layer in group:
                group.add(fused)
        return fused

    def _parted(self, layer: fx.Node, last: fx.Node) -> Mismatch | None:
        """Why the two are not to be quantized as one, or None."""
        if (layer in self.outside) != (last in self.outside):
            return Mismatch("only one of {0} and {1} lies between the stubs", layer, last)
        if self.configuration is None:
            return None
        return _configured_apart(self.configuration, layer, last)


def _configured_apart(
    configuration: Configuration, layer: fx.Node, last: fx.Node
) -> Mismatch | None:
    """Why the user's rules part the two, or None.

    A residual is read in integers by a quantized layer, so its addition must be quantized, too. An
    activation costs the layer no accuracy; only a rule that names it keeps it apart.
    """
    mine, other = configuration.resolve(layer), configuration.resolve(last)
    if not other.specific and _op(last) is not vocab.ADD:
        return None
    if mine.qconfig is None and other.qconfig is None:
        return None
    if mine.qconfig is None:
        return Mismatch("the configuration leaves {0} float ({1})", layer, mine.rule)
    if other.qconfig is None:
        return Mismatch("the configuration leaves {0} float ({1})", last, other.rule)
    if other.specific and mine.qconfig.activation != other.qconfig.activation:
        return Mismatch("the configuration quantizes {0} its own way ({1})", last, other.rule)
    return None


def _refused(backend: Backend, layer: fx.Node, post: tuple[PostOp, ...]) -> Mismatch | None:
    """Why the backend has no kernel for ``layer`` with these post-ops, or None."""
    names = kernel_names(post)
    if names in backend.post_ops(_op(layer)):
        return None
    carrier = "+".join((_op(layer).name, *names[:-1]))
    return Mismatch("backend {0} cannot fuse {1} into {2}", backend.name, names[-1], carrier)


def _outside(graph: fx.Graph) -> set[fx.Node]:
    """Compute nodes outside the stubs put by hand; fusing across would move some inside."""
    region = quantized_region(graph)
    return {node for node in graph.nodes if node.op.startswith("call_") and node not in region}


def _constant(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose values depend on no input of the graph."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("placeholder", "output") and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _op(node: fx.Node) -> OpDef:
    assert isinstance(node.target, OpDef)
    return node.target


def _post(node: fx.Node) -> tuple[PostOp, ...]:
    post: tuple[PostOp, ...] = node.kwargs.get("post", ())  # type: ignore[assignment]
    return post
