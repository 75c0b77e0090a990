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


def guard(value: Any, *, expected: Any, what: str = "", asserted: bool = False) -> None:
    """Refuse inputs for which the captured model would have run other Python code, or raised.

    Args:
        value: what these inputs make of it.
        expected: what it was when the model was captured.
        what: what it is, in words; the message of an assertion.
        asserted: whether it is the condition of an assertion.

    Raises:
        ConfigError: ``value`` is not ``expected``.
    """
    seen = type(expected)(value) if type(expected) in (bool, int, float) else value
    if seen is expected or seen == expected:
        return
    if asserted:
        raise ConfigError(_failed(what))
    raise ConfigError(
        f"the model was captured with {what} = {_shown(expected)}, but these inputs make it "
        f"{_shown(seen)}. What to do: capture the model anew with inputs like these."
    )


_OF_EXPORT = "Guard failed: "
"""How the assertions begin with which ``torch.export`` holds on to sizes."""


def _failed(assertion: str) -> str:
    condition = assertion.removeprefix(_OF_EXPORT)
    if condition != assertion:
        return (
            f"the model was exported where {condition}, and these inputs are others. What to do: "
            "export with dynamic shapes, as in torch.export.export(model, args, "
            "dynamic_shapes=...), or give inputs of the exported sizes."
        )
    return (
        f"the model asserts what these inputs do not hold: {assertion}. What to do: give inputs "
        "that the model takes."
    )


def _shown(value: object) -> str:
    """``value`` on one line: tensors by their dtype and shape."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, {tuple(value.shape)}"
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        return f"({', '.join(map(_shown, value))})"
    return repr(tuple(value) if isinstance(value, torch.Size) else value)
