"""Every name of PyTorch that need not be there: private ones, and operators of ``torch.ops``.

Releases rename and drop such names, and builds differ. So each is looked up here and nowhere else,
with what stands in where it is missing: a way without it, or :class:`Missing`, which raises when it
is called. A kernel that is missing is thus one more that a probe finds not to work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from qfx.errors import BackendError

QUANTIZED_DTYPES = (
    *("torch.quint8", "torch.qint8", "torch.quint4x2", "torch.backends.quantized"),
    *("torch.quantize_per_tensor", "torch.quantize_per_channel"),
    *("torch._make_per_tensor_quantized_tensor", "torch._make_per_channel_quantized_tensor"),
    *("torch.ops.quantized.linear", "torch.ops.quantized.linear_prepack"),
)
"""What PyTorch has for as long as it has quantized dtypes."""


class Missing:
    """Stands for a function that this PyTorch lacks; BackendError when it is called."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise BackendError(
            f"PyTorch {torch.__version__} has no {self.path}. What to do: choose another backend, "
            "or a version of PyTorch that has it."
        )


def find(path: str, instead: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function of PyTorch by its path.

    Args:
        path: as in code: "torch.ops.onednn.qlinear_pointwise.default".
        instead: what does the same where it is missing.
    """
    found: Callable[..., Any] | None = _found(path)
    return found or instead or Missing(path)


def lacking(paths: Iterable[str]) -> tuple[str, ...]:
    """Those of ``paths`` that this PyTorch lacks."""
    return tuple(path for path in paths if _found(path) is None)


def _found(path: str) -> Any:
    found: Any = torch
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    return found
