"""Where a node comes from: the chain from the user's line through every pass that touched it.

Walked backwards, and forwards from the last stage that has the node. In a stage, the events (what
each rule removed, added and changed) lead from a node to the ones it was made of. A stage that left
the nodes as they were, or merely gave them other operands, adds nothing. Of what a pass did with
plain fx there is no event, and :mod:`qfx.history.plain_fx` guesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qfx.errors import ConfigError
from qfx.graph.meta import Origin
from qfx.history import listing, plain_fx
from qfx.history.forward import altered, heirs
from qfx.history.labels import label
from qfx.history.record import NodeRecord
from qfx.history.snapshot import Snapshot
from qfx.history.stage import Stage
from qfx.table import columns


@dataclass(frozen=True, slots=True)
class BlameStep:
    """One link: ``rule`` in ``stage`` made ``after`` out of ``before``.

    Attributes:
        index: index of the stage.
        stage: name of the stage.
        rule: "pass/rule", or the pass alone when no rule recorded it.
        before: names of the nodes it took; empty when ``after`` were inserted.
        after: names of the nodes it left on the way; empty when ``before`` were removed.
    """

    index: int
    stage: str
    rule: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        after = ", ".join(f"%{n}" for n in self.after)
        if not self.before:
            return f"inserted {after}"
        before = ", ".join(f"%{n}" for n in self.before)
        if not self.after:
            return f"removed {before}"
        return f"rewrote {after}" if before == after else f"{before} -> {after}"


@dataclass(frozen=True, slots=True)
class Blame:
    """The history of one node, oldest first; prints as a chain.

    Attributes:
        node: the node, as of the last stage that has it.
        text: its line in that stage.
        origins: the captured operations at the start of the chain.
        steps: what every pass made of them.
        later: what the passes after that stage made of the node.
    """

    node: NodeRecord
    text: str
    origins: tuple[Origin, ...]
    steps: tuple[BlameStep, ...]
    later: tuple[BlameStep, ...] = ()

    def __str__(self) -> str:
        sources = [("", o.source or "unknown source", _written(o)) for o in self.origins]
        steps = [("", f"{s.index} {s.rule}", str(s)) for s in (*self.steps, *self.later)]
        chain = [*sources, *steps]
        return "\n".join([self.text, columns(chain)] if chain else [self.text])


def _written(origin: Origin) -> str:
    kind = re.sub(r"^torch\.nn\.modules\.(\w+\.)*", "nn.", origin.type_name)
    parts = [f"captured %{origin.node}", kind, origin.module_path]
    return "  ".join(p for p in parts if p)


def trace(stages: Sequence[Stage], name: str) -> Blame:
    """The chain that led to the node ``name``, as of the last stage that has it, and on from there.

    Args:
        stages: from the capture on.
        name: a node of any stage, or a site as reports print it ("layer1.0.conv1").

    Raises:
        ConfigError: if no stage has such a node.
    """
    name = name if any(name in s.snapshot for s in stages) else _by_label(stages, name)
    last = next((i for i in reversed(range(len(stages))) if name in stages[i].snapshot), None)
    if last is None:
        raise ConfigError(
            f"no stage has a node called {name!r}, and no site is; print(history[0]) shows the "
            "nodes of the capture, and the report its sites"
        )
    node = stages[last].snapshot[name]
    text = listing.line(node, stages[last].snapshot.records)
    wanted = {name: None}
    steps: list[BlameStep] = []
    for position in range(last, 0, -1):
        stage, earlier = stages[position], stages[position - 1].snapshot
        if stage.snapshot is earlier:
            continue
        found = _undo_events(stage, earlier, wanted)
        rest = _undo_plain_fx(stage, earlier, wanted, {n for s in found for n in s.after})
        steps += [*found, *reversed(rest)]
        if not wanted:
            break
    origins = _origins(node, stages[0].snapshot, wanted)
    later = (BlameStep(s.index, s.name, *link) for s, link in heirs(stages, last, name))
    return Blame(node, text, origins, tuple(reversed(steps)), tuple(later))


def _by_label(stages: Sequence[Stage], site: str) -> str:
    """The captured node of a site as reports print it, else ``site``."""
    captured = stages[0].snapshot if stages else ()
    return next((r.name for r in captured if label(r.name, r.module_path) == site), site)


def _undo_events(stage: Stage, earlier: Snapshot, wanted: dict[str, None]) -> list[BlameStep]:
    """Replace in ``wanted`` what events of this stage made by what it was made of; latest first."""
    steps = []
    known: set[str] = set()
    for event in reversed(stage.events):
        for name in event.changed:
            if name in wanted and name not in known and altered(name, earlier, stage.snapshot):
                steps.append(BlameStep(stage.index, stage.name, event.rule, (name,), (name,)))
                known.add(name)
        made = tuple(n for n in event.added if n in wanted)
        if not made:
            continue
        taken = _without_parameters(event.removed, earlier)
        steps.append(BlameStep(stage.index, stage.name, event.rule, taken, made))
        known.update(made)
        for name in made:
            del wanted[name]
        wanted.update(dict.fromkeys(taken))
    return steps


def _without_parameters(names: Sequence[str], view: Snapshot) -> tuple[str, ...]:
    """``names`` in graph order; parameters only if there is nothing else."""
    wanted = set(names)
    found = [(i, r) for i, r in enumerate(view) if r.name in wanted]
    parameters = {r.name for _, r in found if r.op == "get_attr"}
    place = {r.name: i for i, r in found}
    kept = [n for n in names if n not in parameters] or list(names)
    return tuple(sorted(kept, key=lambda n: place.get(n, len(view))))


def _undo_plain_fx(
    stage: Stage, earlier: Snapshot, wanted: dict[str, None], known: set[str]
) -> list[BlameStep]:
    """The same for what no event names; ``known`` are the nodes that one does."""
    old = {r.name for r in earlier if r.name in wanted}
    new = {r.name: r for r in stage.snapshot if r.name in wanted}
    steps = []
    for name in list(wanted):
        record = new.get(name)
        if name in old:
            if record and name not in known and altered(name, earlier, stage.snapshot):
                rule = _rule(stage, record)
                steps.append(BlameStep(stage.index, stage.name, rule, (name,), (name,)))
            continue
        del wanted[name]
        if record is None:
            continue
        taken = plain_fx.made_of(record, earlier, stage.snapshot)
        steps.append(BlameStep(stage.index, stage.name, _rule(stage, record), taken, (name,)))
        wanted.update(dict.fromkeys(taken))
    return steps


def _rule(stage: Stage, record: NodeRecord) -> str:
    """The node's own rule if it was set by this stage's pass, else the stage."""
    return record.rule if record.rule.split("/", 1)[0] == stage.name else stage.name


def _origins(node: NodeRecord, captured: Snapshot, wanted: Iterable[str]) -> tuple[Origin, ...]:
    """Origins of the captured nodes the chain ends at, else those the node itself carries."""
    names = set(wanted)
    found = [o for r in captured if r.name in names for o in r.origins]
    return tuple(dict.fromkeys(found or node.origins))
