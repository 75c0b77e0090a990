"""What multi-head attention is made of (Vaswani et al. 2017, arXiv:1706.03762).

    q, k, v = x Wq' + bq, x Wk' + bk, x Wv' + bv        one linear when q, k and v share an input
    heads   = softmax(q k' / sqrt(d) + mask) v          per head
    y       = heads Wo' + bo

Keys and values may be one or two longer than what they are projected from: by a learned pair
(``bias_k``, ``bias_v``), and by zeros (``add_zero_attn``). Masks leave those open.

No size is written into the graph: heads are split off with ``unflatten(-1, (heads, d))``, so other
batch sizes and lengths work. In training the softmax is dropped from, before it meets the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import is_op


@dataclass
class AttentionNodes:
    """The nodes that replace one call; the parameters are nodes among its arguments."""

    node: fx.Node
    rewriter: Rewriter
    arguments: dict[str, Any]
    trainable: bool

    def build(self, needs_weights: bool) -> tuple[fx.Node, fx.Node | None]:
        projected, key, value = self._project()
        query = self._heads(projected)
        key = self._heads(self._extended(key, "bias_k"))
        value = self._heads(self._extended(value, "bias_v"))
        dropout = self.arguments["dropout_p"]
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
        operands = [joined, self.arguments["out_proj_weight"]]
        if self.arguments["out_proj_bias"] is not None:
            operands.append(self.arguments["out_proj_bias"])
        return self._call(vocab.LINEAR, *operands), weights

    # -- projections -----------------------------------------------------------------------------
    def _project(self) -> tuple[fx.Node, fx.Node, fx.Node]:
        query, key, value = (self.arguments[n] for n in ("query", "key", "value"))
        packed = self.arguments["in_proj_weight"] is not None
        if packed and query is key and key is value:
            return self._packed(query)
        return (
            self._separate(query, 0, "q_proj_weight"),
            self._separate(key, 1, "k_proj_weight"),
            self._separate(value, 2, "v_proj_weight"),
        )

    def _packed(self, source: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
        operands = [source, self.arguments["in_proj_weight"]]
        if self.arguments["in_proj_bias"] is not None:
            operands.append(self.arguments["in_proj_bias"])
        chunks = self._call(vocab.CHUNK, self._call(vocab.LINEAR, *operands), chunks=3, dim=-1)
        query, key, value = (self._call(vocab.GETITEM, chunks, i) for i in range(3))
        return query, key, value

    def _separate(self, source: fx.Node, index: int, name: str) -> fx.Node:
        operands = [source]
        if self.arguments["in_proj_weight"] is None:
            operands.append(self.arguments[name])
        else:
            operands.append(self._third("in_proj_weight", index))
        if self.arguments["in_proj_bias"] is not None:
            operands.append(self._third("in_proj_bias", index))
        return self._call(vocab.LINEAR, *operands)

    def _third(self, name: str, index: int) -> fx.Node:
        """One third of a packed parameter, as a constant of its own where it is not trained."""
        packed: fx.Node = self.arguments[name]
        joined = packed.args[0] if is_op(packed, vocab.CAT) else ()
        if isinstance(joined, (list, tuple)) and len(joined) == 3:  # as WavLM joins its biases
            return joined[index]  # type: ignore[return-value]
        if self.trainable or packed.op != "get_attr":
            return self._call(vocab.PART, packed, parts=3, index=index)
        part = self.rewriter.tensor(packed).detach().chunk(3)[index].clone()
        name = f"{packed.target}_{'qkv'[index]}"
        return self.rewriter.constant(name, part, origins=(self.node,))

    def _extended(self, projected: fx.Node, name: str) -> fx.Node:
        """Projected keys or values, and behind them what is not projected from anything."""
        extra: fx.Node | None = self.arguments[name]
        dim = 0 if self._sequence_first or not self._is_batched else 1
        if extra is not None:
            extra = self._for_each(extra, projected, 1 - dim)
            projected = self._call(vocab.CAT, [projected, extra], dim=dim)
        if self.arguments["add_zero_attn"]:
            behind = (0, 0, 0, 1) if not self._sequence_first else (0, 0, 0, 0, 0, 1)
            projected = self._call(vocab.PAD, projected, pad=behind)
        return projected

    def _for_each(self, extra: fx.Node, projected: fx.Node, batch: int) -> fx.Node:
        """``extra`` of (1, 1, width), repeated along the batch dimension of ``projected``."""
        if not self._is_batched:
            return self._call(vocab.SELECT, extra, dim=0, index=0)
        size: list[Any] = [1, 1, -1]
        size[batch] = self._call(vocab.SIZE, projected, dim=batch)
        return self._call(vocab.EXPAND, extra, size=tuple(size))

    # -- heads -----------------------------------------------------------------------------------
    @property
    def _sequence_first(self) -> bool:
        """Whether tensors are (length, batch, ...), not (batch, length, ...) or (length, ...)."""
        return not self.arguments["batch_first"] and self._is_batched

    @property
    def _is_batched(self) -> bool:
        info = meta.tensor_info(self.arguments["query"])
        return info is not None and len(info.shape) == 3

    def _heads(self, projected: fx.Node) -> fx.Node:
        heads, info = self.arguments["num_heads"], meta.tensor_info(projected)
        assert info is not None
        sizes = (heads, info.shape[-1] // heads)
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
        extra = (self.arguments["bias_k"] is not None) + bool(self.arguments["add_zero_attn"])
        as_written = needs_weights or (extra and self.arguments["need_weights"])
        if self.arguments["is_causal"] and pairs[1] is None and not as_written:
            return (), True
        masks = []
        if pairs[0] is not None:
            mask = self._additive(pairs[0])
            info = meta.tensor_info(mask)
            if self._is_batched and info is not None and len(info.shape) == 3:
                sizes = (-1, self.arguments["num_heads"])
                mask = self._call(vocab.UNFLATTEN, mask, dim=0, sizes=sizes)
            masks.append(mask)
        if pairs[1] is not None:
            dim = 1 if self._is_batched else 0
            mask = self._call(vocab.UNSQUEEZE, self._additive(pairs[1]), dim=dim)
            masks.append(self._call(vocab.UNSQUEEZE, mask, dim=dim))
        if len(masks) == 2:
            masks = [self._call(vocab.ADD, *masks)]
        if masks and extra:
            masks = [self._call(vocab.PAD, *masks, pad=(0, extra))]
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
