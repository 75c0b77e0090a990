"""The modules whose parameters a prepared graph reads itself: their classes, written and restored.

Nobody calls them, but training tells parameters apart by what holds them (no weight decay for
norms, say). Classes of PyTorch are in the file, by names of a closed table. Those of the user's
come from the model that is handed in, if one is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qfx.errors import FormatError
from qfx.graph.unread_modules import take_after
from qfx.storage.fields import Fields, Json
from qfx.storage.modules import ModuleKind, arguments_of, plain_modules, read_kind
from qfx.storage.names import within

_CONTAINERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
}


def shells(root: fx.GraphModule, called: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that no node calls, by path; what lies in one that is called is not told."""
    for path, module in root.named_modules():
        if path and path not in called and not within(path, called):
            yield path, module


# -- writing -------------------------------------------------------------------------------------
def write_shells(root: fx.GraphModule) -> dict[str, Json]:
    """The classes of modules that no node calls, and which are in another mode than the root."""
    called = {str(node.target) for node in root.graph.nodes if node.op == "call_module"}
    classes: dict[str, Json] = {}
    other: list[Json] = []
    for path, module in shells(root, called):
        said = _write_class(module)
        if said is not None:
            classes[path] = said
        if module.training is not root.training:
            other.append(path)
    return {"classes": classes, "other_mode": other}


def _write_class(module: nn.Module) -> Json:
    kind = type(module)
    if _CONTAINERS.get(kind.__name__) is kind:
        return {"type": kind.__name__}
    arguments = arguments_of(module)
    return None if arguments is None else {"type": kind.__name__, "arguments": arguments}


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ShellsRecord:
    """What is told of modules that no node calls, checked.

    Attributes:
        kinds: by path; those without arguments are containers.
        other_mode: the paths of those in another mode than the root.
    """

    kinds: Mapping[str, ModuleKind]
    other_mode: frozenset[str]


def read_shells(fields: Fields) -> ShellsRecord:
    """What :func:`write_shells` wrote; the other keys somebody else reads."""
    kinds: dict[str, ModuleKind] = {}
    classes = fields.record("classes") if fields.has("classes") else Fields({}, "classes")
    fields.any("classes")
    for path in classes.names():
        said = classes.record(path)
        kind = read_kind(said)
        known = _CONTAINERS if kind.arguments is None else plain_modules()
        if kind.name not in known:
            said.refuse("type", f"no file can tell of a {kind.name[:80]!r}")
        said.close()
        kinds[path] = kind
    return ShellsRecord(kinds, frozenset(fields.texts("other_mode")))


def restore_shells(
    root: fx.GraphModule, record: ShellsRecord, given: Mapping[str, nn.Module]
) -> None:
    """Give the modules that no node calls their classes, and their modes."""
    called = {str(node.target) for node in root.graph.nodes if node.op == "call_module"}
    for path, module in list(shells(root, called)):
        module.training = root.training is not (path in record.other_mode)
        if type(module) is not nn.Module:
            continue
        kind = record.kinds.get(path)
        if kind is not None:
            take_after(module, _like(path, kind))
        elif path in given:
            take_after(module, given[path])


def _like(path: str, kind: ModuleKind) -> nn.Module:
    """A module of a kind, without memory for its parameters."""
    if kind.arguments is None:
        return _CONTAINERS[kind.name]()
    made: Any = kind.make(path, {})
    if not isinstance(made, nn.Module):
        raise FormatError(f"module {path!r} can't be made")
    return made
