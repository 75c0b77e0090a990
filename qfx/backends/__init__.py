"""Targets that models are lowered to, and what this machine can run.

Other packages bring backends of their own: :mod:`qfx.backends.entry_points`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from qfx import vocab
from qfx.backends.base import (
    Backend,
    Demand,
    Emitter,
    KernelRule,
    LoweringSite,
    Output,
    WeightRule,
    follows,
    pulls,
)
from qfx.backends.entry_points import INSTALLED
from qfx.backends.schemes import Scheme
from qfx.errors import BackendError
from qfx.torch_private import QUANTIZED_DTYPES, lacking

if TYPE_CHECKING:
    from qfx.backends.detection import Detected, DetectedBackend

NAMES = ("x86", "fbgemm", "qnnpack", "reference")
"""Those that come with qfx, the preferred first."""

TARGETS = ("xnnpack",)
"""Those whose kernels are in what a model is exported to; here it runs in its reference form."""

_X86_ONLY = ("x86", "fbgemm")  # PyTorch's ARM builds have a onednn engine, too
_ON_QUANTIZED_DTYPES = ("fbgemm", "qnnpack")


def available() -> tuple[str, ...]:
    """Names of the backends whose kernels this PyTorch and machine have."""
    return tuple(name for name in _names() if name not in TARGETS and not _lacks(name))


def _recommended() -> str:
    """What "auto" stands for: the first of ours that this machine has; all have the last."""
    return next(name for name in NAMES if not _lacks(name))


def _names() -> tuple[str, ...]:
    """Every backend, whether this machine can run it or not."""
    return (*NAMES, *TARGETS, *INSTALLED.by_name((*NAMES, *TARGETS)))


def needs(name: str) -> tuple[str, ...]:
    """What a machine needs for one of the backends that come with qfx, in words."""
    return tuple(text for text, _ in _needs(name))


def _needs(name: str) -> Iterator[tuple[str, bool]]:
    """What a backend needs, in words, and whether this machine has it."""
    from qfx.backends.hardware import hardware

    here = hardware()
    if name in _X86_ONLY:
        yield "an x86 CPU", here.is_x86
    if name == "x86":
        yield "a PyTorch built with oneDNN", here.onednn
    if name in _ON_QUANTIZED_DTYPES:
        gone = lacking(QUANTIZED_DTYPES)
        lost = f" ({torch.__version__} has no {', '.join(gone)})" if gone else ""
        yield f"a PyTorch with quantized dtypes{lost}", not gone
        yield f"PyTorch's {name} engine", name in here.engines


def _lacks(name: str) -> str:
    """What this machine lacks for a backend, in words, or ""."""
    if name not in (*NAMES, *TARGETS):
        return INSTALLED.by_name((*NAMES, *TARGETS))[name].lacks
    return next((text for text, there in _needs(name) if not there), "")


def detect() -> Detected:
    """The backend that ``backend="auto"`` stands for on this machine.

    What it returns is that name, a string; printed, it is a table of the CPU, PyTorch's engines and
    every backend, and why this one.
    """
    from qfx.backends.detection import Detected
    from qfx.backends.hardware import hardware

    return Detected(_recommended(), hardware())


def candidates() -> tuple[DetectedBackend, ...]:
    """Every backend, and what this machine makes of it."""
    from qfx.backends.detection import DetectedBackend

    found = []
    for name in _names():
        lacks = _lacks(name)
        bits = 0 if lacks else 7 if _load(name).saturates else 8
        found.append(DetectedBackend(name, lacks, bits, exports=name in TARGETS))
    return tuple(found)


def resolve_backend(backend: object) -> Backend:
    """The Backend that a name stands for; a Backend stands for itself.

    Raises:
        BackendError: there is no such backend, or this machine lacks its kernels.
    """
    if isinstance(backend, Backend):
        return backend
    name = _recommended() if backend == "auto" else backend
    names = NAMES if name in NAMES else _names()  # what is installed is looked for if need be
    if not isinstance(name, str) or name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise BackendError(
            f"unknown backend {name!r}{hint} Choose 'auto' or one of: {', '.join(map(repr, names))}"
        )
    lacks = "" if name in TARGETS else _lacks(name)
    if lacks:
        needs_it = f"needs {lacks}; this machine lacks that"
        of_package = f"does not run on this machine; its package says: {lacks}"
        raise BackendError(
            f"backend {name!r} {needs_it if name in NAMES else of_package}. "
            f"Available here: {', '.join(available())}"
        )
    return _load(name)


def for_few_rows(model: nn.Module) -> Backend:
    """The backend that ``backend="auto"`` stands for where layers get one row at a time.

    Where a CPU adds up products of 8 bits in 16 (AVX2; measured), oneDNN's linear layers take
    several times as long for a row as fbgemm's. A model keeps x86 if fbgemm would leave layers of
    it in float: convolutions, say.

    Args:
        model: what is quantized, dynamically.
    """
    first = resolve_backend("auto")
    if first.name != "x86" or not first.saturates or "fbgemm" not in available():
        return first
    other = _load("fbgemm")
    rows = (op for op in vocab.ops() if first.rule(op, "dynamic"))
    lost = tuple(kind for op in rows if not other.rule(op, "dynamic") for kind in op.modules)
    return first if any(isinstance(module, lost) for module in model.modules()) else other


def others_with(op: object, but: str, method: str = "static") -> tuple[str, ...]:
    """Names of the backends of this machine, ``but`` aside, with a kernel of ``method`` for it."""
    names = (name for name in available() if name not in (but, "reference"))
    return tuple(name for name in names if _load(name).rule(op, method) is not None)


def _load(name: str) -> Backend:
    if name in (*NAMES, *TARGETS):
        return _own(name)
    found = INSTALLED.by_name((*NAMES, *TARGETS))[name].made
    assert found is not None, name  # it is available
    return found


@cache
def _own(name: str) -> Backend:
    module = importlib.import_module(f"qfx.backends.{name}")
    backend: Backend = module.backend()
    return backend


__all__ = [
    "NAMES",
    "Backend",
    "Demand",
    "Emitter",
    "KernelRule",
    "LoweringSite",
    "Output",
    "Scheme",
    "WeightRule",
    "available",
    "detect",
    "follows",
    "for_few_rows",
    "pulls",
    "resolve_backend",
]
