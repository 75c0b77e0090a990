"""fuse-post-ops: fuse elementwise operations into the operation whose result they read.

    act(op(x))          ->  op(x, post=(("act", ...),))
    op(x) + residual    ->  op(x, post=(("add", residual),))

A fusion is data: the operation keeps its name and carries an ordered list of post-ops, so one rule
serves every pair. Which chains an operation may carry is read from the backend's table
(:meth:`~qfx.backends.base.Backend.post_ops`). Chains grow one post-op at a time, so the table must
list the prefixes of what it lists.

An activation is computed where its operand is. A residual may be computed later, so the operation
that adds it moves down to the addition, unless something in between could overwrite what it reads.
What keeps the two apart, :mod:`qfx_passes.fusion.fusible` tells.
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import PatternPass
from qfx.rewrite import Any, Match, Mismatch, Op, Rewriter, rewrite
from qfx.semantics.post import POST_OPS
from qfx.vocab import Kind
from qfx_passes.fusion.fusible import (
    CARRIERS,
    PRODUCTS,
    PostOp,
    adding_layers,
    as_post_op,
    parted,
    post_of,
    refused,
    unfit,
)

ACTIVATIONS = tuple(op for op in vocab.ops() if op.kind is Kind.ACTIVATION and op.name in POST_OPS)
LAYER = Op(PRODUCTS, bind="layer", users=1)
DROPPED = Op(vocab.DROPOUT, LAYER, bind="dropout", users=1)


@rewrite(Op(vocab.CLAMP, Any("x"), min=0, max=None), name="clamp-at-zero")
def clamp_at_zero(match: Match, rw: Rewriter) -> fx.Node:
    return rw.call(vocab.RELU, match["x"])


@rewrite(Op(ACTIVATIONS, Op(CARRIERS, bind="layer", users=1)), name="fuse-activation")
def fuse_activation(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    post_op = as_post_op(match.root)
    if isinstance(post_op, Mismatch):
        return post_op
    with rw.at(match["layer"]):
        return fused(rw, match["layer"], match.root, post_op)


@rewrite(Op(vocab.ADD, LAYER, Any("residual")), name="fuse-residual")
def fuse_residual(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    layers = adding_layers(rw, match["layer"], match["residual"])
    if isinstance(layers, Mismatch):
        return layers
    refusal = unfit(rw, match.root, match["layer"], match["residual"])
    if refusal is not None:
        return refusal
    added = (fused(rw, way.layer, match.root, ("add", way.residual)) for way in layers)
    first = next(added)
    return first if isinstance(first, fx.Node) else next(added, first)


@rewrite(Op(vocab.ADD, DROPPED, Any("residual")), name="fuse-dropped-residual")
def fuse_dropped_residual(match: Match, rw: Rewriter) -> fx.Node | Mismatch:
    """A residual that is added behind a dropout, in graphs that are to be trained."""
    layer, residual = match["layer"], match["residual"]
    refusal = unfit(rw, match.root, layer, residual)
    if refusal is not None:
        return refusal
    drop = vocab.bound(match["dropout"])
    dropped: PostOp = ("dropout", drop["p"], drop["kind"])
    return fused(rw, layer, match.root, dropped, ("add", residual))


def fused(rw: Rewriter, layer: fx.Node, last: fx.Node, *post_ops: PostOp) -> fx.Node | Mismatch:
    """``layer`` with post-ops that compute ``last``, if the backend has them."""
    of_last = post_of(last) if last.target is vocab.ADD else ()
    for refusal in (refused(rw, layer, *post_ops, *of_last), parted(rw, layer, last)):
        if refusal is not None:
            return refusal
    post = (*post_of(layer), *post_ops, *of_last)
    return rw.with_args(layer, post=post, origins=(layer, last))


class FusePostOps(PatternPass):
    """Fuse activations and residual additions into what the backend computes in one kernel."""

    name = "fuse-post-ops"
    requires = Level.CANONICAL
    produces = Level.FUSED
    patterns = (clamp_at_zero, fuse_activation, fuse_residual, fuse_dropped_residual)
