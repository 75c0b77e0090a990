"""What two models hold in the same places, and how it differs: shapes, dtypes, contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, fx

from qfx.graph.text import dtype_text
from qfx.history.record import NodeRecord
from qfx.history.snapshot import Snapshot


class OtherTensor(NamedTuple):
    """A parameter or buffer that differs.

    Attributes:
        name: what both models call it; ``0_bias -> 0_bias_1`` where they call it otherwise.
        how: ``f32[4,4] -> f32[6,4]``, or ``3 of 16 values``.
    """

    name: str
    how: str


@singledispatch
def with_open_weights(module: fx.GraphModule) -> fx.GraphModule:
    """What holds the contents of ``module`` openly: another graph, where kernels have packed them.

    Kinds of models that have one register it here.
    """
    return module


def other_tensors(
    a: fx.GraphModule, b: fx.GraphModule, places: Iterable[tuple[str, str]]
) -> Iterator[OtherTensor]:
    """What both hold and is not equal; NaN equals NaN.

    Args:
        a: a live model.
        b: another.
        places: names in ``a`` and in ``b`` of what the same operations of both read.
    """
    mine, theirs = dict(_held(a)), dict(_held(b))
    read = {pair for pair in places if pair[0] in mine and pair[1] in theirs}
    taken = {name for name, _ in read}
    alike = {(name, name) for name in mine if name in theirs and name not in taken}
    order = {name: position for position, name in enumerate(mine)}
    for name, other in sorted(read | alike, key=lambda pair: (order[pair[0]], pair[1])):
        how = _difference(mine[name], theirs[other])
        if how:
            yield OtherTensor(name if name == other else f"{name} -> {other}", how)


def constants_in_place(
    before: Snapshot, after: Snapshot, pairs: Mapping[str, NodeRecord]
) -> Iterator[tuple[str, str]]:
    """Names, before and after, of the constants that operations read which are the same.

    Args:
        before: the one graph.
        after: the other.
        pairs: for the name of each node of ``after`` the node of ``before`` that it was.
    """
    old, new = ({r.name: r for r in view if r.op == "get_attr"} for view in (before, after))
    for record in after:
        was = pairs.get(record.name)
        if was is None or was.target != record.target or len(was.inputs) != len(record.inputs):
            continue
        for first, second in zip(was.inputs, record.inputs, strict=True):
            if first in old and second in new:
                yield old[first].path, new[second].path


def _held(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _difference(a: Tensor, b: Tensor) -> str:
    if a is b:
        return ""
    before, after = (f"{dtype_text(t.dtype)}{str(list(t.shape)).replace(' ', '')}" for t in (a, b))
    if before != after:
        return f"{before} -> {after}"
    if not (a.layout is b.layout is torch.strided) or a.is_quantized or a.device != b.device:
        return ""  # what only kernels understand
    same = (a == b) | ((a != a) & (b != b))
    off = a.numel() - int(same.sum())
    return f"{off:,} of {a.numel():,} values" if off else ""
