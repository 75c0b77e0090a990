"""Whether a model is captured whole, or in regions: as asked for, or else whole where it can be."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from torch import fx, nn

from qfx.capture.capture import capture
from qfx.capture.data_sizes import DecidedByDataError
from qfx.capture.regions.plan import RegionPlan, plan
from qfx.capture.regions.recording import generates
from qfx.errors import CaptureError
from qfx.graph.copying import inference_copy

_AS_ASKED = "regions= names these parts"
_GENERATES = (
    "it generates: generate() calls it again and again, and a graph would leave that method behind "
    '(regions="whole" captures its forward alone)'
)


def graph_or_regions(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    regions: str | tuple[str, ...],
    *,
    trains: bool,
) -> fx.GraphModule | RegionPlan:
    """The graph of inference, also of a model in training; or of parts of it.

    Args:
        model: what is captured.
        args: the example inputs.
        kwargs: those by keyword.
        regions: "auto", "whole", or names and patterns of submodules.
        trains: whether it is to be trained, in either mode.

    Raises:
        CaptureError: it can't be captured, nor any part of it.
    """
    in_parts = partial(plan, model, args, kwargs, modes=trains)
    if not isinstance(regions, str):
        return in_parts(whole=_AS_ASKED, wanted=regions)
    if regions == "auto" and generates(model):
        return in_parts(whole=_GENERATES)
    source = inference_copy(model) if trains else model
    as_whole = partial(capture, source, args, kwargs, modes=trains, keep_expected=True)
    if regions == "whole":
        return as_whole()
    try:
        return as_whole(data_sizes=False)
    except CaptureError as error:
        why = error
    if not isinstance(why, DecidedByDataError):
        return in_parts(whole=why)
    with suppress(CaptureError):  # no part can be captured either: the whole, bound to that size
        return in_parts(whole=str(why))
    return as_whole()
