"""Generated models as a strategy of Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from qfx.testing.drawing import generate
from qfx.testing.programs import Program


def programs(*, max_steps: int = 8) -> st.SearchStrategy[Program]:
    """A program of at most so many steps."""
    return st.integers(0, 9999).map(lambda seed: generate(seed, max_steps))
