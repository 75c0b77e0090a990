"""Batches of what a user gives as data, as calls of the model.

A batch is a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
Elements beyond the number of example inputs are labels and are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qfx.errors import ConfigError, warn

Batch = tuple[tuple[Any, ...], dict[str, Any]]


def batches(data: object, positional: int, *, name: str = "calibration_data") -> Iterator[Batch]:
    """The batches of ``data`` as (args, kwargs), at most ``positional`` args each.

    Args:
        data: what the user gave.
        positional: how many positional arguments the model takes.
        name: what the user knows the data as.

    Raises:
        ConfigError: ``data`` is a tensor or no iterable, or a batch is of no known form.
    """
    if isinstance(data, Tensor):
        raise ConfigError(
            f"{name} is one tensor; it must be an iterable of batches. "
            f"Write {name}=[tensor] for a single batch."
        )
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise ConfigError(
            f"{name} is {type(data).__name__}; it must be an iterable of batches "
            "(a list or a DataLoader), each a tensor, a tuple of arguments or a dict of keywords."
            f"{_way_to_batches(data)}"
        )
    warned = False
    for number, item in enumerate(data):
        args, kwargs = _batch(item, f"batch {number} of {name}")
        if len(args) > positional and not kwargs:
            if not warned:
                warn(
                    f"the batches of {name} have {len(args)} elements and the model takes "
                    f"{positional}: the rest is taken for labels and dropped"
                )
            warned = True
            args = args[:positional]
        yield args, kwargs


def _batch(item: object, which: str) -> Batch:
    if isinstance(item, (Tensor, PackedSequence)):
        return (item,), {}
    if isinstance(item, Mapping):
        return (), {str(k): v for k, v in item.items()}
    if isinstance(item, (tuple, list)):
        return tuple(item), {}
    remedy = " torch.as_tensor(x) makes one of an array." if hasattr(item, "__array__") else ""
    raise ConfigError(
        f"{which} is {type(item).__name__}; it must be a tensor, a tuple or "
        f"list of positional arguments, or a dict of keyword arguments.{remedy}"
    )


def _way_to_batches(data: object) -> str:
    """What to do with what is none, but may have some."""
    if isinstance(data, Mapping):
        return " Write [{...}] for a single batch of keywords."
    if hasattr(data, "__getitem__") and not isinstance(data, (str, bytes)):
        return " torch.utils.data.DataLoader(dataset, batch_size=...) makes batches of a dataset."
    return " Call it, if it yields them." if callable(data) else ""


def length_of(data: object) -> int | None:
    """How many batches ``data`` has; None if it can't tell."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None
