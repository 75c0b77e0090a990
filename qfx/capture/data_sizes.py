"""Where a graph is bound to sizes that the contents of tensors decide.

How many boxes a detector keeps is such a size. A graph that has a guard on one refuses the next
image, so that such a model is captured in regions where that is allowed; tracing ends there then.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from qfx.errors import CaptureError
from qfx.graph import meta
from qfx.torch_private import OVERLOAD, PACKET
from qfx.vocab import GUARD


class DecidedByDataError(CaptureError):
    """A graph would be bound to such a size; not raised to users.

    Args:
        where: "file.py:12".
        branches: whether it is a branch, not a number that Python goes on with.
    """

    def __init__(self, where: str, *, branches: bool) -> None:
        super().__init__(
            f"at {where} it decides by how many elements of a tensor fulfil a condition"
        )
        self.branches = branches


_DATA_SIZED = frozenset(
    ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "nms", "bincount")
)
_SIZES = frozenset(("shape", "size", "numel", "nelement", "len", "tolist"))


class DataSizes:
    """Follows such sizes through the nodes of a graph, as they are recorded."""

    def __init__(self) -> None:
        self._sized: set[fx.Node] = set()  # tensors whose shape depends on data
        self._told: set[fx.Node] = set()  # numbers and shapes that tell of it

    def are_guarded(self, node: fx.Node) -> bool:
        """Whether ``node``, the next of the graph, is a guard on one."""
        read = node.all_input_nodes
        if any(each in self._told for each in read):
            self._told.add(node)
            return node.target is GUARD
        if any(each in self._sized for each in read):
            (self._told if _name(node) in _SIZES else self._sized).add(node)
        elif _makes(node):
            self._sized.add(node)
        return False


def _makes(node: fx.Node) -> bool:
    """Whether the contents of what ``node`` reads decide the shape of what it yields."""
    if not node.op.startswith("call_"):
        return False
    name = _name(node)
    if name == "where":
        return len(node.args) + len(node.kwargs) == 1
    if name == "repeat_interleave":
        counts = [*node.args[1:2], node.kwargs.get("repeats")]
        return any(isinstance(each, fx.Node) and meta.tensor_info(each) for each in counts)
    if node.target is operator.getitem:
        return any(_is_mask(each) for each in _indices(node.args[1]))
    tags = getattr(node.target, "tags", ())
    return name in _DATA_SIZED or torch.Tag.dynamic_output_shape in tags


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    if node.target is getattr:
        return str(node.args[1])
    if isinstance(node.target, (OVERLOAD, PACKET)):
        return str(node.target).split(".")[1]
    return str(getattr(node.target, "__name__", ""))


def _indices(index: object) -> Iterator[object]:
    yield from index if isinstance(index, (tuple, list)) else (index,)


def _is_mask(index: object) -> bool:
    info = meta.tensor_info(index) if isinstance(index, fx.Node) else None
    return info is not None and info.dtype in (torch.bool, torch.uint8)
