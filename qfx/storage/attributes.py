"""What nodes read by name, and the modules that they call: written down, and put together again.

Tensors and modules are registered under the names that they have in the graph, in the order that
they have in the model, so that optimizers and ``state_dict`` see the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.errors import FormatError
from qfx.graph.attributes import is_taken, register_tensor
from qfx.graph.lookup import Lookup
from qfx.graph.source import type_name
from qfx.private_attributes import (
    buffers_held,
    modules_held,
    parameters_held,
    registry_of,
    unsaved_buffers,
)
from qfx.storage.fields import Columns, Fields, Json
from qfx.storage.modules import ModuleKind, named_tensors, read_kind, write_kind
from qfx.storage.names import check_path, within
from qfx.storage.tensors import TensorSource, TensorStore, give_values


# -- writing -------------------------------------------------------------------------------------
def write_attributes(
    graph_module: fx.GraphModule, graphs: Iterable[fx.Graph], store: TensorStore
) -> list[Json]:
    """The tensors that nodes read, and the modules that they call, in the order of the model."""
    nodes = [n for g in graphs for n in g.nodes if n.op in ("get_attr", "call_module")]
    called = dict.fromkeys(str(n.target) for n in nodes if n.op == "call_module")
    outer = {path for path in called if not within(path, called)}
    read = dict.fromkeys(str(n.target) for n in nodes if n.op == "get_attr")
    inner: dict[str, set[str]] = {path: set() for path in outer}
    for name in read:
        inner.get(within(name, outer), set()).add(name)
    names = (*(n for n in read if not within(n, outer)), *(p for p in called if p in outer))
    lookup = Lookup(graph_module)
    places = {name: place for place, name in enumerate(_in_order(graph_module, "", outer))}
    written: list[Json] = []
    for name in sorted(names, key=lambda name: places.get(name, len(places))):
        value = lookup.get(name)
        if name in called:
            written += _write_module(name, value, inner[name], store)
        else:
            written.append(_write_tensor(name, value, _is_kept_out(graph_module, name), store))
    return written


def _in_order(module: nn.Module, prefix: str, whole: set[str]) -> Iterator[str]:
    """The names of tensors and of modules that are taken whole, as ``state_dict`` has them."""
    yield from (prefix + name for name in (*parameters_held(module), *buffers_held(module)))
    for name, child in modules_held(module).items():
        if prefix + name in whole:
            yield prefix + name
        elif child is not None:
            yield from _in_order(child, f"{prefix}{name}.", whole)


def _is_kept_out(root: nn.Module, name: str) -> bool:
    path, _, last = name.rpartition(".")
    return last in unsaved_buffers(root.get_submodule(path))


def _write_tensor(name: str, value: object, kept_out: bool, store: TensorStore) -> Json:
    check_path(name)
    if not isinstance(value, Tensor):
        kind = type_name(type(value))
        raise FormatError(f"the graph reads {name!r}, a {kind}; files hold tensors only")
    written: dict[str, Json] = {"name": name}
    kept = store.keep(value, name)
    if kept != name:
        written["tensor"] = kept
    if isinstance(value, nn.Parameter):
        written["parameter"] = True
        written |= {} if value.requires_grad else {"frozen": True}
    return written | ({"kept_out": True} if kept_out else {})


def _write_module(path: str, module: object, read: set[str], store: TensorStore) -> list[Json]:
    """A module, and behind it the tensors that were put into it for the graph to read."""
    check_path(path)
    if not isinstance(module, nn.Module):
        raise FormatError(f"the graph calls {path!r}, which is no module")
    kind, added = write_kind(module, {n.removeprefix(f"{path}.") for n in read})
    state: list[Json] = []
    behind: list[Json] = []
    for name, tensor in named_tensors(module):
        apart = name in added
        kept_out = apart and _is_kept_out(module, name)
        of = behind if apart else state
        of.append(_write_tensor(f"{path}.{name}", tensor, kept_out, store))
    modes: list[Json] = [name for name, each in module.named_modules() if each.training]
    written: dict[str, Json] = {"path": path, **kind, "state": state}
    return [written | ({"training": modes} if modes else {}), *behind]


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AttributeRecord:
    """A tensor under a name.

    Attributes:
        name: qualified, as the graph reads it.
        tensor: its name in the file.
        is_parameter, is_frozen: whether it is a parameter, and one without gradient.
        kept_out: whether ``state_dict`` leaves it out.
    """

    name: str
    tensor: str
    is_parameter: bool
    is_frozen: bool
    kept_out: bool


@dataclass(frozen=True)
class ModuleRecord:
    """A module that the graph calls.

    Attributes:
        path: where it is.
        kind: what makes it.
        state: its tensors.
        training: the paths within it of modules that are in training mode.
    """

    path: str
    kind: ModuleKind
    state: tuple[AttributeRecord, ...]
    training: frozenset[str]


HeldRecords = tuple["AttributeRecord | ModuleRecord", ...]
"""What a model holds, in order."""


def read_attributes(records: Iterable[Fields]) -> HeldRecords:
    """The tensors and modules that a file describes."""
    return tuple(_read_module(r) if r.has("path") else _read_tensor(r) for r in records)


_TENSOR = Columns(name=str, tensor=str | None, parameter=False, frozen=False, kept_out=False)


def _read_tensor(fields: Fields) -> AttributeRecord:
    name, tensor, *flags = fields.columns(_TENSOR)
    return AttributeRecord(check_path(name), name if tensor is None else tensor, *flags)


def _read_module(fields: Fields) -> ModuleRecord:
    path = check_path(fields.text("path"))
    state = tuple(_read_tensor(each) for each in fields.records("state"))
    if not all(each.name.startswith(f"{path}.") for each in state):
        fields.refuse("state", "lies outside of the module")
    record = ModuleRecord(path, read_kind(fields), state, frozenset(fields.texts("training")))
    fields.close()
    return record


def lacking(held: HeldRecords, given: Mapping[str, nn.Module]) -> list[ModuleRecord]:
    """The modules whose code is not in the file, and that nobody handed in."""
    modules = (each for each in held if isinstance(each, ModuleRecord))
    return [m for m in modules if m.kind.arguments is None and m.path not in given]


# -- putting together ----------------------------------------------------------------------------
def make_root(held: HeldRecords, source: TensorSource, given: Mapping[str, nn.Module]) -> nn.Module:
    """A module that holds all that a graph reads and calls."""
    root = nn.Module()
    for each in held:
        if isinstance(each, ModuleRecord):
            _register(root, each.path, _made(each, source, given))
        else:
            tensor = _value(each, source)
            _register(root, each.name, tensor, persistent=not each.kept_out)
    return root


def _register(
    root: nn.Module, name: str, value: Tensor | nn.Module, *, persistent: bool = True
) -> None:
    *path, last = name.split(".")
    owner = root
    for atom in path:
        child = modules_held(owner).get(atom)
        if child is None:
            child = nn.Module()
            _add(owner, atom, child, name)
        owner = child
    _add(owner, last, value, name, persistent=persistent)


def _add(
    owner: nn.Module, atom: str, value: Tensor | nn.Module, name: str, *, persistent: bool = True
) -> None:
    if is_taken(owner, atom):
        raise FormatError(f"the name {name!r} is taken")
    if isinstance(value, Tensor):
        register_tensor(owner, atom, value, persistent=persistent)
    else:
        owner.add_module(atom, value)


def _value(record: AttributeRecord, source: TensorSource) -> Tensor:
    """A tensor of the file; a parameter that has two names is one."""
    tensor = source.find(record.tensor)
    if not record.is_parameter:
        return tensor
    parameters = source.parameters
    if record.tensor not in parameters:
        trains = not record.is_frozen
        if trains and not (tensor.is_floating_point() or tensor.is_complex()):
            raise FormatError(f"{record.name!r} is a parameter of {tensor.dtype} to be trained")
        parameters[record.tensor] = nn.Parameter(tensor, requires_grad=trains)
    return parameters[record.tensor]


def _made(record: ModuleRecord, source: TensorSource, given: Mapping[str, nn.Module]) -> nn.Module:
    module = record.kind.make(record.path, given)
    own = dict(named_tensors(module))
    prefix = f"{record.path}."
    stored = {each.name.removeprefix(prefix): each for each in record.state}
    if stored.keys() != own.keys():
        raise _another(record, sorted(stored.keys() ^ own.keys())[0])
    for name, each in stored.items():
        tensor = _value(each, source)
        if not _fits(tensor.dtype, own[name].dtype, record.kind):
            raise _another(record, name)
        if tensor.shape != own[name].shape and not record.kind.resizes:
            raise _another(record, name)
        _put(module, name, tensor, own[name], taken=record.kind.arguments is not None)
    for path, child in module.named_modules():
        child.training = path in record.training
    return module


def _fits(stored: torch.dtype, own: torch.dtype, kind: ModuleKind) -> bool:
    """Whether a module takes a tensor of a dtype: PyTorch's layers any float, as after ``to()``."""
    return stored == own or (kind.is_plain and stored.is_floating_point and own.is_floating_point)


def _put(module: nn.Module, name: str, tensor: Tensor, own: Tensor, *, taken: bool) -> None:
    """Give a module a tensor of the file; one whose code is not ours gets values alone."""
    if not taken:
        give_values(name, own, tensor)
        return
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    registry = registry_of(owner, last)
    if isinstance(registry[last], nn.Parameter) is not isinstance(tensor, nn.Parameter):
        raise FormatError(f"{name!r} of {type(module).__name__} is another kind of tensor")
    registry[last] = tensor


def _another(record: ModuleRecord, name: str) -> FormatError:
    return FormatError(
        f"module {record.path!r} ({record.kind.name}) is another than was saved: {name!r} differs. "
        "Give one that was built the same way"
    )
