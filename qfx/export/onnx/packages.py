"""The packages that writing and running ONNX files takes; imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from qfx.errors import BackendError

EXTRA = "pip install qfx[onnx]"


def require(name: str) -> Any:
    """Import a package.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(
            f"ONNX files need the package {name.partition('.')[0]}, which can't be imported"
            f" ({error}). What to do: {EXTRA}"
        ) from error


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        require(name)
    except BackendError:
        return False
    return True
