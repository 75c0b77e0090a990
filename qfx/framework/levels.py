"""The levels a graph climbs, from what was traced to what runs on integer kernels.

A pass declares the level it ``requires`` and the one it ``produces``; levels only rise. Every level
from CANONICAL on refines the one before (a fused graph is still canonical), so a pass may run at
any level at or above the one it requires. CAPTURED is the exception: canonicalization rewrites what
was written, so a pass that requires CAPTURED runs before it or not at all.
"""

from __future__ import annotations

from enum import IntEnum

LEVEL = "qfx.level"
"""Key of ``graph_module.meta``: how far passes have taken what they left."""


class Level(IntEnum):
    """How far a graph has been taken; compares in the order of the pipeline."""

    CAPTURED = 0
    CANONICAL = 1
    FUSED = 2
    STUBBED = 3
    OBSERVED = 4
    FAKE_QUANT = 5
    REFERENCE = 6
    LOWERED = 7

    def __str__(self) -> str:
        return self.name
