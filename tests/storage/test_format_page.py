"""docs/format.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from qfx.storage import limits
from qfx.storage.container import DTYPES
from qfx.storage.files import FORMAT, VERSION
from qfx.storage.graphs import _OPS
from qfx.storage.values import ValueReader

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text()


def test_limits() -> None:
    told = {int(n.replace(",", "")) for n in re.findall(r"\| ([\d,]+) \|$", PAGE, re.MULTILINE)}
    assert told == {
        *(limits.HEADER_BYTES, limits.DOCUMENT_BYTES, limits.TENSORS, limits.NODES, limits.DIMS),
        limits.REGIONS,
        *(limits.NUMEL, limits.DEPTH, limits.GEOMETRY, limits.OPTION),
        *(limits.PACKED_ANYWAY, limits.PACKED),
    }


def test_words() -> None:
    words = {
        *DTYPES,
        *(f"`{op}`" for op in _OPS),
        *(f"`{kind}`" for kind in ValueReader()._readers),
    }
    flat = " ".join(PAGE.split())
    assert [word for word in words if word not in flat] == []
    assert f"`format` is `{FORMAT}`; `version` is `{'.'.join(map(str, VERSION))}`" in flat
