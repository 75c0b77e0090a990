"""What to say when a quantized model fails on inputs that it was not made for.

Nothing is looked at before a call fails, so calls that work pay nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.runtime.dtypes import COMPUTED_IN


def explain_failure(
    graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> None:
    """ConfigError from ``error`` if the model was called with inputs that it was not made for."""
    absent = list(_absent(graph, args, kwargs))
    if absent:
        raise ConfigError(
            f"the quantized model was called without {', '.join(absent)}, and was captured with a "
            "tensor there. Give one, or capture the model anew without."
        ) from error
    inputs = list(_inputs(graph, args, kwargs))
    odd = [text for name, value, known in inputs for text in _odd_dtypes(name, value, known)]
    if odd:
        raise ConfigError(
            f"the quantized model was called with {'; '.join(odd)}. Convert the inputs, as in "
            f"x.to({COMPUTED_IN})."
        ) from error
    odd = [text for name, value, known in inputs for text in _odd_shapes(name, value, known)]
    if odd:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the quantized model was called with {'; '.join(odd)}, and failed: {first}\n"
            "Batch and spatial sizes may differ where the float model allows it; other sizes not."
        ) from error


def _inputs(
    graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, object, meta.Value]]:
    """Name, value, and what was captured, of each input."""
    placeholders = {str(n.target): n for n in graph.nodes if n.op == "placeholder"}
    given = {**dict(zip(placeholders, args, strict=False)), **kwargs}
    for name, value in given.items():
        if name in placeholders:
            yield name, value, meta.value_of(placeholders[name])


def _absent(graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """The optional inputs that were tensors in the examples, and are None or left out."""
    given = {name: value for name, value, _ in _inputs(graph, args, kwargs)}
    for node in graph.nodes:
        optional = node.op == "placeholder" and bool(node.args)
        if optional and meta.tensor_info(node) is not None and given.get(node.target) is None:
            yield str(node.target)


def _odd_dtypes(name: str, value: object, captured: meta.Value) -> Iterator[str]:
    leaves = pytree.tree_leaves(captured)
    known = {info.dtype for info in leaves if isinstance(info, meta.TensorInfo)}
    tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
    found = {t.dtype for t in tensors}
    if meta.float_tensors(captured) and found - known:
        yield f"{name} in {_names(found - known)}, and was made for {_names(known)}"


def _odd_shapes(name: str, value: object, captured: meta.Value) -> Iterator[str]:
    if not isinstance(value, Tensor) or not isinstance(captured, meta.TensorInfo):
        return
    if value.dim() != len(captured.shape) or tuple(value.shape[1:]) != captured.shape[1:]:
        yield f"{name} of shape {list(value.shape)}, and was made for {list(captured.shape)}"


def _names(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(map(str, dtypes)))
