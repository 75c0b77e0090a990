"""The graph after one pass, and what the pass did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from qfx.history.events import Event, NearMiss, RuleStatistics
from qfx.history.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Stage:
    """The graph after one pass.

    Attributes:
        index: place in the history; 0 is the capture.
        name: the pass.
        snapshot: the graph after it.
        events: what its rules did, in order.
        near_misses: where its rules nearly applied, and why they did not.
        statistics: of each rule, how often it was tried and applied, and what that took.
        seconds: how long it took; never printed with the graph, which stays deterministic.
    """

    index: int
    name: str
    snapshot: Snapshot
    events: tuple[Event, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    near_misses: tuple[NearMiss, ...] = field(default=(), compare=False)
    statistics: tuple[RuleStatistics, ...] = field(default=(), compare=False)

    def __copy__(self) -> Stage:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Stage:
        return self

    def __str__(self) -> str:
        """The graph under a line that says which stage it is."""
        return f"{self.heading()}{self.snapshot.to_text()}"

    def heading(self, change: str = "") -> str:
        """``# stage 2: fuse-conv-relu``, and a line for each rule that fired."""
        first = f"# stage {self.index}: {self.name}" + (f"   {change}" if change else "")
        return "\n".join([first, *(f"#   {rule} x{n}" for rule, n in self.fired.items()), ""])

    @property
    def title(self) -> str:
        """``2 fuse-conv-relu``."""
        return f"{self.index} {self.name}"

    @property
    def fired(self) -> dict[str, int]:
        """How often each rule made or removed nodes, in the order of their first time."""
        return dict(Counter(event.rule for event in self.events if event.is_rewrite))
