"""The one seam for what cuts across passes: an :class:`Instrument` is told before and after each.

Passes themselves neither time, print nor check anything. What checks numbers is in
:mod:`qfx.verification.stages`.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from qfx.errors import ConfigError

if TYPE_CHECKING:
    from qfx.framework.pass_base import Pass
    from qfx.framework.pass_context import PassContext
    from qfx.history.stage import Stage


class Instrument:
    """Base of instruments; each method does nothing unless overridden."""

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        """Called once, with the stage that the pipeline starts from."""

    def before_pass(self, step: Pass, ctx: PassContext) -> None:
        """Called before each pass."""

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        """Called after each pass, once its graph has been verified and recorded."""


def as_instruments(given: Iterable[object]) -> tuple[Instrument, ...]:
    """``given``, each of which is checked to be an instrument.

    Raises:
        ConfigError: one is none.
    """
    found = []
    for each in given:
        if not isinstance(each, Instrument):
            hint = " (a class; write it with parentheses)" if isinstance(each, type) else ""
            raise ConfigError(f"instruments has {each!r}, which is no Instrument{hint}")
        found.append(each)
    return tuple(found)


class Timing(Instrument):
    """How long each pass took.

    Attributes:
        seconds: per pass, in the order they ran; a pass that ran twice has the sum.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + stage.seconds

    def __str__(self) -> str:
        width = max(map(len, self.seconds), default=0)
        ranked = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "\n".join(f"{name:{width}}  {s * 1e3:9.2f} ms" for name, s in ranked)


class Dump(Instrument):
    """Writes the IR of each stage to ``directory/NN-name.txt`` as soon as it is there.

    The last file is the state before a pass that hangs or kills the process.
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory)

    def on_start(self, ctx: PassContext, stage: Stage) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write(stage)

    def after_pass(self, step: Pass, ctx: PassContext, stage: Stage) -> None:
        self._write(stage)

    def _write(self, stage: Stage) -> None:
        path = self.directory / f"{stage.index:02d}-{stage.name}.txt"
        path.write_text(f"# stage {stage.index}: {stage.name}\n{stage.snapshot.to_text()}")
