"""Other spellings of products: ``addmm``, ``baddbmm`` and ``matmul`` as matmul and linear.

    addmm(b, x, W) = linear(x, W', b)        x @ W = linear(x, W'), W constant
    baddbmm(b, x, y, beta, alpha) = beta b + alpha (x @ y)        and so addmv, addr, addbmm

Where W is written as the transpose of a parameter, W' is that parameter, so that what else reads it
(an embedding, of which the output layer is the transpose) goes on sharing it. Else W' is a copy,
and where W is trained arrange(W, dims=(1, 0)).

What ``einsum`` is, :mod:`qfx_passes.canonical.einsum` tells, and what ``inner`` and ``tensordot``
are :mod:`qfx_passes.canonical.contractions`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import bound, is_op
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.contractions import contract
from qfx_passes.canonical.einsum import expand_einsum
from qfx_passes.canonical.functional_calls import Spelling

_SUMS: dict[Any, tuple[str, str, str]] = {
    **dict.fromkeys((torch.addmm, "addmm"), ("input", "mat1", "mat2")),
    **dict.fromkeys((torch.baddbmm, "baddbmm"), ("input", "batch1", "batch2")),
    **dict.fromkeys((torch.addbmm, "addbmm"), ("input", "batch1", "batch2")),
    **dict.fromkeys((torch.addmv, "addmv"), ("input", "mat", "vec")),
    **dict.fromkeys((torch.addr, "addr"), ("input", "vec1", "vec2")),
}
"""Sums with a product, and what they call their operands."""


def expand_product(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The product that the call computes; None if it is none, a Mismatch if it can't be."""
    if site.node.op == "call_module":  # whatever its owner calls it: ``self.inner``, ``self.dot``
        return None
    product = _Products(site).expand(site.node, call)
    if product is None:
        product = contract(site, call)
    return site.through(product) if isinstance(product, fx.Node) else product


class _Products:
    """Writes products; all calls that share a matrix share its transposed copy."""

    def __init__(self, site: CallSite) -> None:
        self._rewriter = site.rewriter
        self._trainable = site.trainable
        self._copies = site.copies

    def expand(self, node: fx.Node, call: Spelling) -> fx.Node | Mismatch | None:
        """The product that ``call`` computes; None if it is none, a Mismatch if it can't be."""
        if call.target is torch.einsum:
            trainable = self._trainable
            return expand_einsum(node, call.args, self._rewriter, trainable=trainable)
        if call.target in _SUMS:
            return self._expand_sum(node, call)
        if call.target in (torch.matmul, torch.mm, operator.matmul, "matmul", "mm"):
            return self._expand_matmul(node, call)
        return None

    def _expand_matmul(self, node: fx.Node, call: Spelling) -> fx.Node | None:
        """A matmul with a constant matrix on the right, as a linear layer."""
        names = ("input", "mat2" if call.target in (torch.mm, "mm") else "other")
        arguments = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
        operands = [arguments.pop(name, None) for name in names]
        source = meta.tensor_info(operands[0]) if isinstance(operands[0], fx.Node) else None
        if arguments or source is None or len(source.shape) < 2:
            return None
        weight = self._transposed(operands[1], node)
        if weight is None:
            return None
        return _made(self._rewriter, node, vocab.LINEAR, operands[0], weight)

    def _expand_sum(self, node: fx.Node, call: Spelling) -> fx.Node:
        arguments = {**dict(zip(_SUMS[call.target], call.args, strict=False)), **call.kwargs}
        alpha, beta = arguments.pop("alpha", 1), arguments.pop("beta", 1)
        bias, source, weight = (arguments[name] for name in _SUMS[call.target])
        info = meta.tensor_info(bias)
        is_layer = bias.op == "get_attr" and info is not None and len(info.shape) == 1
        constant = self._transposed(weight, node) if is_layer and alpha == beta == 1 else None
        if constant is not None:
            return _made(self._rewriter, node, vocab.LINEAR, source, constant, bias)
        product = self._scaled(self._product(node, call, source, weight), alpha, node)
        if beta == 0:  # whatever the other is, NaN too
            return product
        return _made(self._rewriter, node, vocab.ADD, product, self._scaled(bias, beta, node))

    def _product(self, node: fx.Node, call: Spelling, one: fx.Node, other: fx.Node) -> fx.Node:
        """What a sum adds."""
        op = vocab.OUTER if call.target in (torch.addr, "addr") else vocab.MATMUL
        product = _made(self._rewriter, node, op, one, other)
        if call.target in (torch.addbmm, "addbmm"):
            return _made(self._rewriter, node, vocab.SUM, product, dim=0)
        return product

    def _scaled(self, value: fx.Node, factor: object, node: fx.Node) -> fx.Node:
        return value if factor == 1 else _made(self._rewriter, node, vocab.MUL, value, factor)

    def _transposed(self, matrix: object, node: fx.Node) -> fx.Node | None:
        """A read of the transpose of a constant matrix; None of what is none."""
        info = meta.tensor_info(matrix) if isinstance(matrix, fx.Node) else None
        if info is None or len(info.shape) != 2:
            return None
        assert isinstance(matrix, fx.Node)
        if matrix.op == "get_attr":
            return self._copied(matrix, node)
        parameter = matrix.args[0] if is_op(matrix, vocab.TRANSPOSE, vocab.PERMUTE) else None
        if not isinstance(parameter, fx.Node) or parameter.op != "get_attr":
            return None
        return parameter if _swaps(matrix) else None

    def _copied(self, matrix: fx.Node, node: fx.Node) -> fx.Node:
        """A read of a transposed copy, or of what is trained the transpose."""
        name, rewriter = str(matrix.target), self._rewriter
        if self._trainable:
            return _made(rewriter, node, vocab.ARRANGE, matrix, dims=(1, 0))
        if name not in self._copies:
            transposed = rewriter.tensor(matrix).detach().t().contiguous()
            self._copies[name] = rewriter.register(name, transposed)
        return rewriter.attribute(self._copies[name], origins=(node,))


def _swaps(matrix: fx.Node) -> bool:
    """Whether a TRANSPOSE or PERMUTE of two dims changes their order."""
    arguments = bound(matrix)
    if "dims" in arguments:
        return [d % 2 for d in arguments["dims"]] == [1, 0]
    return bool((arguments["dim0"] - arguments["dim1"]) % 2)


def _made(
    rewriter: Rewriter, node: fx.Node, op: vocab.OpDef, *operands: Any, **attributes: Any
) -> fx.Node:
    return rewriter.call(op, *operands, origins=(node,), **attributes)
