"""What passes recorded of nodes as JSON: pairs of a name and a text, flag or number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qfx.errors import FormatError
from qfx.graph.findings import Finding, Findings
from qfx.storage.fields import Json

_UNWRITABLE = ("inf", "-inf", "nan")


def write_findings(found: Findings) -> Json:
    """Findings as JSON."""
    return [[name, *_written(value)] for name, value in found]


def _written(value: Finding) -> list[Json]:
    if isinstance(value, float) and not math.isfinite(value):
        return [str(value), "float"]
    return [value]


def read_findings(given: Sequence[object], place: str) -> Findings:
    """The findings that JSON describes, if there is any.

    Raises:
        FormatError: it describes none.
    """
    found: list[tuple[str, Finding]] = []
    for pairs in given:
        if pairs is not None and not isinstance(pairs, list):
            raise FormatError(f"{place}: findings are no list")
        found.extend(_read(pair, place) for pair in pairs or ())
    return tuple(found)


def _read(pair: object, place: str) -> tuple[str, Finding]:
    if isinstance(pair, list) and len(pair) in (2, 3) and isinstance(pair[0], str):
        value = pair[1]
        if len(pair) == 2 and isinstance(value, (str, bool, int, float)):
            return pair[0], value
        if pair[2:] == ["float"] and value in _UNWRITABLE:
            return pair[0], float(value)
    raise FormatError(f"{place}: findings hold something that is no name and value")
