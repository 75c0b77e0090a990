"""Multiply-accumulates of what stays as it was written: opaque modules and untranslated calls.

What there is no formula for in :mod:`qfx.graph.macs` is run on the meta device, where tensors have
shapes and no values, and PyTorch's own flop counter adds up the matrix products inside; two flops
are one multiply-accumulate. Hooks do not run. Where that fails (Python that looks at values, an
operator without a meta kernel or of another library), the work is unknown, and said to be.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from qfx.graph import meta
from qfx.graph.copying import side_effects_undone
from qfx.graph.leaves import clear_hooks
from qfx.graph.tracing import CAPTURE_LOCK
from qfx.vocab import OpDef

_KNOWN = ("aten", "prim", "prims", "prim_ops")
_IDLE = (getattr, operator.getitem)


class Unknown(Exception):  # noqa: N818 - an outcome, never raised to users
    """How much work something is can't be told without running it."""


def opaque_macs(graph_module: fx.GraphModule) -> dict[fx.Node, int | None]:
    """Multiply-accumulates of the nodes that are no canonical operations; None where unknown."""
    nodes = [node for node in graph_module.graph.nodes if _is_opaque(node)]
    if not nodes:
        return {}
    counting = _Counting(graph_module)
    with CAPTURE_LOCK, side_effects_undone(graph_module):
        return {node: counting.of(node) for node in nodes}


def _is_opaque(node: fx.Node) -> bool:
    if not node.op.startswith("call_") or isinstance(node.target, (OpDef, type)):
        return False
    return node.target not in _IDLE and meta.is_float_value(node)


class _Counting:
    """Runs single nodes on tensors without values."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._known: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> int | None:
        """The work of one node."""
        try:
            args, kwargs = map_arg((node.args, dict(node.kwargs)), self._stand_in)
            with _counted() as counter:
                self._called(node)(*args, **kwargs)
        except Exception:
            return None
        return counter.get_total_flops() // 2

    def _called(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return _valueless(self._graph_module.get_submodule(str(node.target)))
        if node.op == "call_method":
            return lambda receiver, *args, **kwargs: getattr(receiver, str(node.target))(
                *args, **kwargs
            )
        assert callable(node.target)
        return node.target

    def _stand_in(self, node: fx.Node) -> Any:
        """What the node yields, without the values of tensors."""
        if node not in self._known:
            self._known[node] = self._valueless_result(node)
        return self._known[node]

    def _valueless_result(self, node: fx.Node) -> Any:
        value = meta.value_of(node)
        if _is_known(value):
            return _empty(value)
        if node.op != "call_function" or not callable(node.target):
            raise Unknown(node.name)
        args, kwargs = map_arg((node.args, dict(node.kwargs)), self._stand_in)
        return node.target(*args, **kwargs)  # a number made of sizes


def _is_known(value: meta.Value) -> bool:
    """Whether a value holds tensors only, whose shapes are all there is to know."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_known, value))
    return isinstance(value, meta.TensorInfo)


def _empty(value: meta.Value) -> Any:
    if isinstance(value, meta.TensorInfo):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    assert isinstance(value, (tuple, list))
    return type(value)(map(_empty, value))


def _valueless(module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the meta device, without hooks."""
    memo: dict[int, Any] = {}
    for each in module.modules():
        for held in (vars(each), each._parameters, each._buffers):
            tensors = (value for value in held.values() if isinstance(value, torch.Tensor))
            memo.update((id(tensor), _without_values(tensor)) for tensor in tensors)
    copied = copy.deepcopy(module, memo)
    for each in copied.modules():
        clear_hooks(each)
    return copied


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


# -- counting -------------------------------------------------------------------------------------
class _OwnOperatorsOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operators that PyTorch's counter has never heard of."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in _KNOWN:
            raise Unknown(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def _counted() -> Iterator[FlopCounterMode]:
    aten = torch.ops.aten
    more = {
        aten._trilinear: _trilinear_flops,
        aten.addbmm: lambda _, first, second, **__: 2 * prod(first) * second[-1],
        aten.addmv: lambda _, matrix, __, **___: 2 * prod(matrix),
        aten.mv: lambda matrix, _, **__: 2 * prod(matrix),
        aten.dot: lambda vector, _, **__: 2 * prod(vector),
    }
    refusing = _OwnOperatorsOnly()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False, custom_mapping=more) as counter, refusing:
        yield counter


def _trilinear_flops(*operands: Any, **_: Any) -> int:
    """Of ``nn.Bilinear``: the three operands, expanded by dimensions of size one, multiplied."""
    pairs = zip(operands[:3], operands[3:6], strict=True)
    sizes = zip(*(_unsqueezed(*pair) for pair in pairs), strict=True)
    return 2 * prod(int(max(each)) for each in sizes)


def _unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    sizes = list(shape)
    for axis in axes:
        sizes.insert(axis, 1)
    return tuple(sizes)
