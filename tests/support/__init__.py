"""Helpers that tests share."""

from qfx.testing import Program
from tests.support.models import programs

__all__ = ["Program", "programs"]
