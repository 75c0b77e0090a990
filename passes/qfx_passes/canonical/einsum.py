"""Sums of products in the notation of ``einsum``, as matmuls between shapes.

Indices of two operands are of five kinds: *batch* (both operands and the result have them), *rows*
(the left operand and the result), *columns* (the right operand and the result), *summed* (both
operands), and those of one operand alone, which are summed up beforehand:

    left -> (batch, rows, summed)   right -> (batch, summed, columns)   y = left @ right
    y of (batch, rows, columns) -> the result

Of more operands the first two are multiplied, then that by the third, as torch does; what others
or the result have is kept. Where nothing is summed it is a product of aligned tensors. Where one
operand is constant and there is no batch it is a linear layer, whose weight is that constant,
(columns, summed): arranged by constant folding, or by ARRANGE where it is trained.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Term:
    """An operand, and an index for each of its dims."""

    node: fx.Node
    indices: str

    def size(self, index: str) -> int:
        info = meta.tensor_info(self.node)
        assert info is not None
        return info.shape[self.indices.index(index)]


def expand_einsum(
    node: fx.Node, args: tuple[object, ...], rewriter: Rewriter, *, trainable: bool
) -> fx.Node | Mismatch:
    """What replaces the call of einsum; a Mismatch leaves it as it was written."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or not operands:
        return Mismatch("einsum of a form that is no matmul")
    read = _read(equation.replace(" ", ""), operands)
    if isinstance(read, Mismatch):
        return read
    terms, result = read
    writer = _Writer(node, rewriter)
    others = [result + "".join(t.indices for t in terms if t is not each) for each in terms]
    first, *rest = [writer.summed_up(t, kept) for t, kept in zip(terms, others, strict=True)]
    if not rest:
        return writer.ordered(first, result)
    for at, other in enumerate(rest, 1):
        wanted = result + "".join(term.indices for term in rest[at:])
        found = dict.fromkeys(c for c in first.indices + other.indices if c in wanted)
        indices = result if at == len(rest) else "".join(found)
        first = Term(writer.product(first, other, indices, trainable=trainable), indices)
    return first.node


def _read(equation: str, operands: list[Any]) -> tuple[list[Term], str] | Mismatch:
    """The terms of an equation and the indices of its result, dots as indices of their own."""
    written, arrow, result = equation.partition("->")
    parts = written.split(",")
    infos = [meta.tensor_info(o) if isinstance(o, fx.Node) else None for o in operands]
    if len(parts) != len(operands) or any(info is None for info in infos):
        return Mismatch("einsum {0} of operands of unknown rank", equation)
    free = [letter for letter in string.ascii_letters if letter not in equation]
    ranks = [len(info.shape) for info in infos if info is not None]
    missing = [r - len(p.replace("...", "")) for r, p in zip(ranks, parts, strict=True)]
    dots = max((m for m, p in zip(missing, parts, strict=True) if "..." in p), default=0)
    if dots > len(free):
        return Mismatch("einsum {0} of too many dims", equation)
    names = "".join(free[:dots])
    parts = [p.replace("...", names[dots - m :]) for p, m in zip(parts, missing, strict=True)]
    if not arrow:
        letters = "".join(parts)
        result = names + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1 and c not in names)
        )
    result = result.replace("...", names)
    if any(len(set(p)) < len(p) for p in parts):
        return Mismatch("einsum {0} takes a diagonal", equation)
    terms = [Term(o, p) for o, p in zip(operands, parts, strict=True)]
    if any(len(t.indices) != rank for t, rank in zip(terms, ranks, strict=True)):
        return Mismatch("einsum {0} of operands of other ranks", equation)
    sizes: dict[str, set[int]] = {}
    for term in terms:
        for index in term.indices:
            sizes.setdefault(index, set()).add(term.size(index))
    if any(len(found) > 1 for found in sizes.values()):
        return Mismatch("einsum {0} broadcasts", equation)
    if not set(result) <= set("".join(parts)):
        return Mismatch("einsum {0} of a form that is no matmul", equation)
    return terms, result


@dataclass(frozen=True)
class _Writer:
    """Writes the nodes."""

    node: fx.Node
    rewriter: Rewriter

    def product(self, left: Term, right: Term, result: str, *, trainable: bool) -> fx.Node:
        """One product of two terms, in the order of ``result``."""
        if left.node.op == "get_attr" and right.node.op != "get_attr":
            left, right = right, left
        summed = [c for c in left.indices if c in right.indices and c not in result]
        if not summed:
            pair = (self.aligned(left, result), self.aligned(right, result))
            return self._call(vocab.MUL, *pair)
        batch = [c for c in result if c in left.indices and c in right.indices]
        rows = [c for c in left.indices if c in result and c not in batch]
        columns = [c for c in right.indices if c in result and c not in batch]
        constant = right.node.op == "get_attr" and not batch and bool(columns)
        first = self._merged(left, batch, rows if batch else None, rows, summed)
        if constant:
            weight = self._weight(right, columns, summed, trainable=trainable)
            made = self._call(vocab.LINEAR, first, weight)
        else:
            second = self._merged(right, batch, summed, summed, columns)
            if not columns:
                second = self._call(vocab.UNSQUEEZE, second, dim=-1)
            if not rows:
                first = self._call(vocab.UNSQUEEZE, first, dim=-2)
            made = self._call(vocab.MATMUL, first, second)
            made = made if columns else self._call(vocab.SQUEEZE, made, dim=-1)
            made = made if rows else self._call(vocab.SQUEEZE, made, dim=-2 if columns else -1)
        made = self._split(made, right, columns, -1)
        if batch:
            made = self._split(made, left, rows, len(batch))
        return self.ordered(Term(made, "".join((*batch, *rows, *columns))), result)

    def _weight(
        self, term: Term, columns: list[str], summed: list[str], *, trainable: bool
    ) -> fx.Node:
        """A constant as (columns, summed)."""
        if not trainable:
            return self._merged(term, [], columns, columns, summed)
        dims = tuple(map(term.indices.index, (*columns, *summed)))
        if dims == (0, 1):
            return term.node
        return self._call(vocab.ARRANGE, term.node, dims=dims, leading=len(columns))

    def summed_up(self, term: Term, kept: str) -> Term:
        """``term`` without the dims that nothing else has."""
        alone = tuple(i for i, c in enumerate(term.indices) if c not in kept)
        if not alone:
            return term
        dim = alone if len(alone) > 1 else alone[0]
        left = "".join(c for c in term.indices if c in kept)
        return Term(self._call(vocab.SUM, term.node, dim=dim), left)

    def ordered(self, term: Term, wanted: str) -> fx.Node:
        """The tensor of ``term`` with its dims in the order ``wanted``."""
        order = tuple(term.indices.index(c) for c in wanted)
        if order == tuple(range(len(order))):
            return term.node
        if order[:-2] == tuple(range(len(order) - 2)):
            return self._call(vocab.TRANSPOSE, term.node, dim0=-2, dim1=-1)
        return self._call(vocab.PERMUTE, term.node, dims=order)

    def aligned(self, term: Term, result: str) -> fx.Node:
        """The tensor of ``term``, with a dim of 1 for each index of ``result`` that it lacks."""
        made = self.ordered(term, "".join(c for c in result if c in term.indices))
        for dim, index in enumerate(result):
            if index not in term.indices:
                made = self._call(vocab.UNSQUEEZE, made, dim=dim)
        return made

    def _merged(
        self, term: Term, batch: list[str], merged: list[str] | None, middle: list[str],
        last: list[str],
    ) -> fx.Node:  # fmt: skip
        """``term`` as (batch, middle, last): the last are made one, the middle if ``merged``."""
        made = self.ordered(term, "".join((*batch, *middle, *last)))
        if len(last) > 1:
            made = self._call(vocab.FLATTEN, made, start_dim=-len(last))
        if merged is not None and len(middle) > 1:
            dims = {"start_dim": len(batch), "end_dim": len(batch) + len(middle) - 1}
            made = self._call(vocab.FLATTEN, made, **dims)
        return made

    def _split(self, made: fx.Node, term: Term, indices: list[str], dim: int) -> fx.Node:
        """``made`` with a dim for each of ``indices`` where they are merged in one."""
        if len(indices) < 2:
            return made
        sizes = tuple(self._size(term, index) for index in indices)
        return self._call(vocab.UNFLATTEN, made, dim=dim, sizes=sizes)

    def _size(self, term: Term, index: str) -> Any:
        if term.node.op == "get_attr":
            return term.size(index)
        return self._call(vocab.SIZE, term.node, dim=term.indices.index(index))

    def _call(self, op: vocab.OpDef, *operands: Any, **attributes: Any) -> fx.Node:
        return self.rewriter.call(op, *operands, origins=(self.node,), **attributes)
