"""How the calls of a region are answered, as JSON: by which of its graphs, or by the module itself.

Of the module as it is written a file holds the tensors that no graph has; a weight that is restored
from the codes of a graph is named by the node of its reference form that restores it. The code is
the user's, and comes from the model that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import FormatError
from qfx.graph import meta
from qfx.graph.copying import copy_of, deep_copied
from qfx.graph.ways import MOST_WAYS, CallForm, Ways
from qfx.private_attributes import gather_flat_weights, tensors_held
from qfx.runtime.held import HeldWeight, Restored, Stacked, held_weight_of, restores
from qfx.runtime.inside import hold, weights_held
from qfx.runtime.quantized import QuantizedModel
from qfx.storage import limits
from qfx.storage.fields import Fields, Json
from qfx.storage.tensors import TensorSource, TensorStore
from qfx.storage.values import DTYPE_NAMES

_KINDS: tuple[type, ...] = (list, tuple, dict, int, float, complex, range, slice)
_TYPES = {kind.__name__: kind for kind in _KINDS}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def registered(module: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, Any], str]]:
    """Name, owner, registry and name there of each tensor of a module, by all of its names."""
    for path, owner in module.named_modules(remove_duplicate=False):
        for registry in tensors_held(owner):
            for leaf, tensor in list(registry.items()):
                if tensor is not None:
                    yield f"{path}.{leaf}".lstrip("."), owner, registry, leaf


# -- writing -------------------------------------------------------------------------------------
def write_ways(ways: Ways[Any], store: TensorStore) -> Json:
    """How calls are answered.

    Raises:
        FormatError: an attribute of the module was set, which no file tells.
    """
    check_as_made(ways)
    # Calls with instances of classes of the user's are tried anew.
    forms: list[Json] = [[_write_form(f), at] for f, at in ways.forms.items() if _is_told(f)]
    written: dict[str, Json] = {"forms": forms}
    if ways.inside is not None:
        written["inside"] = _write_inside(ways.inside, store)
    return written


def check_as_made(ways: Ways[Any]) -> None:
    """FormatError where an attribute of the module was set, which no file tells."""
    if ways.outdated:
        raise FormatError(
            f"its attribute {ways.outdated!r} was set since it was made, and a file holds the "
            "region as it was made. Quantize the model with that attribute set"
        )


def _is_told(form: object) -> bool:
    """Whether a file can tell a form of calls."""
    if isinstance(form, tuple):
        return all(map(_is_told, form))
    return form is None or isinstance(form, (bool, int, str, torch.dtype)) or form in _NAMES


def _write_form(form: Any) -> Json:
    if isinstance(form, tuple):
        return [_write_form(each) for each in form]
    if isinstance(form, torch.dtype):
        return {"dtype": str(form).removeprefix("torch.")}
    if isinstance(form, type):
        return {"type": _NAMES[form]}
    plain: Json = form
    return plain


def _write_inside(module: nn.Module, store: TensorStore) -> Json:
    state: dict[str, Json] = {}
    for name, _, registry, leaf in registered(module):
        state[name] = store.keep(registry[leaf], f"inside.{name}")
    held: dict[str, Json] = {}
    for name, each in weights_held(module):
        held[name] = _write_restored(each, name, store)
    training: list[Json] = [path for path, m in module.named_modules() if m.training]
    return {"state": state, "held": held, "training": training}


def _write_restored(weight: Restored, name: str, store: TensorStore) -> Json:
    if isinstance(weight, Stacked):
        parts = enumerate(weight.parts)
        return {"parts": [_write_restored(each, f"{name}_{at}", store) for at, each in parts]}
    said: dict[str, Json] = {"graph": weight.graph, "node": weight.node}
    if weight.turned:
        said["turned"] = True
    for which, scales in (("rows", weight.rows), ("columns", weight.columns)):
        if scales is not None:
            said[which] = store.keep(scales, f"inside.{name}_{which}")
    said["dtype"] = str(weight.dtype).removeprefix("torch.")
    return said


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class HeldRecord:
    """A weight that a graph restores: see :class:`~qfx.runtime.held.HeldWeight`."""

    graph: int
    node: str
    turned: bool
    rows: Tensor | None
    columns: Tensor | None
    dtype: torch.dtype


@dataclass(frozen=True)
class StackedRecord:
    """A weight that graphs restore in parts: see :class:`~qfx.runtime.held.Stacked`."""

    parts: tuple[HeldRecord, ...]


@dataclass(frozen=True)
class InsideRecord:
    """The module as it is written, checked.

    Attributes:
        state: its tensors: name -> name in the file.
        held: its weights that graphs restore.
        training: paths of its modules that are in training mode.
    """

    state: Mapping[str, str]
    held: Mapping[str, HeldRecord | StackedRecord]
    training: frozenset[str]


@dataclass(frozen=True)
class WaysRecord:
    """How calls of a region are answered, checked."""

    forms: Mapping[CallForm, int]
    inside: InsideRecord | None


def read_ways(fields: Fields, source: TensorSource) -> WaysRecord:
    """What :func:`write_ways` wrote."""
    forms: dict[CallForm, int] = {}
    for pair in fields.items("forms"):
        right = type(pair) is list and len(pair) == 2 and type(pair[1]) is int
        if not right or not 0 <= pair[1] < MOST_WAYS:
            fields.refuse("forms", "holds something that is no form, and a graph for it")
        forms[_read_form(pair[0], fields.place)] = pair[1]
    inside = _read_inside(fields.record("inside"), source) if fields.has("inside") else None
    fields.any("inside")
    fields.close()
    return WaysRecord(forms, inside)


def _read_form(value: Any, place: str, depth: int = 0) -> CallForm:
    if value is None or type(value) in (bool, int, str):
        return value  # type: ignore[no-any-return]
    if depth > limits.DEPTH:
        raise FormatError(f"{place} is nested more than {limits.DEPTH} deep")
    if type(value) is list:
        return tuple([_read_form(each, place, depth + 1) for each in value])
    word = next(iter(value.items())) if type(value) is dict and len(value) == 1 else ("", "")
    tables: dict[str, dict[str, Any]] = {"dtype": DTYPE_NAMES, "type": _TYPES}
    known = tables.get(word[0], {})
    if type(word[1]) is not str or word[1] not in known:
        raise FormatError(f"{place}.forms holds something that is no form of a call")
    found: CallForm = known[word[1]]
    return found


def _read_inside(fields: Fields, source: TensorSource) -> InsideRecord:
    state, held = fields.record("state"), fields.record("held")
    record = InsideRecord(
        {name: state.text(name) for name in state.names()},
        {name: _read_restored(held.record(name), source) for name in held.names()},
        frozenset(fields.texts("training")),
    )
    fields.close()
    return record


def _read_restored(fields: Fields, source: TensorSource) -> HeldRecord | StackedRecord:
    if not fields.has("parts"):
        return _read_held(fields, source)
    parts = tuple(_read_held(each, source) for each in fields.records("parts"))
    fields.close()
    return StackedRecord(parts)


def _read_held(fields: Fields, source: TensorSource) -> HeldRecord:
    scales = [source.find(fields.text(n)) if fields.has(n) else None for n in ("rows", "columns")]
    fields.any("rows"), fields.any("columns")
    record = HeldRecord(
        fields.integer("graph", 0, MOST_WAYS - 1),
        fields.text("node"),
        fields.flag("turned", False),
        scales[0],
        scales[1],
        DTYPE_NAMES[fields.choice("dtype", DTYPE_NAMES)],
    )
    fields.close()
    return record


# -- putting together ----------------------------------------------------------------------------
def build_inside(
    record: InsideRecord,
    module: nn.Module,
    graphs: Sequence[nn.Module],
    source: TensorSource,
) -> nn.Module:
    """A copy of the user's ``module`` with the tensors that it had, and those of its graphs."""
    copied = copy_of(deep_copied(module).eval())
    own = {name: (owner, registry, leaf) for name, owner, registry, leaf in registered(copied)}
    different = sorted(own.keys() ^ {*record.state, *record.held})
    if different:
        raise _other(different[0])
    for name, stored in record.state.items():
        _, registry, leaf = own[name]
        registry[leaf] = _put(name, source.find(stored), registry[leaf], stored, source)
    held: dict[nn.Module, dict[str, Restored]] = {}
    for name, said in record.held.items():
        owner, registry, leaf = own[name]
        held.setdefault(owner, {})[leaf] = _restored(name, said, graphs, registry[leaf])
        del registry[leaf]
    for owner, weights in held.items():
        hold(owner, weights)
    for owner in copied.modules():
        if isinstance(owner, nn.RNNBase) and owner not in held:
            gather_flat_weights(owner)
    for path, owner in copied.named_modules():
        owner.training = path in record.training
    return copied


def _put(name: str, tensor: Tensor, ours: Tensor, stored: str, source: TensorSource) -> Tensor:
    if (tensor.shape, tensor.dtype) != (ours.shape, ours.dtype):
        raise _other(name)
    if stored in source.parameters:
        return source.parameters[stored]
    if not isinstance(ours, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=ours.requires_grad)


def _restored(
    name: str, said: HeldRecord | StackedRecord, graphs: Sequence[nn.Module], ours: Tensor
) -> Restored:
    if isinstance(said, HeldRecord):
        return _held(name, said, graphs, ours)
    if ours.dim() < 3 or len(said.parts) != len(ours):
        raise _other(name)
    parts = zip(said.parts, ours, strict=True)
    return Stacked(tuple(_held(name, part, graphs, our) for part, our in parts))


def _held(name: str, said: HeldRecord, graphs: Sequence[nn.Module], ours: Tensor) -> HeldWeight:
    graph = graphs[said.graph] if said.graph < len(graphs) else None
    if not isinstance(graph, QuantizedModel):
        raise FormatError(f"weight {name[:200]!r} is one of a graph that the region has not")
    reference = graph.reference
    node = next((n for n in reference.graph.nodes if n.name == said.node), None)
    if node is None or not restores(node):
        raise FormatError(f"weight {name[:200]!r} is restored by no node {said.node[:80]!r}")
    info = meta.tensor_info(node)
    shape = () if info is None else tuple(info.shape)
    shape = (*shape[:-2], *shape[:-3:-1]) if said.turned else shape
    if info is None or tuple(shape) != tuple(ours.shape) or said.dtype != ours.dtype:
        raise _other(name)
    for scales in (said.rows, said.columns):
        if scales is not None and not _scales(scales.shape, shape):
            raise FormatError(f"weight {name[:200]!r} has scales of another shape")
    numbers = (said.turned, said.rows, said.columns, said.dtype)
    return held_weight_of(node, reference, said.graph, *numbers)


def _scales(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether scales of a shape are multiplied with a weight that keeps its own."""
    fits = (n in (1, size) for n, size in zip(shape, whole, strict=False))
    return len(shape) == len(whole) and all(fits)


def _other(name: str) -> FormatError:
    return FormatError(
        f"the model is another than was saved: {name[:200]!r} of a region differs. Give the float "
        "model that was quantized, or one that was built the same way"
    )
