"""What a format can't say: a reason for each site, collected before anything is raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from qfx.errors import ExportError
from qfx.graph import meta


class CannotWrite(Exception):  # noqa: N818 - control flow within the writer, never seen by users
    """Raised by an emitter: this call can't be written.

    Attributes:
        what: what can't be said.
        remedy: what to do about it.
        by_size: whether it could be if sizes were fixed.
    """

    def __init__(self, what: str, remedy: str, *, by_size: bool = False) -> None:
        super().__init__(what)
        self.what, self.remedy, self.by_size = what, remedy, by_size


@dataclass(frozen=True)
class Problem:
    """One site that a format can't say.

    Attributes:
        node: its name in the reference graph.
        module_path: the module that holds it.
        source: "file:line" of the user's code, or "".
        message: what can't be said.
        remedy: what to do about it.
        by_size: whether it could be if sizes were fixed.
    """

    node: str
    module_path: str
    source: str
    message: str
    remedy: str
    by_size: bool = False

    def __str__(self) -> str:
        places = ", ".join(part for part in (self.module_path, self.source) if part)
        return f"{self.node}{f' ({places})' if places else ''}: {self.message}. {self.remedy}"


def problem(node: fx.Node, found: CannotWrite) -> Problem:
    """What ``found`` says of ``node``."""
    place = node.name, meta.module_path(node), meta.source(node)
    return Problem(*place, found.what, found.remedy, found.by_size)


def raise_all(problems: Sequence[Problem], form: str) -> None:
    """ExportError that names every site, if there are any."""
    if not problems:
        return
    sites = "\n".join(f"  {each}" for each in problems)
    count = f"{len(problems)} site{'s' if len(problems) > 1 else ''}"
    raise ExportError(f"{form} can't say what the model computes at {count}:\n{sites}", problems)
