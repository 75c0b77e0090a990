"""Models that are not all right, each with the trouble and its reason.

An explanation is about one trouble: another one of the same model still counts as a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from tools.collection.row import Row, Trouble


@dataclass(frozen=True)
class Explanation:
    """Why models have a trouble.

    Attributes:
        trouble: which.
        pattern: of the keys of the models, as in "timm/eva*/static".
        reason: in a sentence.
        error: what the error says, for models that fail; "" for any.
    """

    trouble: Trouble
    pattern: str
    reason: str
    error: str = ""

    def names(self, row: Row) -> bool:
        """Whether a model is one of those."""
        return fnmatch(row.key, self.pattern)

    def is_about(self, row: Row) -> bool:
        """Whether a model is one of those, and fails in this way if it does."""
        return self.names(row) and self.error in row.error


EXPLAINED: tuple[Explanation, ...] = ()
