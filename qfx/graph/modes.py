"""Training flags that a capture can tell from constants.

A graph is captured in inference, and trained afterwards. What a model hands on of its training flag
(``F.dropout(x, p, training=self.training)``) must follow the graph's flag then, and what it decides
by it (``if self.training:``) can't. So modules that are traced through get a flag of their own kind
while they are: as an argument it stays recognizable, as a condition it is written down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

from torch import nn


class ModeFlag(int):
    """``training=False`` of a module, in a graph that may be trained.

    Args:
        decided: called whenever Python asks whether it is true.
    """

    decided: Callable[[], None]

    def __new__(cls, decided: Callable[[], None]) -> ModeFlag:
        flag = super().__new__(cls, 0)
        flag.decided = decided
        return flag

    def __bool__(self) -> bool:
        self.decided()
        return False

    def __float__(self) -> float:
        self.decided()
        return 0.0

    def __mul__(self, other: Any) -> Any:
        self.decided()
        return 0 * other

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return "False"

    def __deepcopy__(self, memo: dict[int, Any]) -> ModeFlag:
        return self


class Decisions:
    """The lines at which a model asked for its training flag.

    Args:
        askers: where the code that does is put.
    """

    def __init__(self, askers: set[CodeType]) -> None:
        self.lines: dict[str, None] = {}
        self._askers = askers

    def flag(self) -> ModeFlag:
        """A flag that writes down where it is asked for."""
        return ModeFlag(self._decided)

    def _decided(self) -> None:
        frame = sys._getframe(2)
        name = frame.f_code.co_filename
        if "/torch/" not in name.replace("\\", "/"):
            self.lines[f"{name}:{frame.f_lineno}"] = None
            self._askers.add(frame.f_code)


def watch_modes(
    root: nn.Module, is_traced: Callable[[nn.Module, str], bool], askers: set[CodeType]
) -> Decisions:
    """Give the modules of ``root`` that are traced through flags of this kind; it must be in eval.

    The code that asks for them is put into ``askers``.

    Returns:
        What is written down.
    """
    decisions = Decisions(askers)
    for path, module in root.named_modules():
        if is_traced(module, path):
            module.training = decisions.flag()
    return decisions
