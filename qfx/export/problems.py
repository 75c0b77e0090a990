"""What a format can't say: a reason for each site, collected before anything is raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from qfx.errors import ExportError
from qfx.graph import meta
from qfx.graph.leaves import has_hooks


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


def opaque_modules(graph_module: fx.GraphModule) -> list[Problem]:
    """The modules that a graph calls as they are; what happens in them no format can say."""
    nodes = graph_module.graph.find_nodes(op="call_module")
    return [problem(n, _opaque(n, graph_module.get_submodule(str(n.target)))) for n in nodes]


def _opaque(node: fx.Node, module: nn.Module) -> CannotWrite:
    origins, note = meta.origins(node), meta.note_of(node)
    name = origins[0].type_name if origins else type(module).__name__
    return CannotWrite(
        f"{name} is a module that is not looked into{f': {note}' if note else ''}",
        "Remove the hook, then quantize again."
        if has_hooks(module)
        else "Write it with operations that qfx knows (docs/ops.md), or export the parts of the "
        "model around it.",
    )


def raise_all(problems: Sequence[Problem], form: str) -> None:
    """ExportError that names every site, if there are any."""
    if not problems:
        return
    sites = "\n".join(f"  {each}" for each in problems)
    count = f"{len(problems)} site{'s' if len(problems) > 1 else ''}"
    raise ExportError(f"{form} can't say what the model computes at {count}:\n{sites}", problems)
