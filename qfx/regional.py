"""quantize, prepare, calibrate, convert for models that are captured in several regions.

plan -> each region prepared, in place -> the model calibrates them all -> each converted, in place
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from qfx.argument_checks import idle_passes
from qfx.capture.limits import not_kept
from qfx.capture.regions.plan import Left, Plan
from qfx.conversion import check_result, use_up
from qfx.graph.opaque_macs import called_macs, macs_of_run
from qfx.history.merging import merged_history
from qfx.preparation import Request, prepare_graph
from qfx.quant.reasons import refusal
from qfx.report.merging import merged_report
from qfx.report.sites import Site, size_bytes
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.quantized import QuantizedModel
from qfx.runtime.regions import RegionFacts, Regions, Surroundings, with_regions


def prepare_regions(
    request: Request,
    model: nn.Module,
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """A copy of ``model`` whose regions are prepared."""
    first = plan.regions[0].path
    configured = {
        r.path: request.configured(r.captured, model, quiet=r.path != first) for r in plan.regions
    }
    idle = set.intersection(*(set(each.unmatched) for each in configured.values()))
    for warning in (*sorted(idle), *idle_passes(request.pipeline)):
        configured[first].warn(warning)
    made: dict[nn.Module, PreparedModel] = {}
    graphs: dict[str, PreparedModel] = {}
    for region in plan.regions:
        configuration, module = configured[region.path], model.get_submodule(region.path)
        for warning in not_kept(module, region.captured, request.method):
            configuration.warn(f"region {region.path}: {warning}")
        graphs[region.path] = made[module] = prepare_graph(
            request, region.captured, module, configuration, *region.call, region=region.path
        )
    work, left = _work(model, plan, args, kwargs)
    surroundings = Surroundings(
        args,
        kwargs,
        {r.path: RegionFacts(type(r.module).__name__, r.calls, *r.why) for r in plan.regions},
        left,
        size_bytes(model),
        _size_outside(model, plan),
        work,
    )
    tied = _tied(model, graphs) if request.method == "qat" else {}
    return with_regions(model, made, Regions(graphs, surroundings), tied)


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
            graph.get_submodule(owner)._parameters[leaf] = cast(nn.Parameter, first)
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
    made: dict[nn.Module, QuantizedModel] = {}
    for region in regions.values():
        source = region.copy_to_convert() if copies else region
        made[region] = use_up(source, min_coverage=None, check=check, empty=True)
    graphs = {name: made[region] for name, region in regions.items()}
    surroundings = regions.surroundings
    result = with_regions(prepared, made, Regions(graphs, surroundings))
    sizes = [graph.report.size_bytes[1] for graph in graphs.values()]
    history = merged_history({name: graph.history for name, graph in graphs.items()})
    report = merged_report(
        {name: graph.report for name, graph in graphs.items()},
        surroundings.left,
        size_bytes=(surroundings.size_before, sum(sizes) + surroundings.size_left),
        history=history,
        work=surroundings.work,
        warnings=surroundings.warnings,
    )
    check_result(report, min_coverage)
    result.__dict__.update(report=report, history=history)
    return result


def _work(
    model: nn.Module, plan: Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Mapping[str, int] | None, tuple[Site, ...]]:
    """What the regions compute in one run, and the sites of all that is in none of them."""
    regions, others = [r.path for r in plan.regions], [each.path for each in plan.left]
    found = macs_of_run(model, args, kwargs, (*regions, *others))
    if found is None:
        alone = (called_macs(e.module, *e.call) if e.call is not None else 0 for e in plan.left)
        sites = [_outside(e, macs) for e, macs in zip(plan.left, alone, strict=True)]
        return None, (*sites, _outside(None, None))
    total, inside = found
    sites = [_outside(each, inside[each.path]) for each in plan.left]
    between = total - inside.total()
    if between > 0:
        sites.append(_outside(None, between))
    return {path: inside[path] for path in regions}, tuple(sites)


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


def _size_outside(model: nn.Module, plan: Plan) -> int:
    """Bytes of the parameters and buffers of what is in no region."""
    inside = {m for r in plan.regions for m in model.get_submodule(r.path).modules()}
    outside = (m for m in model.modules() if m not in inside)
    tensors = (
        t for m in outside for t in (*m._parameters.values(), *m._buffers.values()) if t is not None
    )
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
