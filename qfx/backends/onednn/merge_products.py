"""merge-products: linear layers that read the same codes, one after the other, as one product.

    [y1 y2 y3] = x [w1 w2 w3] + [b1 b2 b3]

Query, key and value of attention do, or gate and up of a gated network. A call costs about 20
microseconds whatever its size, and large products use a core better than small ones. Output
channels know nothing of each other, so the numbers are the same. Layers with another product in
between stay apart, so that no result waits long for its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends.base import LoweringSite
from qfx.backends.onednn import as_convolutions, calls, kernels
from qfx.backends.onednn.arguments import Linear
from qfx.backends.onednn.memory import QUANTIZING
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.quant.annotation import kernel_of, mark_kernel
from qfx.quant.meaning import hand_on_meaning
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import Kind, OpDef

_CODES = "qfx.x86.codes"


def remember(node: fx.Node, site: LoweringSite) -> None:
    """Keep the codes (out, in) of a layer until :class:`MergeProducts`: packing hides them."""
    assert site.weight is not None
    node.meta[_CODES] = site.weight.integers


class MergeProducts(Pass):
    """Merge the linear layers that :func:`remember` was told of wherever that can be done."""

    name = "merge-products"
    requires = Level.LOWERED

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        products = [node for node in graph.nodes if _CODES in node.meta or _multiplies(node)]
        merging = _Merging(ctx.rewriter)
        for _, run in groupby(products, key=_shared):
            nodes = list(run)
            if len(nodes) > 1 and Linear(*nodes[0].args).dtype is torch.float32:
                merging.merge(nodes)
        for node in products:
            node.meta.pop(_CODES, None)


def _multiplies(node: fx.Node) -> bool:
    if isinstance(node.target, OpDef):
        return node.target.kind is Kind.MATMUL
    return node.op == "call_module" or kernel_of(node) is not None


def _shared(node: fx.Node) -> object:
    """What layers of one product have in common; of anything else, itself."""
    if _CODES not in node.meta:
        return node
    blank = dict.fromkeys(("weight", "weight_scale", "weight_zero_point", "bias"))
    return repr(Linear(*node.args)._replace(**blank))


class _Merging:
    """Writes products; what they read is packed once, however many read it."""

    def __init__(self, rw: Rewriter) -> None:
        self._rw = rw
        self._packed: dict[tuple[object, ...], str] = {}

    def merge(self, nodes: Sequence[fx.Node]) -> None:
        """Let one product take the place of ``nodes``."""
        first = nodes[0]
        info = meta.tensor_info(first)
        assert info is not None
        widths = [node.meta[_CODES].shape[0] for node in nodes]
        with self._rw.at(first):
            product = self._rw.call(
                calls.linear,
                *self._arguments([Linear(*node.args) for node in nodes], nodes),
                origins=tuple(nodes),
                value=meta.TensorInfo((*info.shape[:-1], sum(widths)), torch.float32),
            )
        for node, width, end in zip(nodes, widths, accumulate(widths), strict=True):
            _hand_out(self._rw, node, product, end - width, width)

    def _arguments(self, given: Sequence[Linear], nodes: Sequence[fx.Node]) -> Linear:
        """Those of the product: weight, scales, zero points and bias are its own."""
        weights = [each.weight for each in given]
        scales, biases = [each.weight_scale for each in given], [each.bias for each in given]
        codes: list[Tensor] = [node.meta[_CODES] for node in nodes]
        read = meta.tensor_info(nodes[0].all_input_nodes[0])
        assert read is not None

        def packed(
            parts: Sequence[fx.Node | None], what: str, make: Callable[[], Tensor]
        ) -> fx.Node:
            key = (what, *(part and part.target for part in parts))
            if key not in self._packed:
                self._packed[key] = self._rw.attach("packed.weight", make())
            return self._rw.attribute(self._packed[key])

        def whole() -> Tensor:
            post, zero_point = str(given[0].post), given[0].x_zero_point
            return as_convolutions.pack(codes, read.shape, zero_point, post)

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(sum(map(len, codes)), dtype=dtype)

        def bias() -> fx.Node:
            return packed((*weights, *biases), "bias", lambda: self._joined(biases, codes))

        return given[0]._replace(
            weight=packed(weights, "weight", whole),
            weight_scale=packed((*weights, *scales), "scales", lambda: self._joined(scales, codes)),
            weight_zero_point=packed(weights, "zero points", lambda: zeros(torch.int8)),
            bias=bias() if any(biases) else None,
        )

    def _joined(self, parts: Sequence[fx.Node | None], codes: Sequence[Tensor]) -> Tensor:
        """What ``parts`` hold for each output channel; nothing stands for zeros."""
        values = [
            torch.zeros(1, dtype=torch.float32) if p is None else self._rw.tensor(p).detach()
            for p in parts
        ]
        return torch.cat([v.expand(len(rows)) for v, rows in zip(values, codes, strict=True)])


def _hand_out(rw: Rewriter, node: fx.Node, product: fx.Node, start: int, width: int) -> None:
    """Let a part of ``product`` take the place of ``node``."""
    kernel = kernel_of(node)
    with rw.at(node):
        part = rw.call(vocab.NARROW, product, dim=-1, start=start, length=width, origins=(node,))
        if _leaves(node):  # whose readers may view it as they could what float layers yield
            part = rw.call(kernels.clone_contiguous, part, origins=(node,))
    hand_on_meaning(node, part)
    rw.replace(node, part)
    if kernel is not None:
        mark_kernel(part, kernel)


def _leaves(node: fx.Node) -> bool:
    """Whether something other than operations and kernels may see the memory of ``node``."""
    readers = list(node.users)
    for reader in readers:
        is_kernel = kernel_of(reader) is not None or reader.target in QUANTIZING
        if not is_kernel and not isinstance(reader.target, OpDef):
            return True
        if isinstance(reader.target, OpDef) and reader.target.kind is Kind.SHAPE:
            readers.extend(reader.users)
    return False
