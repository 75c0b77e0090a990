"""What a compiled model runs where."""

from __future__ import annotations

from dataclasses import dataclass, field

from qfx.engines.assembly import Assembly
from qfx.engines.pieces import Piece
from qfx.export.problems import Problem
from qfx.table import amount

_MOST = 20


@dataclass(frozen=True)
class PieceReport:
    """A piece that the engine runs.

    Attributes:
        first, last: the nodes of the reference graph that it begins and ends with.
        operations: how many there are in it.
        macs: multiply-accumulates, with the example inputs.
    """

    first: str
    last: str
    operations: int
    macs: int

    def __str__(self) -> str:
        return (
            f"{self.first} ... {self.last}: {self.operations} operations, {amount(self.macs)} MACs"
        )


@dataclass(frozen=True)
class CompilationReport:
    """What runs where; ``print`` it.

    Attributes:
        engine: its name.
        assembly: what was built.
        eager: calls that eager runs instead, and why; grows while the model is used.
    """

    engine: str
    assembly: Assembly = field(repr=False)
    eager: list[str] = field(default_factory=list)

    @property
    def pieces(self) -> tuple[PieceReport, ...]:
        """What the engine runs; nothing where it takes the model as a whole."""
        plan = self.assembly.plan
        return () if plan is None else tuple(map(_piece, plan.pieces))

    @property
    def outside(self) -> tuple[Problem, ...]:
        """What eager runs between the pieces: node, module path, source line and why."""
        return () if self.assembly.plan is None else self.assembly.plan.outside

    def note(self, text: str) -> bool:
        """Write down a call that eager ran; whether there is room for more."""
        if len(self.eager) >= _MOST or text in self.eager:
            return False
        self.eager.append(text)
        return True

    def __str__(self) -> str:
        if self.assembly.plan is None:
            head = [f"{self.engine} runs the model as a whole"]
        else:
            head = [f"{self.engine} runs {len(self.pieces)} pieces"]
        outside = [f"in eager: {each}" for each in self.outside]
        calls = [f"calls in eager: {each}" for each in self.eager]
        return "\n  ".join([*head, *map(str, self.pieces), *outside, *calls])


def _piece(piece: Piece) -> PieceReport:
    nodes = [n for n in piece.graph_module.graph.nodes if n.op.startswith("call_")]
    return PieceReport(nodes[0].name, nodes[-1].name, len(nodes), piece.macs)
