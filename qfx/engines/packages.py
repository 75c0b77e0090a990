"""The packages of engines; imported when they are needed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from qfx.errors import BackendError


def module(name: str) -> Any:
    """Import a package.

    Raises:
        BackendError: it can't be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"the package {name} can't be imported: {error}") from error


def lacking(name: str, extra: str, *, writes: str) -> str:
    """What is not installed, and how to install it; "" if nothing is missing.

    Args:
        name: of the engine's own package, which is imported.
        extra: of qfx, with which all is installed.
        writes: the package that models are written with. It takes longer to import than all else,
            and where a model is in the cache nothing is written: it is only looked for.
    """
    absent = [] if _is_there(name) else [name]
    absent += [] if find_spec(writes) is not None else [writes]
    if not absent:
        return ""
    return f"{', '.join(absent)} is not installed: pip install 'qfx[{extra}]'"


def _is_there(name: str) -> bool:
    try:
        module(name)
    except BackendError:
        return False
    return True


def version_of(name: str) -> str:
    """The version of a package that is there."""
    return str(module(name).__version__).partition("-")[0]
