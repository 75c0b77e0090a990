"""The packages of engines; imported when they are needed."""

from __future__ import annotations

import importlib
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


def lacking(names: tuple[str, ...], extra: str) -> str:
    """What can't be imported, and how to install it; "" if all can be."""
    absent = [name for name in names if not _is_there(name)]
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
