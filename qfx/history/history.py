"""What was done to a model, stage by stage: a sequence of snapshots, one per pass.

Stages are immutable and share the records of unchanged nodes, so a copy of a history, deep or
shallow, copies a list of references.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import overload

from qfx.errors import ConfigError
from qfx.history.blame import Blame, trace
from qfx.history.diff import GraphDiff
from qfx.history.events import rules_table
from qfx.history.stage import Stage
from qfx.table import columns


class History:
    """A sequence of :class:`Stage`; ``history[i]`` or ``history["fuse-conv-bn"]``.

    Printing it gives a table of the stages. When a pass ran several times, its name stands for the
    last time.
    """

    def __init__(self, stages: Iterable[Stage] = ()) -> None:
        self._stages = list(stages)

    @property
    def region(self) -> str:
        """The part of a model that it is the history of; "main" for the whole."""
        return next((stage.snapshot.region for stage in self), "main")

    def append(self, stage: Stage) -> None:
        """Add the newest stage.

        Raises:
            ConfigError: if its index is not the next one.
        """
        if stage.index != len(self._stages):
            raise ConfigError(
                f"stage {stage.title!r} cannot be number {len(self._stages)} of a history; "
                "append stages in order, counting from 0"
            )
        self._stages.append(stage)

    def __len__(self) -> int:
        return len(self._stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __contains__(self, stage: object) -> bool:
        return any(s is stage or s.name == stage for s in self._stages)

    @overload
    def __getitem__(self, which: int | str) -> Stage: ...
    @overload
    def __getitem__(self, which: slice) -> list[Stage]: ...
    def __getitem__(self, which: int | str | slice) -> Stage | list[Stage]:
        if not isinstance(which, str):
            return self._stages[which]
        found = next((s for s in reversed(self._stages) if s.name == which), None)
        if found is None:
            names = ", ".join(s.name for s in self._stages) or "none"
            raise ConfigError(f"no stage called {which!r}; the stages are: {names}")
        return found

    def __copy__(self) -> History:
        return History(self._stages)

    def __deepcopy__(self, memo: dict[int, object]) -> History:
        return History(self._stages)

    def __repr__(self) -> str:
        return f"<History of {len(self)} stages: {', '.join(s.name for s in self)}>"

    def __str__(self) -> str:
        """A table of the stages: nodes, what changed, how often rules fired."""
        rows = [("stage", "nodes", "change", "rules fired")]
        for stage in self._stages:
            change = self._step(stage).summary() if stage.index else "capture"
            fired = ", ".join(f"{rule} x{n}" for rule, n in stage.fired.items())
            rows.append((stage.title, str(len(stage.snapshot)), change, fired))
        return columns(rows)

    def rules(self) -> str:
        """A table of the rules of all stages: tried, matched, applied, and what that took.

        The slowest comes first. Stages that were read from a file have no statistics.
        """
        found = [rule for stage in self._stages for rule in stage.statistics]
        return rules_table(found)

    def diff(self, a: int | str, b: int | str | None = None) -> GraphDiff:
        """The difference from stage ``a`` to stage ``b``, each by index or name.

        With one argument: what that stage did, that is the difference from the stage before it.
        """
        if b is not None:
            return _diff(self[a], self[b])
        return self._step(self[a])

    def blame(self, node_name: str) -> Blame:
        """How a node came to be: source line, then each pass and rule, and what became of it.

        Args:
            node_name: a node of any stage (the last that has it counts), or a site of the report.

        Raises:
            ConfigError: if no stage has it.
        """
        return trace(self._stages, node_name)

    def to_text(self, which: int | str = -1) -> str:
        """One stage's IR, the last by default, under a line that says what the stage did."""
        stage = self[which]
        change = self._step(stage).summary() if stage.index else ""
        return stage.heading(change) + stage.snapshot.to_text()

    def dump(self, directory: str | PathLike[str]) -> None:
        """Write every stage as ``NN-name.txt``, ``.dot`` and ``.json``, and what each changed.

        The differences from stage to stage go to ``diffs/NN-name.txt`` and, where there is one,
        ``diffs/NN-name.dot``. The directory is made; files of the same names are replaced. Files
        are deterministic: two dumps of the same history are equal byte for byte.
        """
        root = Path(directory)
        (root / "diffs").mkdir(parents=True, exist_ok=True)
        for stage in self._stages:
            name = file_name(stage)
            _write(root / f"{name}.txt", self.to_text(stage.index))
            _write(root / f"{name}.dot", stage.snapshot.to_dot().source)
            _write(root / f"{name}.json", stage.snapshot.to_json())
            if stage.index:
                step = self._step(stage)
                _write(root / "diffs" / f"{name}.txt", step.to_text())
                if step:
                    _write(root / "diffs" / f"{name}.dot", step.to_dot().source)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write all stages as one page that needs nothing else, and return its path.

        Of each stage: what it changed, its graph, and where its rules nearly applied.
        """
        from qfx.history.page import history_page

        page = Path(path)
        _write(page, history_page(self))
        return page

    def _step(self, stage: Stage) -> GraphDiff:
        return _diff(self._stages[max(0, stage.index - 1)], stage)


def _diff(a: Stage, b: Stage) -> GraphDiff:
    return GraphDiff(a.snapshot, b.snapshot, (a.title, b.title))


def file_name(stage: Stage) -> str:
    """``02-fuse-conv-relu``: sorts by stage, safe on every file system."""
    return f"{stage.index:02d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stage.name)}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
