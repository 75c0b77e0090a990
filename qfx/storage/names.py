"""Names that become code: of nodes, inputs, arguments and attributes.

A graph runs as Python that is generated from it, so a name in a file is held to what a name is.
"""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata
from collections.abc import Container

from qfx.capture.naming import reserved
from qfx.errors import FormatError

_MOST = 1000
_ATOM = r"""(?!__)[^."'\\]+"""
_PATH = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_MEANS_THE_MODEL = frozenset(("self", "torch"))
_MEANS_SOMETHING = _MEANS_THE_MODEL.union(
    dir(builtins), ("device", "inf", "nan", "NoneType", "fx_pytree", "pytree")
)
"""What generated code has besides its nodes: fx gives no node such a name."""


def check_identifier(name: str, place: str) -> str:
    """A name that Python takes as one, and that means nothing to it."""
    if len(name) > _MOST or not name.isidentifier() or _changes(name):
        raise FormatError(f"{place}: {name[:80]!r} is no name")
    if keyword.iskeyword(name) or (name.startswith("__") and name.endswith("__")):
        raise FormatError(f"{place}: {name[:80]!r} means something to Python")
    return name


def check_node(name: str, place: str) -> str:
    """A name that a node may have: of no variable that generated code has besides."""
    if name in _MEANS_SOMETHING:
        raise FormatError(f"{place}: {name!r} means something to generated code")
    if not name.isascii():
        raise FormatError(f"{place}: {name[:80]!r} is no name of a node, which are ASCII")
    return check_identifier(name, place)


def check_input(name: str, place: str) -> str:
    """A name that an input may have."""
    if name in _MEANS_THE_MODEL:
        raise FormatError(f"{place}: {name!r} means something to generated code")
    return check_identifier(name, place)


def check_path(name: str) -> str:
    """A qualified name of an attribute: atoms between dots."""
    if name.partition(".")[0] in reserved():
        raise FormatError(f"{name[:80]!r} is a name that graph modules have for themselves")
    if len(name) > _MOST or not name.isprintable() or not _PATH.fullmatch(name) or _changes(name):
        raise FormatError(
            f"{name[:80]!r} can't name an attribute in a file: no quotes, backslashes, line breaks "
            "or names like __this__"
        )
    return name


def within(name: str, paths: Container[str]) -> str:
    """The innermost of ``paths`` inside of which ``name`` lies; "" if there is none."""
    at = name.rfind(".")
    while at > 0 and name[:at] not in paths:
        at = name.rfind(".", 0, at)
    return name[: max(at, 0)]


def _changes(name: str) -> bool:
    """Whether Python reads a name as another: as its normal form, which may be any."""
    return not (name.isascii() or unicodedata.is_normalized("NFKC", name))
