"""Multiply-accumulates of what stays as it was written: opaque modules and untranslated calls.

What there is no formula for in :mod:`qfx.graph.macs` is run on the meta device, where tensors have
shapes and no values, and PyTorch's own flop counter adds up the matrix products inside; two flops
are one multiply-accumulate. Hooks do not run. Where that fails (Python that looks at values, an
operator without a meta kernel or of another library), the work is unknown, and said to be.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from qfx.graph import meta
from qfx.graph.containers import makes_container
from qfx.graph.copying import deep_copied, side_effects_undone
from qfx.graph.inference import Inference, UnknownValue
from qfx.graph.known_calls import makes_numbers
from qfx.graph.macs import macs
from qfx.torch_private import (
    PACKERS,
    TRILINEAR,
    DispatchMode,
    compiler_resting,
    grouped_operators,
    is_grouped_product,
    pytree,
)
from qfx.vocab import OpDef

_KNOWN = ("aten", "prim", "prims", "prim_ops", "higher_order")
_IDLE = (getattr, operator.getitem, "as_strided", *PACKERS)
"""What multiplies nothing; the last three can't always be run without values."""


def opaque_macs(
    graph_module: fx.GraphModule, among: Iterable[fx.Node] | None = None
) -> dict[fx.Node, int | None]:
    """Multiply-accumulates of the nodes that are no canonical operations; None where unknown."""
    asked = graph_module.graph.nodes if among is None else among
    nodes = [node for node in asked if _is_opaque(node)]
    if not nodes:
        return {}
    inference = Inference(graph_module)
    found = {node: _known(node, graph_module) for node in nodes}
    with inference.undisturbed():
        return {n: _work(n, inference) if found[n] is None else found[n] for n in nodes}


def macs_of(node: fx.Node) -> int:
    """Multiply-accumulates of one call of ``node``, whether it is canonical or as it was written.

    0 where it multiplies nothing, and where its work is unknown.
    """
    owner = node.graph.owning_module
    if owner is None or not _is_opaque(node):
        return macs(node)
    return opaque_macs(owner, (node,))[node] or 0


def called_macs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Multiply-accumulates of one call of a module, which runs; None where they are unknown."""
    try:
        with side_effects_undone(module), _counted() as counter:
            deep_copied(module)(*args, **kwargs)
    except Exception:
        return None
    return counter.get_total_flops() // 2


def macs_of_run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    paths: Iterable[str],
    name: Callable[[str, tuple[Any, ...], Mapping[str, Any]], str],
) -> tuple[int, Counter[str]] | None:
    """Multiply-accumulates of one run of a copy of ``model``; None where they are unknown.

    Args:
        model: not changed.
        args: what it is called with.
        kwargs: the same by keyword.
        paths: modules whose calls are counted apart.
        name: under what a call of one of them counts, by its path and arguments.

    Returns:
        Those of all, and those of all calls of a name.
    """
    root, inside = deep_copied(model), Counter[str]()
    root.requires_grad_(False)  # the counter hooks gradients
    try:
        with side_effects_undone(model), _counted() as counter:
            for path in paths:
                _watch(root.get_submodule(path), partial(name, path), counter, inside)
            root(*pytree.tree_map(_copied, args), **pytree.tree_map(_copied, dict(kwargs)))
    except Exception:  # whatever the model raises under a counter
        return None
    return counter.get_total_flops() // 2, inside


def _watch(
    module: nn.Module, name: Callable[..., str], counter: FlopCounterMode, inside: Counter[str]
) -> None:
    calls: list[tuple[str, int]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((name(args, kwargs), counter.get_total_flops()))

    def after(*_: object) -> None:
        called, start = calls.pop()
        inside[called] += (counter.get_total_flops() - start) // 2

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)


def _copied(leaf: object) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _is_opaque(node: fx.Node) -> bool:
    if not node.op.startswith("call_") or isinstance(node.target, OpDef):
        return False
    if node.target in _IDLE or makes_container(node) or makes_numbers(node):
        return False
    return meta.is_float_value(node)


def _known(node: fx.Node, graph_module: fx.GraphModule) -> int | None:
    """The multiply-accumulates of what can be told without running it."""
    if is_grouped_product(node.target):
        return _grouped(node)
    return _recurrent(node, graph_module)


def _grouped(node: fx.Node) -> int | None:
    """Those of rows (rows, in) that are multiplied with matrices (groups, in, out), one each."""
    rows, matrices = (_data(operand) for operand in node.args[:2])
    if rows is None or matrices is None or (len(rows.shape), len(matrices.shape)) != (2, 3):
        return None
    return rows.numel * int(matrices.shape[2])


def _recurrent(node: fx.Node, graph_module: fx.GraphModule) -> int | None:
    """Those of a recurrent layer: each step, slow to run, multiplies by every weight once."""
    if node.op != "call_module":
        return None
    module = graph_module.get_submodule(str(node.target))
    read = _data(node.args[0] if node.args else node.kwargs.get("input"))
    if not isinstance(module, nn.RNNBase) or read is None:
        return None
    weights = (p for p in module.parameters() if p.dim() == 2)
    return read.numel // module.input_size * sum(p.numel() for p in weights)


def _data(operand: object) -> meta.TensorInfo | None:
    """The tensor that an operand is, or that it holds first: the data of a PackedSequence."""
    value = meta.value_of(operand) if isinstance(operand, fx.Node) else operand
    if isinstance(value, tuple) and value:
        return _data(value[0])
    return value if isinstance(value, meta.TensorInfo) else None


def _work(node: fx.Node, inference: Inference) -> int | None:
    try:
        with _counted() as counter:
            inference.run(node)
    except Exception:
        return None
    return counter.get_total_flops() // 2


# -- counting -------------------------------------------------------------------------------------
class _OwnOperatorsOnly(DispatchMode):  # type: ignore[misc]
    """Refuses operators that PyTorch's counter has never heard of."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in _KNOWN and not is_grouped_product(func):
            raise UnknownValue(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def _counted() -> Iterator[FlopCounterMode]:
    aten = torch.ops.aten
    more: dict[Any, Any] = {
        TRILINEAR: _trilinear_flops,
        aten.addbmm: lambda _, first, second, **__: 2 * prod(first) * second[-1],
        aten.addmv: lambda _, matrix, __, **___: 2 * prod(matrix),
        aten.mv: lambda matrix, _, **__: 2 * prod(matrix),
        aten.dot: lambda vector, _, **__: 2 * prod(vector),
        **dict.fromkeys(grouped_operators(), _grouped_flops),
    }
    refusing = _OwnOperatorsOnly()
    with (
        compiler_resting(),
        FlopCounterMode(display=False, custom_mapping=more) as counter,
        refusing,
    ):
        yield counter


def _grouped_flops(rows: Any, matrices: Any, *_: Any, **__: Any) -> int:
    """The flops of groups of rows, each multiplied with one of several matrices."""
    found: int = 2 * prod(rows) * matrices[-1]
    return found


def _trilinear_flops(*operands: Any, **_: Any) -> int:
    """The flops of ``nn.Bilinear``: its operands, expanded by dims of size one, multiplied."""
    pairs = zip(operands[:3], operands[3:6], strict=True)
    sizes = zip(*(_unsqueezed(*pair) for pair in pairs), strict=True)
    return 2 * prod(int(max(each)) for each in sizes)


def _unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    sizes = list(shape)
    for axis in axes:
        sizes.insert(axis, 1)
    return tuple(sizes)
