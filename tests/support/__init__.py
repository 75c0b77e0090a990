"""Helpers that tests share: the check of a pass, and strategies that make models."""

from tests.support.checking import check, run
from tests.support.models import Program, models, programs

__all__ = ["Program", "check", "models", "programs", "run"]
