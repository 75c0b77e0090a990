"""The plan of regions: the largest parts of a model that can be captured, from the top down.

A module is captured on the largest of its calls, and is a region if its graph agrees with it on
calls of other shapes, too. If not, its children are tried. At the end the regions are tried
together in a copy of the model: what does not fit there is split once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn

from qfx.capture.regions.recording import RecordedCall, Recording, record
from qfx.capture.regions.several import CapturedWay, Capturing, first_line
from qfx.capture.regions.trial import faults
from qfx.capture.regions.unreached import spare_calls
from qfx.capture.tracing import OPAQUE_ROOTS
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from qfx.graph.copying import inference_copy
from qfx.graph.ways import CallForm, way_name

_ROUNDS = 8
"""How often regions that do not fit together are split before the model is given up."""


@dataclass(frozen=True)
class PlannedRegion:
    """A part of a model that is captured by itself.

    Attributes:
        path: its name in the model; the first of several.
        module: it, in the user's model, or for training in a copy of that in eval mode.
        ways: its graphs, whose origins name modules of the whole model.
        calls: how often it was called on the example inputs.
        why: why what is around it is not captured, as (module path, reason).
    """

    path: str
    module: nn.Module
    ways: tuple[CapturedWay, ...]
    calls: int
    why: tuple[str, str]

    @property
    def forms(self) -> dict[CallForm, int]:
        """Which of its graphs takes calls of a form."""
        return {form: at for at, way in reversed([*enumerate(self.ways)]) for form in way.forms}

    def named(self) -> Iterator[tuple[str, CapturedWay]]:
        """Its graphs under names of their own."""
        for at, way in enumerate(self.ways):
            yield way_name(self.path, at), way

    def place_origins(self) -> None:
        """Let the origins of what was captured of it name modules of the whole."""
        for way in self.ways:
            place_origins(way.captured, self.path, self.module)


@dataclass(frozen=True)
class Left:
    """A layer that is in no region, and why."""

    path: str
    module: nn.Module
    call: RecordedCall | None
    why: str


@dataclass(frozen=True)
class RegionPlan:
    """The regions of a model, in the order of its modules, and the layers that are in none.

    Attributes:
        regions: the parts that are captured.
        left: the layers that are in none of them.
        notes: for the report, of what could not be seen.
        spare: layers among ``left`` that the examples don't reach, as regions of their own.
    """

    regions: tuple[PlannedRegion, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()
    spare: tuple[PlannedRegion, ...] = ()

    def with_spare(self, found: Iterable[PlannedRegion]) -> RegionPlan:
        """The same with some of the spare regions."""
        added = tuple(found)
        paths = {region.path for region in added}
        left = tuple(each for each in self.left if each.path not in paths)
        return replace(self, regions=(*self.regions, *added), left=left)


def plan(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    whole: CaptureError | str,
    wanted: Sequence[str] = (),
    modes: bool = False,
) -> RegionPlan:
    """Find the regions of ``model``.

    Args:
        model: never mutated.
        args: the example inputs.
        kwargs: those by keyword.
        whole: why the model is not captured whole.
        wanted: patterns of names of modules that are to be regions, and no others; any if empty.
        modes: as for :func:`qfx.capture.capture.capture`.

    Raises:
        CaptureError: nothing in it can be captured, or not what is ``wanted``.
        ConfigError: a pattern matches no module, or one that the examples don't call; or the
            model raises on the example inputs.
    """
    model = inference_copy(model) if modes else model
    try:
        recording = record(model, args, kwargs)
    except CaptureError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the model raises on the example inputs: {type(error).__name__}: {error}\nWhat to do: "
            "pass example inputs that it takes, or mend the model: it raises without qfx too"
        ) from error
    planner = _Planner(model, recording, modes, first_line(whole))
    for _ in range(_ROUNDS):
        found = planner.found(wanted)
        if not found.regions:
            break
        odd = faults(model, args, kwargs, recording.result, found.regions)
        if not odd:
            found = found if wanted or modes else planner.with_spare(found)
            for region in (*found.regions, *found.spare):
                region.place_origins()
            return found
        planner.refuse(odd)
    if isinstance(whole, CaptureError) and not wanted:
        raise whole
    raise CaptureError(planner.summary(wanted))


class _Planner:
    """Tries modules from the top down, each once."""

    def __init__(self, model: nn.Module, recording: Recording, modes: bool, why: str) -> None:
        self.model = model
        self.recording = recording
        self.capturing = Capturing(modes=modes)
        self.refused = {"": why}
        self._made: dict[str, PlannedRegion] = {}

    def refuse(self, odd: Mapping[str, str]) -> None:
        """Make no regions of these paths, for these reasons."""
        self.refused.update(odd)

    def found(self, wanted: Sequence[str]) -> RegionPlan:
        """The regions as far as is known."""
        seen: set[nn.Module] = set()
        if not wanted:
            steps = list(self._walk("", self.model, "", seen))
        else:
            steps = []
            for path in _outermost(self._matches(wanted)):
                steps += self._wanted(path, seen)
            steps += self._others(seen)
        regions = tuple(each for each in steps if isinstance(each, PlannedRegion))
        left = tuple(each for each in steps if isinstance(each, Left))
        return RegionPlan(regions, left, tuple(filter(None, (self.recording.unheard,))))

    def with_spare(self, found: RegionPlan) -> RegionPlan:
        """``found``, with regions of the layers that are not called."""
        made = []
        for left in found.left:
            calls = spare_calls(left.module) if left.why == _NOT_CALLED else None
            ways = calls and self.capturing.ways(left.module, calls)
            if ways and not isinstance(ways, str):
                made.append(self._placed(left.path, left.module, ways, 0, ""))
        return replace(found, spare=tuple(made))

    def summary(self, wanted: Sequence[str]) -> str:
        """Why no regions came of it."""
        reasons = "; ".join(f"{path or 'the model'}: {why}" for path, why in self.refused.items())
        what = f"the regions {', '.join(map(repr, wanted))}" if wanted else "any part of the model"
        return f"{what} can't be captured. {reasons}"

    def _walk(
        self, path: str, module: nn.Module, around: str, seen: set[nn.Module]
    ) -> Iterator[PlannedRegion | Left]:
        if module in seen or not _has_weights(module):
            return
        seen.add(module)
        region = self._region(path, module, around)
        if region is not None:
            seen.update(module.modules())
            yield region
            return
        children = [(name, child) for name, child in module.named_children()]
        if path and not any(_has_weights(child) for _, child in children):
            yield Left(path, module, self._call(path), self.refused.get(path, _NOT_CALLED))
        around = path if path in self.refused else around
        for name, child in children:
            yield from self._walk(f"{path}.{name}".lstrip("."), child, around, seen)

    def _others(self, seen: set[nn.Module]) -> Iterator[Left]:
        """The layers outside of the regions that were asked for."""
        for path, module in self.model.named_modules():
            if path and module not in seen and _has_weights(module) and not _has_children(module):
                called = self.recording.calls[path].count
                why = "regions= names others" if called else _NOT_CALLED
                yield Left(path, module, self._call(path), why)

    def _wanted(self, path: str, seen: set[nn.Module]) -> Iterator[PlannedRegion]:
        module = self.model.get_submodule(path)
        region = self._region(path, module, "")
        if region is None:
            why = self.refused.get(path, _NOT_CALLED)
            raise CaptureError(
                f"{path!r} is asked for as a region, and can't be one: {why}. What to do: name "
                "parts of it, as in regions=(" + repr(f"{path}.*") + ",)"
            )
        if module not in seen:
            seen.update(module.modules())
            yield region

    def _region(self, path: str, module: nn.Module, around: str) -> PlannedRegion | None:
        """``module`` as a region, unless something speaks against it, which is kept."""
        if path in self.refused:
            return None
        if path not in self._made:
            calls = self.recording.calls[path]
            why = f"it is given a {calls.odd}, which no graph takes" if calls.odd else ""
            if calls.count and isinstance(module, torch.jit.ScriptModule):
                why = "it is compiled by TorchScript"
            if not calls.count:
                return None
            made = why or self._captured(path, module, around)
            if isinstance(made, str):
                self.refused[path] = made
                return None
            self._made[path] = made
        return self._made[path]

    def _captured(self, path: str, module: nn.Module, around: str) -> PlannedRegion | str:
        calls = self.recording.calls[path]
        ways = self.capturing.ways(module, calls)
        if isinstance(ways, str):
            return ways
        return self._placed(path, module, ways, calls.count, around)

    def _placed(
        self, path: str, module: nn.Module, ways: tuple[CapturedWay, ...], calls: int, around: str
    ) -> PlannedRegion:
        return PlannedRegion(path, module, ways, calls, (around, self.refused[around]))

    def _call(self, path: str) -> RecordedCall | None:
        return next(iter(self.recording.calls[path].kept), None)

    def _matches(self, wanted: Sequence[str]) -> list[str]:
        names = [path for path in self.recording.calls if path]
        found: dict[str, None] = {}
        for pattern in wanted:
            matching = [name for name in names if fnmatchcase(name, pattern)]
            if not matching:
                near = get_close_matches(pattern, names, n=3, cutoff=0.5)
                meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise ConfigError(f"regions: {pattern!r} matches no module of the model{meant}")
            called = [name for name in matching if self.recording.calls[name].count]
            if "*" in pattern:
                called = [name for name in called if _has_weights(self.model.get_submodule(name))]
            if not called:
                raise ConfigError(
                    f"regions: {matching[0]!r} is not called on the example inputs. What to do: "
                    "give example inputs that reach it, or name the modules in it that are called"
                )
            found.update(dict.fromkeys(called))
        return list(found)


_NOT_CALLED = "it is not called on the example inputs"


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _has_children(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _outermost(paths: Iterable[str]) -> list[str]:
    """The modules that lie in none of the others."""
    found = set(paths)
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in found)]


def place_origins(captured: fx.GraphModule, path: str, module: nn.Module) -> None:
    """Let the origins of what was captured of a module at ``path`` name modules of the whole."""
    holder = "module" if isinstance(module, OPAQUE_ROOTS) else ""
    for node in captured.graph.nodes:
        meta.set_origins(node, (_placed(o, path, holder) for o in meta.origins(node)))


def _placed(origin: meta.Origin, path: str, holder: str) -> meta.Origin:
    inner = "" if origin.module_path == holder else origin.module_path
    return meta.Origin(origin.node, f"{path}.{inner}".rstrip("."), origin.source, origin.type_name)
