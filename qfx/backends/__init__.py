"""Targets that models are lowered to, and what this machine can run."""

from __future__ import annotations

import difflib
import importlib
from functools import cache

from qfx.backends.base import Backend
from qfx.errors import BackendError

NAMES = ("x86", "fbgemm", "qnnpack", "reference")

_ENGINES = {"x86": "onednn", "fbgemm": "fbgemm", "qnnpack": "qnnpack"}


def available() -> tuple[str, ...]:
    """Names of the backends whose kernels this PyTorch and machine have."""
    import torch

    engines = torch.backends.quantized.supported_engines
    return tuple(n for n in NAMES if n not in _ENGINES or _ENGINES[n] in engines)


def detect() -> str:
    """The backend that ``backend="auto"`` stands for on this machine."""
    return available()[0]


def resolve_backend(backend: str | Backend) -> Backend:
    """The Backend that a name stands for.

    Raises:
        BackendError: there is no such backend, or this machine lacks its kernels.
    """
    if isinstance(backend, Backend):
        return backend
    name = detect() if backend == "auto" else backend
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise BackendError(
            f"unknown backend {name!r}{hint} Choose 'auto' or one of: {', '.join(map(repr, NAMES))}"
        )
    if name not in available():
        raise BackendError(
            f"backend {name!r} needs PyTorch's {_ENGINES[name]} engine, which this build lacks. "
            f"Available here: {', '.join(available())}"
        )
    return _load(name)


@cache
def _load(name: str) -> Backend:
    module = importlib.import_module(f"qfx.backends.{name}")
    backend: Backend = module.backend()
    return backend


__all__ = ["NAMES", "Backend", "available", "detect", "resolve_backend"]
