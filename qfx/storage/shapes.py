"""What nodes yield, tensors of known shape or nests of them, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qfx.errors import FormatError
from qfx.graph import meta
from qfx.storage import limits
from qfx.storage.fields import Json, sizes
from qfx.storage.values import DTYPE_NAMES


def write_shape(value: meta.Value) -> Json:
    """What a node yields: ``["float32", 1, 3, 224, 224]``, or a nest of that."""
    if isinstance(value, meta.TensorInfo):
        return [str(value.dtype).removeprefix("torch."), *map(int, value.shape)]
    if isinstance(value, tuple):
        return {"tuple": [write_shape(item) for item in value]}
    if isinstance(value, list):
        return {"list": [write_shape(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[key, write_shape(item)] for key, item in value.items()]}
    return None


def read_shape(value: object, place: str, depth: int = 0) -> meta.Value:
    """What :func:`write_shape` wrote."""
    if value is None:
        return None
    if depth > limits.DEPTH:
        raise FormatError(f"{place} is nested more than {limits.DEPTH} deep")
    if type(value) is list and value and type(value[0]) is str:
        dtype = DTYPE_NAMES.get(value[0])
        if dtype is None:
            raise FormatError(f"{place}: this PyTorch has no dtype {value[0][:40]!r}")
        return meta.TensorInfo(sizes(value[1:], place), dtype)
    kind, items = next(iter(value.items())) if type(value) is dict and len(value) == 1 else ("", 0)
    if type(items) is not list:
        raise FormatError(f"{place} says nothing of a value")
    read: Callable[[Any], meta.Value] = lambda item: read_shape(item, place, depth + 1)  # noqa: E731
    if kind == "tuple":
        return tuple([read(item) for item in items])
    if kind == "list":
        return [read(item) for item in items]
    if kind != "dict" or not all(_is_pair(item) for item in items):
        raise FormatError(f"{place} says nothing of a value")
    return {key: read(item) for key, item in items}


def _is_pair(item: object) -> bool:
    return type(item) is list and len(item) == 2 and type(item[0]) is str
