"""What to say when a quantized model is called with inputs that it was not made for.

Next to nothing is looked at before a call fails: only the dtypes of what is rounded, of which a
float model takes one and rounding takes any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, fx

from qfx.errors import ConfigError, QfxError
from qfx.graph import meta
from qfx.runtime.dtypes import COMPUTED_IN, HALVES
from qfx.torch_private import pytree
from qfx.vocab import DYNAMIC_QPARAMS, QUANTIZE, Kind, OpDef, is_op


class Rounded(NamedTuple):
    """An input that is quantized as it comes: a float model would refuse it in other dtypes."""

    position: int
    name: str
    captured: meta.Value
    dtypes: tuple[torch.dtype, ...]


_Shaped = tuple[str, Tensor, meta.TensorInfo]


def rounded_inputs(graph: fx.Graph) -> tuple[Rounded, ...]:
    """The inputs that ``graph`` quantizes before it computes anything of them."""
    found = []
    for position, node in enumerate(n for n in graph.nodes if n.op == "placeholder"):
        captured = meta.value_of(node)
        if meta.float_tensors(captured) and _is_rounded(node):
            found.append(Rounded(position, str(node.target), captured, tuple(_dtypes(captured))))
    return tuple(found)


def _is_rounded(node: fx.Node) -> bool:
    """Whether ``node``, or what is only moved of it, is quantized."""
    moved = [node]  # grows
    seen = {node}
    for each in moved:
        for user in each.users:
            if is_op(user, QUANTIZE, DYNAMIC_QPARAMS):
                return True
            moves = isinstance(user.target, OpDef) and user.target.kind is Kind.SHAPE
            if moves and user not in seen:
                seen.add(user)
                moved.append(user)
    return False


def refuse_dtypes(
    rounded: tuple[Rounded, ...], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> None:
    """ConfigError for inputs in a dtype that the float model does not take.

    Under autocast it takes halves.
    """
    for position, name, captured, dtypes in rounded:
        given = args[position] if position < len(args) else kwargs.get(name)
        if isinstance(given, Tensor):
            if given.dtype in dtypes:
                continue
            if given.dtype in HALVES and torch.is_autocast_enabled(given.device.type):
                continue
        elif not isinstance(given, (list, tuple, dict)):
            continue
        odd = list(_odd_dtypes(name, given, captured))
        if odd:
            raise ConfigError(_other_dtypes(odd))


def other_dtypes(graph: fx.Graph, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """Which arguments have other dtypes than ``graph`` was captured with; "" if none has."""
    inputs = _inputs(graph, args, kwargs)
    return "; ".join(text for each in inputs for text in _odd_dtypes(*each))


def explained(
    graph: fx.Graph, args: tuple[object, ...], kwargs: Mapping[str, object], error: Exception
) -> Exception:
    """``error``, or a ConfigError of it if the model was called with inputs it was not made for."""
    if isinstance(error, QfxError):
        return error
    try:
        explain_failure(graph, args, kwargs, error)
    except ConfigError as told:
        return told
    return error


def explain_failure(
    graph: fx.Graph, args: tuple[object, ...], kwargs: Mapping[str, object], error: Exception
) -> None:
    """ConfigError from ``error`` if the model was called with inputs that it was not made for."""
    absent = list(_absent(graph, args, kwargs))
    if absent:
        raise ConfigError(
            f"the quantized model was called without {', '.join(absent)}, and was captured with a "
            "tensor there. Give one, or capture the model anew without."
        ) from error
    inputs = list(_inputs(graph, args, kwargs))
    odd = [text for name, value, known in inputs for text in _no_tensors(name, value, known)]
    if odd:
        raise ConfigError(
            f"the quantized model was called with {'; '.join(odd)}. Give tensors, as "
            "torch.as_tensor(x) makes of arrays and numbers."
        ) from error
    odd = [text for name, value, known in inputs for text in _odd_dtypes(name, value, known)]
    if odd:
        raise ConfigError(_other_dtypes(odd)) from error
    shaped = [each for each in inputs if _are_tensors(each)]
    odd = [text for each in shaped for text in _odd_shapes(*each)] or _odd_batches(shaped)
    if odd:
        raise ConfigError(
            f"the quantized model was called with {'; '.join(odd)}, and failed{_reason(error)}\n"
            "Batch and spatial sizes may differ where the float model allows it; other sizes not."
        ) from error


def _other_dtypes(odd: list[str]) -> str:
    return (
        f"the quantized model was called with {'; '.join(odd)}. Convert the inputs, as in "
        f"x.to({COMPUTED_IN})."
    )


def _reason(error: Exception) -> str:
    """What the kernel said, unless it is oneDNN telling how to debug it."""
    said = str(error).strip().partition("\n")[0]
    return "." if "primitive descriptor" in said else f": {said}"


def _inputs(
    graph: fx.Graph, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Iterator[tuple[str, object, meta.Value]]:
    """Name, value, and what was captured, of each input."""
    placeholders = {str(n.target): n for n in graph.nodes if n.op == "placeholder"}
    given = {**dict(zip(placeholders, args, strict=False)), **kwargs}
    for name, value in given.items():
        if name in placeholders:
            yield name, value, meta.value_of(placeholders[name])


def _absent(
    graph: fx.Graph, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Iterator[str]:
    """The optional inputs that were tensors in the examples, and are None or left out."""
    given = {name: value for name, value, _ in _inputs(graph, args, kwargs)}
    for node in graph.nodes:
        optional = node.op == "placeholder" and bool(node.args)
        if optional and meta.tensor_info(node) is not None and given.get(node.target) is None:
            yield str(node.target)


def _no_tensors(name: str, value: object, captured: meta.Value) -> Iterator[str]:
    if isinstance(captured, meta.TensorInfo) and not isinstance(value, Tensor):
        kind = type(value)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        yield f"{name} as {module}{kind.__qualname__}, and was made for a tensor"
    elif isinstance(captured, (tuple, list)) and isinstance(value, (tuple, list)):
        for i, (inner, known) in enumerate(zip(value, captured, strict=False)):
            yield from _no_tensors(f"{name}[{i}]", inner, known)
    elif isinstance(captured, Mapping) and isinstance(value, Mapping):
        for key in captured.keys() & value.keys():
            yield from _no_tensors(f"{name}[{key!r}]", value[key], captured[key])


def _odd_dtypes(name: str, value: object, captured: meta.Value) -> Iterator[str]:
    known = _dtypes(captured)
    tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
    found = {t.dtype for t in tensors}
    if meta.float_tensors(captured) and found - known:
        yield f"{name} in {_names(found - known)}, and was made for {_names(known)}"


def _dtypes(captured: meta.Value) -> set[torch.dtype]:
    leaves = pytree.tree_leaves(captured)
    return {info.dtype for info in leaves if isinstance(info, meta.TensorInfo)}


def _are_tensors(given: tuple[str, object, meta.Value]) -> TypeGuard[_Shaped]:
    _, value, captured = given
    return isinstance(value, Tensor) and isinstance(captured, meta.TensorInfo)


def _odd_shapes(name: str, value: Tensor, captured: meta.TensorInfo) -> Iterator[str]:
    if value.dim() != len(captured.shape) or tuple(value.shape[1:]) != captured.shape[1:]:
        yield _shapes(name, value, captured)


def _odd_batches(shaped: list[_Shaped]) -> list[str]:
    """The inputs whose batch sizes differ, where all were captured with one."""
    batches = {(tuple(v.shape[:1]), tuple(known.shape[:1])) for _, v, known in shaped}
    if len(batches) < 2 or len({known for _, known in batches}) > 1:
        return []
    return [_shapes(*each) for each in shaped]


def _shapes(name: str, value: Tensor, captured: meta.TensorInfo) -> str:
    return f"{name} of shape {list(value.shape)}, and was made for {list(captured.shape)}"


def _names(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(map(str, dtypes)))
