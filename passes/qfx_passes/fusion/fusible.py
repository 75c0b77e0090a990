"""What may be fused: what computes the same for every input the model accepts.

A residual has exactly the shape and dtype of the result it is added to (no broadcasting), and both
depend on the inputs. A position embedding has that shape too, but only in the batch of one that
the model was captured with. Neither stubs put by hand nor the user's rules part the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from torch import fx

from qfx import vocab
from qfx.backends.base import Backend
from qfx.configuration.configuration import Configuration
from qfx.graph import meta
from qfx.rewrite import Mismatch, Rewriter
from qfx.rewrite.conditions import count_reads
from qfx.vocab import Kind, OpDef
from qfx_passes.fusion.constant_values import ConstantValues
from qfx_passes.operands import kernel_names
from qfx_passes.placement.quantized_region import QuantizedRegion

CARRIERS = tuple(op for op in vocab.ops() if op.takes_post)
PRODUCTS = tuple(op for op in CARRIERS if op.kind is Kind.MATMUL)

PostOp: TypeAlias = "tuple[object, ...]"
"""A name of POST_OPS and its operands."""


class ResidualAddition(NamedTuple):
    """Which of the two operands of an addition computes it, and what it adds."""

    layer: fx.Node
    residual: object


def post_of(node: fx.Node) -> tuple[PostOp, ...]:
    """The post-ops that a node carries."""
    post: tuple[PostOp, ...] = node.kwargs.get("post", ())  # type: ignore[assignment]
    return post


def as_post_op(activation: fx.Node) -> PostOp | Mismatch:
    """An activation as a post-op, if its attributes are known."""
    _, *attributes = vocab.bound(activation).items()
    for name, value in attributes:
        if not isinstance(value, (int, float, str)):
            return Mismatch("{0}={1} is not a number", name, value)
    return vocab.post_op_of_call(activation)


def refused(rw: Rewriter, layer: fx.Node, *post_ops: PostOp) -> Mismatch | None:
    """Why the backend has no kernel for ``layer`` with these post-ops after its own, or None."""
    backend = rw.get(Backend)
    names = kernel_names((*post_of(layer), *post_ops))
    if names in backend.post_ops(_op(layer)):
        return None
    carrier = "+".join((_op(layer).name, *names[:-1]))
    return Mismatch("backend {0} cannot fuse {1} into {2}", backend.name, names[-1], carrier)


def adding_layers(
    rw: Rewriter, layer: fx.Node, residual: object
) -> Iterator[ResidualAddition] | Mismatch:
    """The ways to add the two in a kernel; the longer branch, computed last, goes first."""
    refusal = refused(rw, layer, ("add",))
    ways = [ResidualAddition(layer, residual)] if refusal is None else []
    if isinstance(residual, fx.Node) and _could_add(rw, residual):
        ways.append(ResidualAddition(residual, layer))
    if refusal is not None and not ways:
        return refusal
    return iter(sorted(ways, key=lambda way: way.layer, reverse=True))


def _could_add(rw: Rewriter, node: fx.Node) -> bool:
    is_layer = vocab.is_op(node, *PRODUCTS) and count_reads(node) == 1
    return is_layer and refused(rw, node, ("add",)) is None


def unfit(rw: Rewriter, total: fx.Node, layer: fx.Node, residual: object) -> Mismatch | None:
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
    constant = rw.analysis(ConstantValues)
    for node in (layer, residual):
        if node in constant:
            return Mismatch("{0} depends on no input: it may broadcast in other batches", node)
    return None


def parted(rw: Rewriter, layer: fx.Node, last: fx.Node) -> Mismatch | None:
    """Why the two are not to be quantized as one, or None."""
    region = rw.analysis(QuantizedRegion)
    if (layer in region) != (last in region):
        return Mismatch("only one of {0} and {1} lies between the stubs", layer, last)
    if not rw.has(Configuration):
        return None
    return _configured_apart(rw.get(Configuration), layer, last)


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


def _op(node: fx.Node) -> OpDef:
    assert isinstance(node.target, OpDef)
    return node.target
