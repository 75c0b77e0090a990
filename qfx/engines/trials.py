"""What came of trying an engine: a row of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qfx.table import table


@dataclass(frozen=True)
class EngineTrial:
    """One engine.

    Attributes:
        name, version: of the engine.
        form: in which its graphs were written, where it has several.
        median_ms, least_ms: of a call on the examples; None where it was not timed.
        sqnr: signal-to-noise ratio in dB against the reference graph; inf where they are equal.
        max_error: the largest difference from it.
        build_seconds: that building took; None where it was not built.
        macs_inside: fraction of the multiply-accumulates that the engine runs; None if the model
            has none.
        why_not: why it can't be used; "" if it can.
    """

    name: str
    version: str = ""
    form: str = ""
    median_ms: float | None = None
    least_ms: float | None = None
    sqnr: float = math.nan
    max_error: float = math.nan
    build_seconds: float | None = None
    macs_inside: float | None = None
    why_not: str = ""


_HEADER = ("engine", "version", "form", "median ms", "least ms", "SQNR dB", "build s", "MACs", "")


def trial_table(trials: Sequence[EngineTrial], chosen: str) -> str:
    """The trials as a table; the engine in use is marked."""
    rows = [_row(trial, trial.name == chosen) for trial in trials]
    return table(_HEADER, rows, right=_HEADER[3:8])


def _row(trial: EngineTrial, chosen: bool) -> list[str]:
    ratio = "" if math.isnan(trial.sqnr) else f"{trial.sqnr:.1f}"
    inside = "" if trial.macs_inside is None else f"{trial.macs_inside:.0%}"
    return [
        trial.name,
        trial.version,
        trial.form,
        _number(trial.median_ms),
        _number(trial.least_ms),
        ratio,
        "" if trial.build_seconds is None else f"{trial.build_seconds:.1f}",
        inside,
        "in use" if chosen else trial.why_not,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"
