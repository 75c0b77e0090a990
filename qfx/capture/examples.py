"""What the values of the example inputs tell while a model is traced."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_aggregate

from qfx.capture.proxy import ValueProxy
from qfx.graph.layouts import are_equal, computable
from qfx.private_attributes import tensors_held
from qfx.torch_private import pytree


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_QUERIES = _words(
    "shape ndim dtype device size dim ndimension numel nelement stride is_floating_point "
    "is_complex is_contiguous is_cpu is_cuda is_mps is_xpu is_xla is_hpu is_mtia "
    "element_size nbytes itemsize get_device storage_offset type len is_tensor is_signed "
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_tensor"
)
"""Functions and attributes whose result tells nothing of the contents of their tensor."""


_LAYOUTS = frozenset(("is_contiguous", "stride", "storage_offset"))

_RANKS = frozenset(("ndim", "dim", "ndimension", "len"))

_KEEPING_LENGTHS = frozenset(("getitem", "add", "mul"))
"""Functions of containers that yield as many elements for as many elements."""

_LIKE = frozenset(("to", "type_as", "expand_as", "view_as", "reshape_as", "is_same_size"))
"""Methods whose other arguments only tell a dtype, a device or a shape."""


def proxies_in(value: Any) -> list[ValueProxy]:
    """The proxies in a nest of arguments."""
    found: list[ValueProxy] = []

    def visit(leaf: object) -> Any:
        if type(leaf) is ValueProxy:
            found.append(leaf)
        return leaf

    map_aggregate(value, visit)
    return found


def example_of(value: object) -> Any:
    """What a proxy stands for; anything else is itself."""
    return value.example if type(value) is ValueProxy else value


_SIZES = _words("shape size ndim dim ndimension numel nelement len")


def constant_size(
    kind: str, target: object, args: tuple[object, ...], kwargs: dict[str, Any]
) -> Any:
    """The size or rank that a node would ask of a constant tensor; None if it asks another thing.

    Parameters keep their shapes: what they tell needs no node, and settles what depends on it.
    """
    asked = args[0] if args else None
    if type(asked) is not ValueProxy or asked.from_input or proxies_in((args[1:], kwargs)):
        return None
    name = _asked(kind, target, args)
    if name not in _SIZES or not isinstance(asked.example, torch.Tensor):
        return None
    if name == "len":
        return len(asked.example)
    found = getattr(asked.example, name)
    return found(*args[1:], **kwargs) if kind == "call_method" else found


def tells_of_size(
    node: fx.Node, args: tuple[Any, ...], operands: list[ValueProxy], example: object
) -> bool:
    """For a number, whether it tells more than ranks; for tensors, whether sizes make their rank.

    For a container of numbers, whether sizes make its length. ``squeeze`` drops a dimension only
    if its size is one.
    """
    name = _name(node, args)
    if _holds_tensors(example):
        squeezes = name in ("squeeze", "squeeze_")
        return squeezes or any(o.from_size for o in operands if not _is_number(o.example))
    if name in _RANKS or (name in ("shape", "size") and isinstance(example, torch.Size)):
        return args[0].from_size or (name == "len" and not isinstance(args[0].example, torch.Size))
    if name == "Size" and isinstance(example, torch.Size):  # of a list that Python made, or of one
        return type(args[0]) is ValueProxy and args[0].from_size
    if isinstance(example, (tuple, list)) and name in _KEEPING_LENGTHS:
        return any(each.from_size for each in operands)
    if any(not _is_number(o.example) for o in operands):
        return True
    return any(each.from_size for each in operands)


def _is_number(value: object) -> bool:
    return not isinstance(value, (torch.Tensor, tuple, list))


def _holds_tensors(value: object) -> bool:
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return any(map(_holds_tensors, value))
    return isinstance(value, torch.Tensor)


def _name(node: fx.Node, args: tuple[object, ...]) -> str:
    return _asked(node.op, node.target, args)


def _asked(kind: str, target: object, args: tuple[object, ...]) -> str:
    """The function, method or attribute that a node reads."""
    if target is getattr:
        return str(args[1])
    if kind == "call_module":
        return ""
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))


def tells_of_data(node: fx.Node, args: tuple[object, ...], operands: list[ValueProxy]) -> bool:
    """Whether the result of ``node`` depends on the contents of input tensors."""
    name = _name(node, args)
    if name in _QUERIES:
        operands = [each for each in operands if each is not args[0]]
    if name in _LIKE:
        operands = [each for each in operands if each is args[0]]
    return any(each.from_data for each in operands)


def tells_of_layout(
    node: fx.Node, args: tuple[object, ...], operands: list[ValueProxy], example: object
) -> bool:
    """Whether a number says how tensors lie in memory, which is not what they are."""
    if _name(node, args) in _LAYOUTS:
        return True
    if _holds_tensors(example) or _name(node, args) == "len":
        return False
    return any(each.from_layout for each in operands)


def attribute_of(root: nn.Module, name: str) -> Any:
    """The parameter, buffer or attribute ``name`` of ``root``, unseen by a tracer."""
    path, _, attribute = name.rpartition(".")
    module = root.get_submodule(path)
    for registry in tensors_held(module):
        if attribute in registry:
            return registry[attribute]
    return getattr(module, attribute)


def opened(result: Any, *, inside: bool = False) -> Any:
    """``result`` with tuples in place of what modules return, so that its structure shows."""
    if type(result) is ValueProxy:
        is_tuple = type(result.example) is tuple and (inside or _has_fixed_length(result))
        return tuple(opened(r, inside=True) for r in result) if is_tuple else result
    if type(result) in (tuple, list):
        return type(result)(opened(r) for r in result)
    if type(result) is dict:
        return {key: opened(value) for key, value in result.items()}
    return result


def _has_fixed_length(result: ValueProxy) -> bool:
    """Whether a call yields so many values by its nature, not by the sizes of its operands."""
    node = result.node
    return node.op == "call_module" or node.target is F.multi_head_attention_forward


def alike(first: object, second: object, *, to_the_bit: bool = False) -> bool:
    """Whether two results have the same structure and, up to rounding or not, the same values."""
    ours, our_form = pytree.tree_flatten(first)
    theirs, their_form = pytree.tree_flatten(second)
    # A class that forward makes is another in every call, and called the same.
    same = our_form == their_form or str(our_form) == str(their_form)
    tolerance = 0.0 if to_the_bit else 1e-2
    return same and all(_leaves_alike(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))


def _leaves_alike(first: object, second: object, tolerance: float) -> bool:
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return _class_name(type(first)) == _class_name(type(second))
    if first.shape != second.shape or first.dtype != second.dtype or first.layout != second.layout:
        return False
    first, second = computable(first.detach()), computable(second.detach())
    if not first.dtype.is_floating_point:
        return are_equal(first, second)
    finite = second[second.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
