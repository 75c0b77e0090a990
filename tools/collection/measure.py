"""Quantize one model and measure what came of it.

Times are of the processor, of one thread: other work on the machine does not count.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import qfx
from qfx.numerics.measures import sqnr
from qfx.runtime.regions import regions_of, with_regions
from tools.collection.row import LEAST_SQNR, Row
from tools.collection.subject import Call, Entry, Subject

_NOISE = 0.01  # 40 dB, about that of an 8-bit layer
_ROUNDS = 7
_TIMING = 2.0  # seconds that timing a model may take


def measure(entry: Entry, *, backend: str = "auto", short: bool = False) -> Row:
    """Build, quantize and compare; what is raised on the way is the row's error.

    Args:
        entry: which model, and how it is quantized.
        backend: as for ``qfx.quantize``.
        short: whether to run it at the captured size only, and not to time it.
    """
    torch.set_num_threads(1)
    try:
        subject = entry.build(entry.name)
    except Exception as error:
        return Row(entry.key, error=f"can't be built: {in_a_line(error)}")
    try:
        return _measured(entry, subject, backend, short)
    except Exception as error:
        return Row(entry.key, error=in_a_line(error), parameters=count(subject.model))


def in_a_line(error: Exception) -> str:
    """The type and the message of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def count(model: nn.Module) -> int:
    """How many parameters a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def _measured(entry: Entry, subject: Subject, backend: str, short: bool) -> Row:
    model, first = subject.model, subject.calls[0]
    start = time.process_time()
    quantized = qfx.quantize(
        model,
        first.args,
        example_kwargs=first.kwargs,
        method=entry.method,
        backend=backend,
        progress=False,
        calibration_data=subject.calibration if entry.method == "static" else None,
    )
    seconds = time.process_time() - start
    taken, refused = _guarded(quantized, subject.calls[:1] if short else subject.calls)
    reference = _reference(quantized)
    figures = [_decibels(model, quantized, reference, call) for call in taken]
    of_model, of_reference, of_kernels = zip(*figures, strict=True)
    return Row(
        entry.key,
        calls=len(figures),
        parameters=count(model),
        coverage=quantized.report.coverage,
        sqnr=of_model[0],
        worst=_worst(of_model),
        reference=_worst(of_reference),
        kernels=_worst(of_kernels),
        seconds=seconds,
        speed=math.nan if short else _speed(model, quantized, first),
        left=left(quantized.report),
        regions=_regions(quantized),
        refused=refused,
        uncounted=", ".join(sorted({site.op for site in quantized.report.unknown})),
        shaken=_shaken(model, first) if not _worst(of_model) >= LEAST_SQNR else math.nan,
    )


def _guarded(quantized: nn.Module, calls: Sequence[Call]) -> tuple[list[Call], str]:
    """The calls that no guard refuses, and the first that one does, with why."""
    refusals = [_refusal(quantized, call) for call in calls]
    taken = [call for call, refusal in zip(calls, refusals, strict=True) if not refusal]
    return taken, next(filter(None, refusals), "")


def _refusal(quantized: nn.Module, call: Call) -> str:
    """Why a guard refuses a call; "" if none does."""
    try:
        call.of(quantized)
    except qfx.ConfigError as error:
        return f"{call.label}: {in_a_line(error)}"
    return ""


def _reference(quantized: Any) -> nn.Module:
    """The reference form of a quantized model; in a model of regions, of each of them."""
    regions = regions_of(quantized)
    if regions is None:
        reference: nn.Module = quantized.reference
        return reference
    forms = {region: region.reference for region in regions.values()}
    return with_regions(quantized, forms, regions)


def _regions(quantized: nn.Module) -> str:
    """How many regions it has, and why; "" for a model that was captured whole."""
    regions = regions_of(quantized)
    if regions is None:
        return ""
    why = {fact.why: None for fact in regions.surroundings.facts.values()}
    return f"{len(regions)} regions: {'; '.join(why)}"


def _decibels(
    model: nn.Module, quantized: nn.Module, reference: nn.Module, call: Call
) -> tuple[float, float, float]:
    """SQNR of lowered and of reference against the model, and of lowered against reference."""
    expected, lowered, ideal = call.of(model), call.of(quantized), call.of(reference)
    return sqnr(expected, lowered), sqnr(expected, ideal), sqnr(ideal, lowered)


def _shaken(model: nn.Module, call: Call) -> float:
    """SQNR of the model against itself when each weight is off by a random hundredth."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(_NOISE * parameter * noise)
    return sqnr(call.of(model), call.of(other))


def _worst(decibels: tuple[float, ...]) -> float:
    """The least; NaN is worse than any."""
    return min(decibels, key=lambda value: (value == value, value))


def _speed(model: nn.Module, quantized: nn.Module, call: Call) -> float:
    """Time of the model over time of the quantized one: medians of runs in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    start = time.process_time()
    while len(times[0]) < _ROUNDS and (not times[0] or time.process_time() - start < _TIMING):
        for kept, subject in zip(times, (model, quantized), strict=True):
            before = time.process_time()
            call.of(subject)
            kept.append(time.process_time() - before)
    slow, fast = map(statistics.median, times)
    return slow / fast


def left(report: qfx.QuantizationReport) -> str:
    """What stays float and has multiply-accumulates: shares of all by operation and reason."""
    total = sum(site.macs for site in report.sites)
    macs: Counter[str] = Counter()
    for site in report.sites:
        if site.decision == "float" and site.macs:
            macs[f"{site.op} {site.reason}"] += site.macs
    return ", ".join(f"{what} {amount / total:.1%}" for what, amount in macs.most_common(4))
