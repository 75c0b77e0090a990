"""Multi-head attention, taken apart into what it computes (Vaswani et al. 2017, arXiv:1706.03762).

    q, k, v = x Wq' + bq, x Wk' + bk, x Wv' + bv        one linear when q, k and v share an input
    heads   = softmax(q k' / sqrt(d) + mask) v          per head
    y       = heads Wo' + bo

No size is written into the graph: heads are split off with ``unflatten(-1, (heads, d))``, so other
batch sizes and lengths work. In training the softmax is dropped from, before it meets the values.
"""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter


def expand(
    node: fx.Node, module: nn.MultiheadAttention, rewriter: Rewriter, *, trainable: bool
) -> Mismatch | None:
    """Replace the call of ``module`` by its parts; a Mismatch leaves it as it was written."""
    bound = inspect.signature(nn.MultiheadAttention.forward).bind(module, *node.args, **node.kwargs)
    bound.apply_defaults()
    arguments = bound.arguments
    failed = _obstacle(node, module, arguments)
    if failed is not None:
        return failed
    readers = {n: int(n.args[1]) % 2 for n in node.users}  # type: ignore[arg-type]
    needs_weights = bool(arguments["need_weights"]) and any(readers.values())
    parts = _Expansion(node, module, rewriter, arguments, trainable).build(needs_weights)
    for reader, index in readers.items():
        part = parts[index]
        assert part is not None
        rewriter.replace(reader, part)
    if not node._erased:
        rewriter.erase(node)
    return None


def _obstacle(
    node: fx.Node, module: nn.MultiheadAttention, arguments: dict[str, Any]
) -> Mismatch | None:
    if module.bias_k is not None or module.add_zero_attn:
        return Mismatch("attention with an extra key (add_bias_kv, add_zero_attn)")
    if module.dropout and module.training:
        return Mismatch("attention with dropout, in training")
    flags = ("need_weights", "average_attn_weights", "is_causal")
    if any(isinstance(arguments[name], fx.Node) for name in flags):
        return Mismatch("a flag of the attention is computed")
    info = meta.tensor_info(arguments["query"])
    if info is None or len(info.shape) not in (2, 3):
        return Mismatch("attention over a query of unknown rank")
    if not all(u.target is operator.getitem and isinstance(u.args[1], int) for u in node.users):
        return Mismatch("the pair that attention returns is read whole")
    return None


@dataclass
class _Expansion:
    """The nodes that replace one call."""

    node: fx.Node
    module: nn.MultiheadAttention
    rewriter: Rewriter
    arguments: dict[str, Any]
    trainable: bool

    def build(self, needs_weights: bool) -> tuple[fx.Node, fx.Node | None]:
        query, key, value = (self._heads(p) for p in self._project())
        dropout = self.module.dropout if self.trainable else 0.0
        mask, causal = self._mask(needs_weights)
        weights = None
        if needs_weights:
            kept = weights = self._call(vocab.ATTENTION_WEIGHTS, query, key, *mask)
            if dropout:
                kept = self._call(vocab.DROPOUT, weights, p=dropout)
            mixed = self._call(vocab.MATMUL, kept, value)
            if self.arguments["average_attn_weights"]:
                weights = self._call(vocab.MEAN, weights, dim=-3)
        else:
            flags = {"is_causal": causal, "dropout": dropout}
            mixed = self._call(vocab.ATTENTION, query, key, value, *mask, **flags)
        joined = self._call(vocab.FLATTEN, self._out_of_heads(mixed), start_dim=-2)
        operands = [joined, self._parameter("out_proj.weight")]
        if self.module.out_proj.bias is not None:
            operands.append(self._parameter("out_proj.bias"))
        return self._call(vocab.LINEAR, *operands), weights

    # -- projections -----------------------------------------------------------------------------
    def _project(self) -> tuple[fx.Node, fx.Node, fx.Node]:
        query, key, value = (self.arguments[n] for n in ("query", "key", "value"))
        packed = self.module.in_proj_weight is not None
        if packed and query is key and key is value:
            return self._packed(query)
        return (
            self._separate(query, 0, "q_proj_weight"),
            self._separate(key, 1, "k_proj_weight"),
            self._separate(value, 2, "v_proj_weight"),
        )

    def _packed(self, source: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
        operands = [source, self._parameter("in_proj_weight")]
        if self.module.in_proj_bias is not None:
            operands.append(self._parameter("in_proj_bias"))
        chunks = self._call(vocab.CHUNK, self._call(vocab.LINEAR, *operands), chunks=3, dim=-1)
        query, key, value = (self._call(vocab.GETITEM, chunks, i) for i in range(3))
        return query, key, value

    def _separate(self, source: fx.Node, index: int, name: str) -> fx.Node:
        operands = [source]
        if self.module.in_proj_weight is None:
            operands.append(self._parameter(name))
        else:
            operands.append(self._slice("in_proj_weight", index))
        if self.module.in_proj_bias is not None:
            operands.append(self._slice("in_proj_bias", index))
        return self._call(vocab.LINEAR, *operands)

    def _slice(self, name: str, index: int) -> fx.Node:
        """One third of a packed parameter, as a constant of its own where it is not trained."""
        if self.trainable:
            return self._call(vocab.PART, self._parameter(name), parts=3, index=index)
        whole: nn.Parameter = getattr(self.module, name)
        part = whole.detach().chunk(3)[index].clone()
        return self.rewriter.constant(
            f"{self.node.target}.{name}_{'qkv'[index]}",
            part,
            origins=(self.node,),
        )

    def _parameter(self, name: str) -> fx.Node:
        return self.rewriter.attribute(f"{self.node.target}.{name}", origins=(self.node,))

    # -- heads -----------------------------------------------------------------------------------
    @property
    def _sequence_first(self) -> bool:
        """Whether tensors are (length, batch, ...), not (batch, length, ...) or (length, ...)."""
        return not self.module.batch_first and self._is_batched

    @property
    def _is_batched(self) -> bool:
        info = meta.tensor_info(self.arguments["query"])
        return info is not None and len(info.shape) == 3

    def _heads(self, projected: fx.Node) -> fx.Node:
        sizes = (self.module.num_heads, self.module.head_dim)
        split = self._call(vocab.UNFLATTEN, projected, dim=-1, sizes=sizes)
        if self._sequence_first:
            return self._call(vocab.PERMUTE, split, dims=(1, 2, 0, 3))
        return self._call(vocab.TRANSPOSE, split, dim0=-3, dim1=-2)

    def _out_of_heads(self, mixed: fx.Node) -> fx.Node:
        if self._sequence_first:
            return self._call(vocab.PERMUTE, mixed, dims=(2, 0, 1, 3))
        return self._call(vocab.TRANSPOSE, mixed, dim0=-3, dim1=-2)

    # -- masks -----------------------------------------------------------------------------------
    def _mask(self, needs_weights: bool) -> tuple[tuple[fx.Node, ...], bool]:
        """The mask that is added to the scores, if any, and whether attention is causal."""
        pairs = self.arguments["attn_mask"], self.arguments["key_padding_mask"]
        if self.arguments["is_causal"] and pairs[1] is None and not needs_weights:
            return (), True
        masks = []
        if pairs[0] is not None:
            mask = self._additive(pairs[0])
            info = meta.tensor_info(mask)
            if self._is_batched and info is not None and len(info.shape) == 3:
                sizes = (-1, self.module.num_heads)
                mask = self._call(vocab.UNFLATTEN, mask, dim=0, sizes=sizes)
            masks.append(mask)
        if pairs[1] is not None:
            dim = 1 if self._is_batched else 0
            mask = self._call(vocab.UNSQUEEZE, self._additive(pairs[1]), dim=dim)
            masks.append(self._call(vocab.UNSQUEEZE, mask, dim=dim))
        if len(masks) == 2:
            masks = [self._call(vocab.ADD, *masks)]
        return tuple(masks), False

    def _additive(self, mask: fx.Node) -> fx.Node:
        info = meta.tensor_info(mask)
        query = meta.tensor_info(self.arguments["query"])
        if info is None or query is None or info.dtype is not torch.bool:
            return mask
        return self._call(vocab.ADDITIVE_MASK, mask, dtype=query.dtype)

    # -- nodes -----------------------------------------------------------------------------------
    def _call(self, op: vocab.OpDef, *operands: Any, **attributes: Any) -> fx.Node:
        return self.rewriter.call(op, *operands, origins=(self.node,), **attributes)
