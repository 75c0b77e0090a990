"""What yields shapes and numbers, not tensors, and the guard of what capture took for granted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qfx.errors import ConfigError


def size(input: Tensor, *, dim: int | None = None) -> Any:
    return input.shape if dim is None else input.shape[dim]


def dim(input: Tensor) -> int:
    return input.dim()


def dtype(input: Tensor) -> torch.dtype:
    return input.dtype


def device(input: Tensor) -> torch.device:
    return input.device


def guard(value: Any, *, expected: Any, what: str = "") -> None:
    """Refuse inputs for which the captured model would have run other Python code.

    Raises:
        ConfigError: ``value`` is not ``expected``, which held when the model was captured.
    """
    seen = type(expected)(value) if type(expected) in (bool, int, float) else value
    if seen is not expected and seen != expected:
        raise ConfigError(
            f"the model was captured with {what} = {_shown(expected)}, but these inputs make it "
            f"{_shown(seen)}. What to do: capture the model anew with inputs like these."
        )


def _shown(value: Any) -> str:
    """``value`` on one line: tensors by their dtype and shape."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, {tuple(value.shape)}"
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        return f"({', '.join(map(_shown, value))})"
    return repr(tuple(value) if isinstance(value, torch.Size) else value)
