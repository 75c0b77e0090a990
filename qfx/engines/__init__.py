"""Engines: what runs a model that ``qfx.compile`` is given, and how one is chosen."""

from qfx.engines.base import Built, CannotRun, Engine, PieceEngine, Program, Settings, WholeEngine
from qfx.engines.pieces import Piece
from qfx.engines.registry import available

__all__ = [
    "Built",
    "CannotRun",
    "Engine",
    "Piece",
    "PieceEngine",
    "Program",
    "Settings",
    "WholeEngine",
    "available",
]
