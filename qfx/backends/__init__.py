"""Targets that models are lowered to, and what this machine can run."""

from __future__ import annotations

import difflib
import importlib
from functools import cache

from qfx.backends.base import Backend
from qfx.errors import BackendError

NAMES = ("x86", "fbgemm", "qnnpack", "reference")

_X86_ONLY = ("x86", "fbgemm")  # PyTorch's ARM builds have a onednn engine, too
_ENGINES = {"x86": "onednn", "fbgemm": "fbgemm", "qnnpack": "qnnpack"}


def available() -> tuple[str, ...]:
    """Names of the backends whose kernels this PyTorch and machine have."""
    from qfx.backends.hardware import hardware

    here = hardware()
    names = (n for n in NAMES if n not in _ENGINES or _ENGINES[n] in here.engines)
    return tuple(n for n in names if here.is_x86 or n not in _X86_ONLY)


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
        cpu = " and an x86 CPU" if name in _X86_ONLY else ""
        raise BackendError(
            f"backend {name!r} needs PyTorch's {_ENGINES[name]} engine{cpu}; this machine lacks "
            f"that. Available here: {', '.join(available())}"
        )
    return _load(name)


def others_with(op: object, but: str) -> tuple[str, ...]:
    """Names of the backends of this machine, ``but`` aside, that have a kernel for ``op``."""
    names = (n for n in available() if n not in (but, "reference"))
    return tuple(n for n in names if _load(n).rule(op) is not None)


@cache
def _load(name: str) -> Backend:
    module = importlib.import_module(f"qfx.backends.{name}")
    backend: Backend = module.backend()
    return backend


__all__ = ["NAMES", "Backend", "available", "detect", "resolve_backend"]
