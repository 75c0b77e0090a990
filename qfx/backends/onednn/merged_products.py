"""Linear layers that read the same codes, one after the other, as one product.

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
from qfx.backends.base import Emitter, Site
from qfx.backends.onednn import calls, kernels
from qfx.backends.onednn.memory import QUANTIZING
from qfx.graph import meta
from qfx.quant.annotation import kernel_of, mark_kernel
from qfx.quant.meaning import hand_on_meaning
from qfx.vocab import Kind, OpDef

_CODES = "qfx.x86.codes"
_READS = slice(0, 3)  # codes, scale, zero point
_CONSTANTS = slice(3, 7)  # weight, scales, zero points, bias
_TAIL = slice(7, None)  # output qparams, dtype and post-op
_DTYPE = 9


def remember(node: fx.Node, site: Site) -> None:
    """Keep the codes (out, in) of a layer until :func:`merge_products`: packing hides them."""
    assert site.weight is not None
    node.meta[_CODES] = site.weight.integers


def merge_products(graph: fx.Graph, em: Emitter) -> None:
    """Merge what :func:`remember` was told of wherever that can be done."""
    products = [node for node in graph.nodes if _CODES in node.meta or _multiplies(node)]
    for _, run in groupby(products, key=_shared):
        nodes = list(run)
        if len(nodes) > 1 and nodes[0].args[_DTYPE] is torch.float32:
            _merge(em, nodes)
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
    return node.args[_READS], repr(node.args[_TAIL])


def _merge(em: Emitter, nodes: Sequence[fx.Node]) -> None:
    first = nodes[0]
    info = meta.tensor_info(first)
    assert info is not None
    widths = [node.meta[_CODES].shape[0] for node in nodes]
    with em.rw.at(first):
        product = em.rw.call(
            calls.linear,
            *(*first.args[_READS], *_constants(em, nodes), *first.args[_TAIL]),
            origins=tuple(nodes),
            value=meta.TensorInfo((*info.shape[:-1], sum(widths)), torch.float32),
        )
    for node, width, end in zip(nodes, widths, accumulate(widths), strict=True):
        _hand_out(em, node, product, end - width, width)


def _constants(em: Emitter, nodes: Sequence[fx.Node]) -> list[fx.Node | None]:
    """Weight, scales, zero points and bias of the product."""
    weights, scales, _, biases = zip(*(node.args[_CONSTANTS] for node in nodes), strict=True)
    codes: list[Tensor] = [node.meta[_CODES] for node in nodes]
    read = meta.tensor_info(nodes[0].all_input_nodes[0])
    assert read is not None

    def packed(parts: Sequence[fx.Node | None], what: str, make: Callable[[], Tensor]) -> fx.Node:
        names = tuple(part and part.target for part in parts)
        return em.packed(("product", what, *names), make)

    def zeros(dtype: torch.dtype) -> Tensor:
        return torch.zeros(sum(map(len, codes)), dtype=dtype)

    return [
        packed(weights, "weight", lambda: kernels.pack_linear(torch.cat(codes), read.shape)),
        packed((*weights, *scales), "scales", lambda: _joined(em, scales, codes)),
        packed(weights, "zero points", lambda: zeros(torch.int8)),
        packed((*weights, *biases), "bias", lambda: _joined(em, biases, codes))
        if any(biases)
        else None,
    ]


def _joined(em: Emitter, parts: Sequence[fx.Node | None], codes: Sequence[Tensor]) -> Tensor:
    """What ``parts`` hold for each output channel; nothing stands for zeros."""
    values = [torch.zeros(1) if part is None else em.rw.tensor(part).detach() for part in parts]
    return torch.cat([v.expand(len(rows)) for v, rows in zip(values, codes, strict=True)])


def _hand_out(em: Emitter, node: fx.Node, product: fx.Node, start: int, width: int) -> None:
    """Let a part of ``product`` take the place of ``node``."""
    kernel = kernel_of(node)
    with em.rw.at(node):
        part = em.rw.call(vocab.NARROW, product, dim=-1, start=start, length=width, origins=(node,))
        if _leaves(node):  # whose readers may view it as they could what float layers yield
            part = em.rw.call(kernels.clone_contiguous, part, origins=(node,))
    hand_on_meaning(node, part)
    em.rw.replace(node, part)
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
