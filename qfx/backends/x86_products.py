"""Linear layers that read the same codes, one after the other, as one product.

    [y1 y2 y3] = x [w1 w2 w3] + [b1 b2 b3]

Query, key and value of attention do, or gate and up of a gated network. A call costs about 20
microseconds whatever its size, and large products use a core better than small ones. The numbers
are the same, since output channels know nothing of each other. Layers with another product between
them stay apart, so that no result waits long for its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, fx

from qfx import vocab
from qfx.backends import x86_calls as calls
from qfx.backends import x86_kernels as kernels
from qfx.backends.base import Emitter, Site
from qfx.backends.x86_memory import QUANTIZING
from qfx.graph import meta
from qfx.quant.annotation import kernel_of, mark_kernel
from qfx.vocab import Kind, OpDef

_LAYER = "qfx.x86.layer"
_READS = slice(0, 3)  # codes, scale, zero point
_TAIL = slice(7, None)  # output qparams, dtype and post-op
_DTYPE = 9


@dataclass(frozen=True)
class _Layer:
    """What packing hides: the name of a weight, its codes (out, in), scales and bias (out,)."""

    name: str
    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    @property
    def width(self) -> int:
        return self.codes.shape[0]


def remember(node: fx.Node, site: Site) -> None:
    """Keep the constants of a linear layer until :func:`merge_products`."""
    weight = site.weight
    assert weight is not None
    scales = torch.as_tensor(weight.qparams.scale, dtype=torch.float32)
    bias = None if site.bias is None else site.bias.detach()
    node.meta[_LAYER] = _Layer(
        weight.name, weight.integers, scales.expand(weight.integers.shape[0]), bias
    )


def merge_products(graph: fx.Graph, em: Emitter) -> None:
    """Merge what :func:`remember` was told of wherever that can be done."""
    products = [node for node in graph.nodes if _LAYER in node.meta or _multiplies(node)]
    for _, run in groupby(products, key=_shared):
        nodes = list(run)
        if len(nodes) > 1 and nodes[0].args[_DTYPE] is torch.float32:
            _merge(em, nodes)
    for node in products:
        node.meta.pop(_LAYER, None)


def _multiplies(node: fx.Node) -> bool:
    if isinstance(node.target, OpDef):
        return node.target.kind is Kind.MATMUL
    return node.op == "call_module" or kernel_of(node) is not None


def _shared(node: fx.Node) -> object:
    """What layers of one product have in common; of anything else, itself."""
    if _LAYER not in node.meta:
        return node
    return node.args[_READS], repr(node.args[_TAIL])


def _merge(em: Emitter, nodes: Sequence[fx.Node]) -> None:
    first = nodes[0]
    layers: list[_Layer] = [node.meta[_LAYER] for node in nodes]
    widths = [layer.width for layer in layers]
    info, read = meta.tensor_info(first), meta.tensor_info(first.all_input_nodes[0])
    assert info is not None
    assert read is not None
    with em.rw.at(first):
        product = em.rw.call(
            calls.linear,
            *(*first.args[_READS], *_constants(em, layers, read.shape), *first.args[_TAIL]),
            origins=tuple(nodes),
            value=meta.TensorInfo((*info.shape[:-1], sum(widths)), torch.float32),
        )
    for node, width, end in zip(nodes, widths, accumulate(widths), strict=True):
        _hand_out(em, node, product, end - width, width)


def _constants(em: Emitter, layers: Sequence[_Layer], shape: Sequence[int]) -> Sequence[Any]:
    """Weight, scales, zero points and bias of the product, for an input of ``shape``."""
    scales = torch.cat([layer.scales for layer in layers])
    biases = [layer.bias for layer in layers]
    recipes: dict[str, Callable[[], Tensor]] = {
        "weight": lambda: kernels.pack_linear(torch.cat([each.codes for each in layers]), shape),
        "scale": lambda: scales,
        "zero_point": lambda: torch.zeros_like(scales, dtype=torch.int8),
    }
    if any(bias is not None for bias in biases):
        zeros = (torch.zeros_like(layer.scales) for layer in layers)
        filled = [z if bias is None else bias for z, bias in zip(zeros, biases, strict=True)]
        recipes["bias"] = lambda: torch.cat(filled)
    names = tuple(layer.name for layer in layers)
    made = [em.packed((what, *names, tuple(shape)), recipe) for what, recipe in recipes.items()]
    return made if "bias" in recipes else [*made, None]


def _hand_out(em: Emitter, node: fx.Node, product: fx.Node, start: int, width: int) -> None:
    """Let a part of ``product`` take the place of ``node``."""
    kernel = kernel_of(node)
    with em.rw.at(node):
        part = em.rw.call(vocab.NARROW, product, dim=-1, start=start, length=width, origins=(node,))
        if _leaves(node):  # whose readers may view it as they could what float layers yield
            part = em.rw.call(vocab.CONTIGUOUS, part, origins=(node,))
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
