"""Engines: what runs a model that ``qfx.compile`` is given, and how one is chosen."""

from qfx.engines.base import (
    BuildSettings,
    Built,
    CannotRun,
    Engine,
    EngineProgram,
    PieceEngine,
    WholeEngine,
)
from qfx.engines.pieces import Piece
from qfx.engines.registry import available

__all__ = [
    "BuildSettings",
    "Built",
    "CannotRun",
    "Engine",
    "EngineProgram",
    "Piece",
    "PieceEngine",
    "WholeEngine",
    "available",
]
