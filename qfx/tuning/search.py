"""The search: along a ladder from float to 4 bits, then off it.

    rung -k   the k most sensitive sites float
    rung  0   all in 8 bits
    rung  k   the k weights that cost least noise for a byte in 4 bits

1. Rung 0 by the defaults and, if it loses anything, with the observer that errs least at each site.
2. If it reaches the goal, up to as many weights in 4 bits as do, by bisection; else as many sites
   float as it takes, by doubling and bisection, or those that raise the score, one by one.
3. With effort "high" from there on, where there is more to gain.
4. Off the ladder: the others are tried in shrinking groups.

Everything it decides by is in the record, so that a search that goes on from one comes to the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from qfx.tuning.sensitivity import PlaceNoise
from qfx.tuning.space import Place, Plan
from qfx.tuning.trials import Trials

_MOST_OFF_LADDER = 12
_BYTE = 0.5  # of a weight that goes from 8 to 4 bits


@dataclass(frozen=True)
class Ladder:
    """The order in which sites change.

    Attributes:
        to_int4: keys of places, the one that costs least noise for a byte first.
        to_float: keys of places, the most sensitive first.
        elements: of the weights, by key.
        has_observers: whether some site has an observer that errs less than the default one.
    """

    to_int4: tuple[str, ...]
    to_float: tuple[str, ...]
    elements: dict[str, int]
    has_observers: bool

    @classmethod
    def of(cls, places: Sequence[Place], measured: dict[str, PlaceNoise]) -> Ladder:
        """The ladder of what was measured."""
        found = [p for p in places if p.key in measured]
        cost = {p.key: _added(measured[p.key]) / max(p.elements, 1) for p in found}
        narrow = [p.key for p in found if measured[p.key].int4 is not None]
        return cls(
            tuple(sorted(narrow, key=cost.__getitem__)),
            tuple(sorted((p.key for p in found), key=lambda key: -measured[key].int8)),
            {p.key: p.elements for p in places},
            any(measured[p.key].observer for p in found),
        )


def _added(measured: PlaceNoise) -> float:
    """The noise that 4 bits add to that of 8."""
    if measured.int4 is None or math.isinf(measured.int4):
        return math.inf
    return max(measured.int4 - measured.int8, 0.0)


@dataclass
class Search:
    """A search over one ladder.

    Attributes:
        trials: makes and evaluates.
        ladder: the order in which sites change.
        static: whether ranges come from data, so that observers matter.
        efforts: those that may be tried after the first.
    """

    trials: Trials
    ladder: Ladder
    static: bool
    efforts: tuple[str, ...]

    def run(self, start: Plan) -> None:
        """Try plans until there is nothing left to try, or the budget is used up (StopSearch)."""
        plan = self._recipe(start)
        found = self._narrowed(plan) if self.trials.is_good(plan) else self._widened(plan)
        for effort in self.efforts:
            found = self._with_effort(found or plan, effort) or found
        if found is not None:
            self._off_ladder(found)
            self._squeezed(found)

    def _recipe(self, start: Plan) -> Plan:
        """By the defaults, or with the observers that err least, whichever scores more."""
        base = self.trials.record.baseline
        best = math.inf if base is None or base.score is None else base.score
        lossless = self._score(start) >= best
        if lossless or not self.static or not self.ladder.has_observers:
            return start
        chosen = replace(start, per_site=True)
        return chosen if self._score(chosen) > self._score(start) else start

    def _narrowed(self, plan: Plan) -> Plan:
        """A plan that is good, with as many more weights in 4 bits as stay good."""
        open_ = [k for k in self.ladder.to_int4 if k not in plan.int4 and k not in plan.floats]
        rungs = _Rungs(self.trials, lambda n: replace(plan, int4=plan.int4 | set(open_[:n])))
        if not open_ or rungs.is_good(len(open_)):
            return rungs.plan(len(open_))
        return rungs.plan(rungs.last_good(0, len(open_)))

    def _widened(self, plan: Plan) -> Plan | None:
        """A plan that is not good, with as many sites float as it takes; None if none suffice."""
        order = self.ladder.to_float
        most = len(order) - 1  # nothing quantized is an error
        rungs = _Rungs(self.trials, lambda n: replace(plan, floats=frozenset(order[:n])))
        bad, reach = 0, min(1, most)
        while reach > bad:
            if rungs.is_good(reach):
                return rungs.plan(rungs.first_good(bad, reach))
            bad, reach = reach, min(2 * reach, most)
        return self._by_score(plan, most)

    def _by_score(self, plan: Plan, most: int) -> Plan | None:
        """What the proxy did not find: sites float that raise the score, one after another."""
        for key in self.ladder.to_float[:_MOST_OFF_LADDER]:
            if len(plan.floats) == most:
                return None
            wider = replace(plan, floats=plan.floats | {key})
            if self._score(wider) > self._score(plan):
                plan = wider
            if self.trials.is_good(plan):
                return plan
        return None

    def _score(self, plan: Plan) -> float:
        score = self.trials.outcome(plan).score
        return -math.inf if score is None else score

    def _with_effort(self, plan: Plan, effort: str) -> Plan | None:
        """The same with more effort, and what that allows besides; None if it is no good."""
        done = len(plan.int4) == len(self.ladder.to_int4) and not plan.floats
        harder = replace(plan, effort=effort)
        if done and self.trials.is_good(plan):
            return None
        if not self.trials.is_good(harder):
            return None
        return self._narrowed(harder)

    def _off_ladder(self, plan: Plan) -> None:
        """Sites that are float back to integers, and weights beyond the ladder to 4 bits."""
        back = [k for k in reversed(self.ladder.to_float) if k in plan.floats]
        pending = back + [k for k in self.ladder.to_int4 if k not in plan.int4 | plan.floats]
        group = max(1, len(pending) // 4)
        for _ in range(_MOST_OFF_LADDER):
            if not pending:
                return
            chunk = set(pending[:group])
            smaller = replace(
                plan, floats=plan.floats - chunk, int4=plan.int4 | (chunk - plan.floats)
            )
            if self.trials.is_good(smaller):
                plan, pending = smaller, pending[group:]
            elif group > 1:
                group = max(1, group // 2)
            else:
                pending = pending[1:]

    def _squeezed(self, plan: Plan) -> None:
        """Further along the ladder until it fits, where nothing that is good does."""
        limit = self.trials.task.max_bytes
        best = self.trials.ranked()[0][1]
        if limit is None or self.trials.task.within(best):
            return
        for smaller, size in self._steps(plan):
            if size <= limit and self.trials.size(smaller) <= limit:
                return

    def _steps(self, plan: Plan) -> Iterator[tuple[Plan, float]]:
        """Plans further along the ladder, with the bytes that they should have."""
        size = float(self.trials.size(plan))
        for key in self.ladder.to_int4:
            if key not in plan.int4 and key not in plan.floats:
                size -= _BYTE * self.ladder.elements[key]
                plan = replace(plan, int4=plan.int4 | {key})
                yield plan, size


class _Rungs:
    """A row of plans of which the first ones are good, or the last ones."""

    def __init__(self, trials: Trials, plan: Callable[[int], Plan]) -> None:
        self._trials, self.plan = trials, plan

    def is_good(self, rung: int) -> bool:
        """Whether a rung reaches the goal."""
        return self._trials.is_good(self.plan(rung))

    def last_good(self, good: int, bad: int) -> int:
        """The last good rung between a good one and a bad one, if there is one change between."""
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self.is_good(middle) else (good, middle)
        return good

    def first_good(self, bad: int, good: int) -> int:
        """The first good rung between a bad one and a good one, likewise."""
        while good - bad > 1:
            middle = (good + bad) // 2
            bad, good = (bad, middle) if self.is_good(middle) else (middle, good)
        return good
