"""A line of the table of models: what came of one, what is wrong with it, and how it is written."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

LEAST_SQNR = 20.0
LEAST_COVERAGE = 0.95
KERNELS_COST = 3.0
MOST_SECONDS = 60.0
LARGE = 150e6


class Trouble(Enum):
    """What can be wrong with a model that was quantized."""

    FAILS = "fails"
    """It isn't quantized, or doesn't run."""
    REFUSES = "refuses"
    """It refuses another size than the captured one, as Python decided something by that."""
    REGIONS = "regions"
    """It can't be captured whole, and runs in regions."""
    NOISY = "noisy"
    """Under 20 dB against the float model, in the worst of its calls."""
    KERNELS = "kernels"
    """The lowered form is further from the float model than the reference is, by 3 dB or more."""
    COVERAGE = "coverage"
    """Under 95 % of the multiply-accumulates are in integers, or some can't be counted."""
    SLOW = "slow"
    """It took over a minute to quantize, with fewer than 150 million parameters."""


@dataclass(frozen=True)
class Row:
    """What came of a model.

    Attributes:
        key: library, name and method.
        error: why it failed, in a line; "" when it did not.
        calls: how many were made with the quantized model.
        shaken: dB of the float model against itself with noise of 40 dB in its weights, for models
            that are noisy: how much of the noise is the model's own doing.
        uncounted: operations whose work is unknown, which coverage leaves out; "" when none.
        regions: how many it has and why; "" for a model that was captured whole.
        refused: the first call that a guard refused, and why; "" when all were taken.
        parameters: how many it has.
        coverage: fraction of multiply-accumulates in integers; None for a model without any.
        sqnr: dB against the float model at the captured size.
        worst: the same, the worst over all calls.
        reference: dB of the reference form against the float model, the worst over all calls.
        kernels: dB of the lowered form against the reference, the worst over all calls.
        seconds: of one thread of the processor, that quantizing took.
        speed: time of the float model over that of the quantized one, eager, at the captured size.
        left: what stays float and has multiply-accumulates, each with its share and reason.
    """

    key: str
    error: str = ""
    calls: int = 0
    parameters: int = 0
    coverage: float | None = None
    sqnr: float = math.nan
    worst: float = math.nan
    reference: float = math.nan
    kernels: float = math.nan
    seconds: float = math.nan
    speed: float = math.nan
    left: str = ""
    refused: str = ""
    shaken: float = math.nan
    uncounted: str = ""
    regions: str = ""

    @property
    def covers_little(self) -> bool:
        """Whether too few of the multiply-accumulates are in integers."""
        return self.coverage is not None and self.coverage < LEAST_COVERAGE

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What is wrong with it, if anything."""
        if self.error:
            return (Trouble.FAILS,)
        found = {
            Trouble.REFUSES: bool(self.refused),
            Trouble.REGIONS: bool(self.regions),
            Trouble.NOISY: not self.worst >= LEAST_SQNR,
            Trouble.KERNELS: not self.worst >= self.reference - KERNELS_COST,
            Trouble.COVERAGE: self.covers_little or bool(self.uncounted),
            Trouble.SLOW: self.seconds > MOST_SECONDS and self.parameters < LARGE,
        }
        return tuple(trouble for trouble, holds in found.items() if holds)


HEAD = (
    *("model", "method", "M params", "coverage", "SQNR", "worst", "reference", "kernels"),
    *("seconds", "speed", "remarks"),
)


def cells(row: Row, remarks: str) -> tuple[str, ...]:
    """The cells of a row; figures that it has none of are empty."""
    library, name, method = row.key.split("/")
    coverage = "" if row.coverage is None else f"{row.coverage:.1%}"
    decibels = (_number(d, ".1f") for d in (row.sqnr, row.worst, row.reference, row.kernels))
    return (
        *(f"{library}/{name}", method, f"{row.parameters / 1e6:.1f}" if row.parameters else ""),
        *(coverage, *decibels, _number(row.seconds, ".1f"), _number(row.speed, ".2f"), remarks),
    )


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rules = [":--" if name in ("model", "method", "remarks") else "--:" for name in HEAD]
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEAD, rules, *lines)) + "\n"


def separated(lines: Iterable[Sequence[str]]) -> str:
    """The same, separated by tabs."""
    return "\n".join("\t".join(line) for line in (HEAD, *lines)) + "\n"


def append(row: Row, path: Path) -> None:
    """Add a row to a file of JSON lines."""
    with path.open("a") as file:
        file.write(json.dumps(dataclasses.asdict(row)) + "\n")


def read(path: Path) -> dict[str, Row]:
    """The last row of each model in a file of JSON lines; none if there is no file."""
    if not path.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    return {row.key: row for row in rows}


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
