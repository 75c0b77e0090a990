"""quantize, prepare, calibrate, convert for models that are captured in several regions.

plan -> each region prepared, in place -> the model calibrates them all -> each converted, in place
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from qfx.argument_checks import idle_passes
from qfx.capture.limits import not_kept
from qfx.capture.regions.plan import Left, PlannedRegion, RegionPlan
from qfx.capture.regions.several import CapturedWay
from qfx.capture.regions.trial import has_way_out
from qfx.conversion import check_result, use_up
from qfx.graph.copying import copy_of, deep_copied
from qfx.graph.in_place import tell_dtype
from qfx.graph.opaque_macs import called_macs, macs_of_run
from qfx.graph.ways import Ways, form_of, region_of, way_name, ways_of
from qfx.history.merging import merged_history
from qfx.preparation import PrepareRequest, prepare_graph
from qfx.private_attributes import parameters_held, tensors_held
from qfx.quant.reasons import refusal
from qfx.report.merging import merged_report
from qfx.report.outcomes import size_bytes
from qfx.report.sites import Site
from qfx.runtime.calibration import calibrated, run_example
from qfx.runtime.inside import over_codes
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import RegionalContext, RegionFacts, Regions, join_ways, with_regions

_WITHOUT_DATA = ("dynamic", "weight_only")
"""Methods for which a layer need not be called to be quantized."""


def prepare_regions(
    request: PrepareRequest,
    model: nn.Module,
    plan: RegionPlan,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """A copy of ``model`` whose regions are prepared."""
    regions = (*plan.regions, *(plan.spare if request.method in _WITHOUT_DATA else ()))
    ways = {name: (r, way) for r in regions for name, way in r.named()}
    first = plan.regions[0].path
    configured = {
        name: request.configured(way.captured, model, quiet=name != first)
        for name, (_, way) in ways.items()
    }
    idle = set.intersection(*(set(each.unmatched) for each in configured.values()))
    for warning in (*sorted(idle), *idle_passes(request.pipeline)):
        configured[first].warn(warning)
    for note in plan.notes:
        configured[first].note(note)
    made: dict[nn.Module, PreparedModel] = {}
    graphs: dict[str, PreparedModel] = {}
    for name, (region, way) in ways.items():
        configuration, module = configured[name], model.get_submodule(region.path)
        for warning in not_kept(module, way.captured, request.method):
            configuration.warn(f"region {name}: {warning}")
        graphs[name] = prepare_graph(
            request, way.captured, module, configuration, *way.call, region=name
        )
        if not region.calls and graphs[name].has_observers:
            del graphs[name]  # which nothing will calibrate
            continue
        made.setdefault(module, graphs[name])
    plan = plan.with_spare(region for region in plan.spare if region.path in graphs)
    work, left = _work(model, plan, args, kwargs)
    surroundings = RegionalContext(
        args,
        kwargs,
        {name: _facts(*ways[name]) for name in graphs},
        left,
        size_bytes(model),
        _size_outside(model, plan),
        work,
    )
    if request.method == "qat":
        tied = _tied(model, graphs)
    else:
        tied, forms = {}, {r.path: r.forms for r in plan.regions}
        join_ways(graphs, dict(_insides(model, plan)), forms)
    return with_regions(model, made, Regions(graphs, surroundings), tied)


def _facts(region: PlannedRegion, way: CapturedWay) -> RegionFacts:
    """What the plan knows of one graph; calls of which nothing was kept count as the first's."""
    calls = sum(way.forms.values())
    if way is region.ways[0]:
        calls = region.calls - sum(sum(w.forms.values()) for w in region.ways[1:])
    return RegionFacts(type(region.module).__name__, calls, *region.why)


def _insides(model: nn.Module, plan: RegionPlan) -> Iterator[tuple[str, nn.Module]]:
    """The modules that answer where no graph of a region does, over the tensors of its graphs."""
    for region in plan.regions:
        if not all(has_way_out(way.captured) for way in region.ways):
            continue
        module = model.get_submodule(region.path)
        captured = region.ways[0].captured
        held = dict((*captured.named_parameters(), *captured.named_buffers()))
        named = (*module.named_parameters(), *module.named_buffers())
        tensors = {t: held[n] for n, t in named if n in held and held[n].shape == t.shape}
        yield region.path, copy_of(module, tensors)


def _tied(model: nn.Module, graphs: Mapping[str, PreparedModel]) -> dict[Tensor, Tensor]:
    """What each parameter in a region became; one that several share is the same in all."""
    found: dict[Tensor, Tensor] = {}
    for path, graph in graphs.items():
        module = model.get_submodule(path)
        theirs = dict(module.named_parameters(remove_duplicate=False))
        for name, parameter in list(graph.named_parameters(remove_duplicate=False)):
            original = theirs.get(name)
            if original is None:
                continue
            first = found.setdefault(original, parameter)
            owner, _, leaf = name.rpartition(".")
            parameters_held(graph.get_submodule(owner))[leaf] = cast(nn.Parameter, first)
    return found


def convert_regions(
    prepared: nn.Module,
    regions: Regions[PreparedModel],
    *,
    min_coverage: float | None,
    check: bool,
    copies: bool = True,
) -> nn.Module:
    """A copy of a prepared model of regions whose regions are quantized.

    Args:
        prepared: the model.
        regions: its regions.
        min_coverage: least fraction of multiply-accumulates that must run in integers.
        check: compare with the float model and the reference form on the way.
        copies: leave the prepared regions as they are, rather than use them up.
    """
    graphs: dict[str, QuantizedModel] = {}
    weight = next((p for p in prepared.parameters() if p.is_floating_point()), None)
    notes = dict(_unreached(regions))
    for name, region in regions.items():
        first = graphs.get(region_of(name))
        source = region.copy_to_convert() if copies else region
        if name in notes:
            source = copy.deepcopy(region) if copies else region
            run_example(calibrated(source))
        like = None if first is None else first.reference
        graphs[name] = use_up(source, min_coverage=None, check=check, empty=True, like=like)
    insides, more = _over_codes(regions, graphs, copies=copies)
    join_ways(graphs, insides, {name: ways.forms for name, ways in _ways(regions)})
    surroundings = regions.surroundings
    made: dict[nn.Module, QuantizedModel]
    made = {region: graphs[name] for name, region in regions.items()}
    result = with_regions(prepared, made, Regions(graphs, surroundings))
    if weight is not None and not any(p.is_floating_point() for p in result.parameters()):
        tell_dtype(next(iter(graphs.values())), weight)
    history = merged_history({name: graph.history for name, graph in graphs.items()})
    report = merged_report(
        {name: graph.report for name, graph in graphs.items()},
        surroundings.left,
        size_bytes=(surroundings.size_before, _held(graphs) + more + surroundings.size_left),
        history=history,
        work=surroundings.work,
        warnings=(*surroundings.warnings, *notes.values()),
    )
    check_result(report, min_coverage)
    result.__dict__.update(report=report, history=history)
    return result


def _ways(regions: Regions[PreparedModel]) -> Iterator[tuple[str, Ways[PreparedModel]]]:
    for name, region in regions.items():
        ways = ways_of(region)
        if ways is not None:
            yield name, ways


def _unreached(regions: Regions[PreparedModel]) -> Iterator[tuple[str, str]]:
    """Graphs that saw no data though others of their region did, and a note of each."""
    reached = {region_of(name) for name, graph in regions.items() if graph.was_calibrated}
    for name, graph in regions.items():
        if region_of(name) in reached and not graph.was_calibrated:
            yield name, _UNREACHED.format(name=name)


_UNREACHED = (
    "no calibration data reached {name}, a graph of a region that is called in several ways: its "
    "ranges come from the call that the example inputs make. Give data that reaches it"
)


def _over_codes(
    regions: Regions[PreparedModel], graphs: Mapping[str, QuantizedModel], *, copies: bool
) -> tuple[dict[str, nn.Module], int]:
    """What answers where no graph does, over the weights of the graphs, and its bytes besides."""
    found: dict[str, nn.Module] = {}
    more = 0
    for name, ways in _ways(regions):
        inside = ways.inside
        if inside is None:
            continue
        if copies:
            inside = deep_copied(
                inside, None, {t: t for t in (*inside.parameters(), *inside.buffers())}
            )
        of_region = [graph for each, graph in graphs.items() if region_of(each) == name]
        found[name], needed = over_codes(inside, of_region)
        more += needed
    return found, more


def _held(graphs: Mapping[str, QuantizedModel]) -> int:
    """Bytes of the tensors of all graphs; those of one region share some."""
    held = (g.reference for g in graphs.values())
    tensors = {id(t): t for g in held for t in (*g.parameters(), *g.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _work(
    model: nn.Module, plan: RegionPlan, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Mapping[str, int] | None, tuple[Site, ...]]:
    """What the regions compute in one run, and the sites of all that is in none of them."""
    forms = {r.path: r.forms for r in plan.regions}

    def name(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        known = forms.get(path, {})
        return way_name(path, known.get(form_of(args, kwargs), 0)) if known else path

    found = macs_of_run(model, args, kwargs, (*forms, *(each.path for each in plan.left)), name)
    if found is None:
        alone = (called_macs(e.module, *e.call) if e.call is not None else 0 for e in plan.left)
        sites = [_outside(e, macs) for e, macs in zip(plan.left, alone, strict=True)]
        return None, (*sites, _outside(None, None))
    total, inside = found
    sites = [_outside(each, inside[each.path]) for each in plan.left]
    between = total - inside.total()
    if between > 0:
        sites.append(_outside(None, between))
    return {name: inside[name] for r in plan.regions for name, _ in r.named()}, tuple(sites)


def _outside(left: Left | None, macs: int | None) -> Site:
    """The site of a layer in no region; None is what Python computes between them."""
    kind = "code" if left is None else type(left.module).__name__
    why = "it stands between them" if left is None else left.why
    decision = refusal("outside-regions", op=kind, why=why)
    path = "" if left is None else left.path
    return Site(
        node=path or "between regions",
        module_path=path,
        source="",
        op=kind,
        decision="float",
        kernel="",
        reason=decision.reason,
        message=decision.message,
        remedy=decision.remedy,
        macs=macs or 0,
        region="",
        unknown_macs=macs is None,
    )


def _size_outside(model: nn.Module, plan: RegionPlan) -> int:
    """Bytes of the parameters and buffers of what is in no region."""
    inside = {m for r in plan.regions for m in model.get_submodule(r.path).modules()}
    outside = (m for m in model.modules() if m not in inside)
    held = (t for m in outside for of in tensors_held(m) for t in of.values())
    tensors = (t for t in held if t is not None)
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
