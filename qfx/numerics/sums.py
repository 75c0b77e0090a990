"""What bisection measures, of each captured operation and of the whole model."""

from __future__ import annotations

from dataclasses import dataclass, field

from qfx.numerics.measures import Error


@dataclass
class Sums:
    """What is measured.

    Attributes:
        alone: error of each captured operation by itself.
        unrounded: the same with activations left unrounded.
        lowered: SQNR of each captured operation of the lowered graph by itself, against the
            reference graph.
        output: error of the model as it runs.
        reference: error of the reference graph.
        lowering: error of the lowered graph against the reference graph.
        remaining: the same with each operation yielding what it should: what none of them makes.
    """

    alone: dict[str, Error]
    unrounded: dict[str, Error]
    lowered: dict[str, float] = field(default_factory=dict)
    output: Error = field(default_factory=Error)
    reference: Error = field(default_factory=Error)
    lowering: Error = field(default_factory=Error)
    remaining: Error = field(default_factory=Error)
