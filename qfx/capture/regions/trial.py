"""Whether regions compute what the modules compute whose place they take.

By themselves, on the calls that were recorded; and together, in a copy of the model, where what is
around them may look at more than what they return: at their attributes and weights, at what lies in
the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qfx.capture.arguments import copy_tensors
from qfx.capture.examples import alike
from qfx.graph.copying import buffers_restored, deep_copied, side_effects_undone
from qfx.graph.effects import changing, is_given_element
from qfx.graph.in_place import ReplacedModule, of_class, place_of, tell_dtype
from qfx.graph.lazy import lazily
from qfx.graph.ways import Ways
from qfx.private_attributes import version_of
from qfx.torch_private import pytree

if TYPE_CHECKING:
    from qfx.capture.regions.plan import PlannedRegion
    from qfx.capture.regions.recording import RecordedCall

_OTHER_VALUES = "its graph computes something else in another of its calls"
_OTHER_ARGUMENTS = "its graph leaves its arguments otherwise than it does"
_SHARED_MEMORY = "what it returns shares memory with what it is given"


class Disagreement(NamedTuple):
    """How a graph differs from its module in a call.

    Attributes:
        why: in words.
        refuses: whether it raises, rather than computes something else.
    """

    why: str
    refuses: bool = False


class CallOutcome:
    """What a call yields, what it leaves of its arguments, and which it returns parts of."""

    def __init__(self, result: object, arguments: object) -> None:
        self.result, self.arguments = result, arguments
        given = {_memory(t): i for i, t in enumerate(_tensors(arguments))}
        self.shared = [given.get(_memory(t)) for t in _tensors(result)]


def outcome(module: nn.Module, call: RecordedCall) -> CallOutcome:
    """What a call of a copy of ``module`` comes to."""
    with side_effects_undone(module):
        return _run(deep_copied(module), call)


def disagreement(
    captured: fx.GraphModule, theirs: CallOutcome, call: RecordedCall
) -> Disagreement | None:
    """How a graph differs in ``call`` from its module, of which ``theirs`` is; None if not."""
    with side_effects_undone(captured), buffers_restored(captured):
        try:
            ours = _run(_quietly(captured), call)
        except Exception as error:
            said = str(error).partition("\n")[0]
            return Disagreement(f"in another of its calls: {said}", refuses=True)
        found = _difference(ours, theirs)
    return Disagreement(found) if found else None


def has_way_out(captured: fx.GraphModule) -> bool:
    """Whether a call that a graph refuses halfway can be answered by something else.

    Not if it has written by then to what it was given, or to what it keeps.
    """
    return not any(node.op in ("placeholder", "get_attr") for node in changing(captured.graph))


def _writes_arguments(captured: fx.GraphModule) -> bool:
    changed = changing(captured.graph)
    return any(node.op == "placeholder" or is_given_element(node) for node in changed)


def _run(module: Callable[..., Any], call: RecordedCall) -> CallOutcome:
    args, kwargs = copy_tensors((call.args, call.kwargs))
    return CallOutcome(module(*args, **kwargs), (args, kwargs))


def _quietly(captured: fx.GraphModule) -> Callable[..., Any]:
    """Calls a graph; fx prints its code where that raises, which a graph that refuses does."""
    return partial(nn.Module.__call__, captured)


def _difference(ours: CallOutcome, theirs: CallOutcome) -> str:
    if not alike(ours.result, theirs.result):
        return _OTHER_VALUES
    if not alike(ours.arguments, theirs.arguments):
        return _OTHER_ARGUMENTS
    views = [
        i is not None and not any(t is a for a in _tensors(theirs.arguments))
        for i, t in zip(theirs.shared, _tensors(theirs.result), strict=True)
    ]
    return _SHARED_MEMORY if any(views) or ours.shared != theirs.shared else ""


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    if tensor.layout is not torch.strided or not tensor.numel():
        return -id(tensor)
    return tensor.untyped_storage().data_ptr()


def faults(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    expected: object,
    regions: Sequence[PlannedRegion],
) -> dict[str, str]:
    """Which regions do not fit into the model, and why; empty if all do.

    The model runs once with the graphs of all regions in place.
    """
    tried = {region.module: _tried(region) for region in regions}
    root = deep_copied(model, tried)
    failed: Exception | None = None
    kept = [_ReadBuffers(region.path, way.captured) for region in regions for way in region.ways]
    with side_effects_undone(model), ExitStack() as undo:
        for each in kept:
            undo.enter_context(buffers_restored(each.captured))
        try:
            result = root(*copy_tensors(args), **copy_tensors(dict(kwargs)))
        except Exception as error:
            failed = error
        for each in kept:  # before any is put back: graphs share some
            each.compare()
    found = {each.path: each.fault for each in kept if each.fault}
    found |= {each.region.path: each.fault for each in tried.values() if each.fault}
    if found:
        return found
    if failed is not None:
        why = f"with it, the model raises {type(failed).__name__}: {failed}"
    elif not alike(result, expected) and _repeats(model, args, kwargs, expected):
        why = "the model computes something else with it"
    else:
        return {}
    half = len(regions) // 2
    for part in (regions[:half], regions[half:]) if half else ():
        found |= faults(model, args, kwargs, expected, part)
    return found or {region.path: why for region in regions}


def _repeats(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], expected: object
) -> bool:
    """Whether the model, run again, yields the same."""
    root = deep_copied(model)
    with side_effects_undone(model):
        return alike(root(*copy_tensors(args), **copy_tensors(dict(kwargs))), expected)


class _ReadBuffers:
    """The buffers that a graph reads and never writes to: a pass may take them for constants."""

    def __init__(self, path: str, captured: fx.GraphModule) -> None:
        self.path, self.captured, self.fault = path, captured, ""
        read = {node.target for node in captured.graph.nodes if node.op == "get_attr"}
        read -= {node.target for node in changing(captured.graph)}
        named = captured.named_buffers()
        self._buffers = {n: b for n, b in named if n in read and not b.is_inference()}
        self._before = {name: version_of(buffer) for name, buffer in self._buffers.items()}

    def compare(self) -> None:
        """Note it if somebody wrote to one, which it has returned."""
        for name, buffer in self._buffers.items():
            if version_of(buffer) != self._before[name]:
                self.fault = f"code around it writes to {name!r}, which it returns"


class _Tried(nn.Module):
    """Runs the graph of a region, and notes what is read of it that a graph does not have.

    What is read is served from a copy: the user's module stays as it is.
    """

    def __init__(self, region: PlannedRegion) -> None:
        super().__init__()
        original = deep_copied(region.module)
        place = place_of(original)
        ways: Ways[fx.GraphModule]
        ways = Ways([way.captured for way in region.ways[1:]], region.forms)
        lazy = all(has_way_out(way.captured) for way in region.ways)
        self.__dict__.update(region=region, ways=ways, original=original, place=place, fault="")
        writes = any(_writes_arguments(way.captured) for way in region.ways)
        self.__dict__.update(lazy=lazy, writes=writes)
        self.__dict__.update(place.attributes)
        self.training = region.module.training
        tell_dtype(self, next(original.parameters()))
        self.__dict__["ready"] = True

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tried:
        return self

    def __getattr__(self, name: str) -> Any:
        place: ReplacedModule = self.__dict__["place"]
        if name in place.parts:
            return self._part(name)
        return of_class(self, place.kind, name)

    def _part(self, name: str) -> Any:
        """A part of the module, which a graph has not; its shape and dtype may be asked for."""
        read, fault = getattr(self.__dict__["original"], name), f"the model reads {name!r} of it"

        def values() -> Tensor:
            self.note(fault)
            found: Tensor = read
            return found

        if isinstance(read, Tensor) and self.__dict__["lazy"]:
            return lazily(read, values, read.device)
        self.note(fault)
        return read

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("ready"):
            self.note(f"the model sets {name!r} of it")
        super().__setattr__(name, value)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the module, which a graph has not."""
        self.note("the model reads its parameters")
        found: Iterator[tuple[str, nn.Parameter]]
        found = self.__dict__["original"].named_parameters(*args, **kwargs)
        return found

    def train(self, mode: bool = True) -> _Tried:
        """Note that the model switches its mode, if it does."""
        if mode != self.training:
            self.note("the model switches its mode")
        return self

    def note(self, fault: str) -> None:
        """Keep what speaks against the region; the first counts."""
        self.__dict__["fault"] = self.__dict__["fault"] or fault

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph that takes the call."""
        graphs = [_quietly(way.captured) for way in self.__dict__["region"].ways]
        memory = [_memory(tensor) for tensor in _tensors((args, kwargs))]
        if self.__dict__["writes"] and len({*memory}) < len(memory):
            self.note("it writes to what it is given, and is given parts of one tensor")
        try:
            return self.__dict__["ways"].answer(graphs, args, kwargs)
        except Exception as error:
            self.note(f"{type(error).__name__}: {error}".partition("\n")[0])
            raise


_OF_CONTAINERS = ("__getitem__", "__len__", "__iter__", "__contains__", "__reversed__")
"""What Python looks up in classes, and containers of modules have."""


def _tried(region: PlannedRegion) -> _Tried:
    """A module that is taken for one of the class of the region."""
    kind = type(region.module)
    body: dict[str, Any] = {"__class__": property(lambda self: kind)}
    body |= {name: _reading(name) for name in _OF_CONTAINERS if hasattr(kind, name)}
    made: _Tried = type("_Tried", (_Tried,), body)(region)
    return made


def _reading(name: str) -> Callable[..., Any]:
    def read(self: _Tried, *args: Any) -> Any:
        self.note("the model looks into it as into a container")
        return getattr(self.__dict__["original"], name)(*args)

    return read
