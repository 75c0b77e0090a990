"""What passes found out about nodes, by name: shown wherever nodes are, and kept through rewriting.

A node that is made of several has what each of them has; of a name that several have, what the last
of them has, whose result it yields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from torch import fx

from qfx.errors import ConfigError

Finding: TypeAlias = "str | bool | int | float"
Findings: TypeAlias = "tuple[tuple[str, Finding], ...]"

_KEY = "qfx.findings"
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def record(node: fx.Node, name: str, value: Finding) -> None:
    """Write down ``value`` under ``name``; what stood there is replaced.

    Raises:
        ConfigError: it is no text, flag or number, or the name is none.
    """
    if not isinstance(node, fx.Node):
        raise ConfigError(f"what is recorded is recorded of a node of the graph, not of {node!r}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _at(
            node,
            f"{name!r} is no name for what is recorded of %{node.name}: use letters, digits, _ . -",
        )
    if not isinstance(value, (str, bool, int, float)):
        raise _at(
            node,
            f"{name} of %{node.name} is a {type(value).__name__}; record a text, a flag or a "
            "number (of a tensor, its .item())",
        )
    node.meta[_KEY] = {**node.meta.get(_KEY, {}), name: value}


def _at(node: fx.Node, text: str) -> ConfigError:
    error = ConfigError(text)
    error.node = node.name
    return error


def findings(node: fx.Node) -> Findings:
    """What was recorded of ``node``, in order."""
    return tuple(node.meta.get(_KEY, {}).items())


def hand_on(target: fx.Node, sources: Iterable[fx.Node]) -> None:
    """Give ``target`` what was recorded of its ``sources``, beside what it has itself."""
    found: dict[str, Finding] = {}
    for source in sources:
        found.update(source.meta.get(_KEY, {}))
    if found:
        target.meta[_KEY] = {**found, **target.meta.get(_KEY, {})}


def finding_text(value: Finding) -> str:
    """A finding as it is printed: 3.142, true, 12."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def findings_text(found: Findings | Mapping[str, Finding]) -> str:
    """``intensity=3.142 group=2``."""
    pairs = found.items() if isinstance(found, Mapping) else found
    return " ".join(f"{name}={finding_text(value)}" for name, value in pairs)
