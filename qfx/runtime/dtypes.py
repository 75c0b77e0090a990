"""The one float dtype that quantized models compute in, and what to say of the others.

Scales, and what kernels hand out, are float32: quantized values turned into half would be rounded
again by as much as they were quantized by, and kernels take no other dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qfx.errors import BackendError, ConfigError
from qfx.graph import meta

COMPUTED_IN = torch.float32


def probe_conversion(fn: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What ``fn``, as given to ``nn.Module._apply``, makes of a tensor; None where it raises."""
    try:
        return fn(torch.empty(0, dtype=COMPUTED_IN))
    except Exception:  # a device that is not even there
        return None


def refuse_conversion(made: Tensor | None, kind: str) -> None:
    """BackendError if a conversion ``made`` tensors of another dtype, for a ``kind`` of model."""
    if made is None or made.dtype == COMPUTED_IN:
        return
    raise BackendError(
        f"A {kind} model computes in {COMPUTED_IN} and cannot be turned into {made.dtype}. Keep it "
        f"as it is, give it {COMPUTED_IN} inputs, and convert what it returns."
    )


def explain_dtypes(
    graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> None:
    """ConfigError from ``error`` if the model was called with float dtypes it was not made for."""
    odd = list(_odd_inputs(graph, args, kwargs))
    if odd:
        raise ConfigError(
            f"the quantized model was called with {'; '.join(odd)}. Convert the inputs, as in "
            f"x.to({COMPUTED_IN})."
        ) from error


def _odd_inputs(graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str]:
    placeholders = {str(n.target): n for n in graph.nodes if n.op == "placeholder"}
    given = {**dict(zip(placeholders, args, strict=False)), **kwargs}
    for name, value in given.items():
        if name not in placeholders:
            continue
        known = {info.dtype for info in meta.float_tensors(meta.value_of(placeholders[name]))}
        tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
        found = {t.dtype for t in tensors if t.dtype.is_floating_point}
        if known and found - known:
            yield f"{name} in {_names(found - known)}, and was made for {_names(known)}"


def _names(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(map(str, dtypes)))
