"""What was checked of a conversion, and on what."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Checked:
    """What comparing on the example inputs showed; ratios are SQNR in dB.

    Attributes:
        float_graph: of the graph before quantization against the float model; nan if not compared.
        calls: kernel calls that were compared with the reference form, each on the same inputs.
        put_back: operations that were put back to float because their kernel failed.
        lowered: of the model that runs against its reference form.
        output: of the reference form against the float model.
        notes: what could not be compared, and why.
    """

    float_graph: float
    calls: int
    put_back: int
    lowered: float
    output: float
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """For the report."""
        parts = []
        if not math.isnan(self.float_graph):
            parts.append(f"the float graph is the model ({_decibels(self.float_graph)})")
        if self.calls:
            plural = "s" if self.calls > 1 else ""
            parts.append(f"{self.calls} kernel call{plural} as in the reference form")
        if self.calls and not math.isnan(self.lowered):
            off = "equal to" if self.lowered == math.inf else f"{self.lowered:.1f} dB from"
            parts.append(f"the output {off} it")
        parts.append(f"the reference form {_decibels(self.output)} from the model")
        yield f"Checked on the example inputs: {'; '.join(parts)}"
        if self.put_back:
            yield f"  {self.put_back} put back to float: kernel-failed-check"
        for note in self.notes:
            yield f"  {note}"


def _decibels(ratio: float) -> str:
    return "equal" if ratio == math.inf else f"{ratio:.1f} dB"
