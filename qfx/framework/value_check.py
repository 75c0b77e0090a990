"""Whether what is recorded of nodes agrees with what they compute, after a pass.

A rewrite that changes a shape breaks the graph where it is next read, or hands out another output;
nothing fails before the graph runs, and then far from the pass. So what a pass made or rewired is
run on tensors without data (:mod:`qfx.graph.inference`), one node at a time.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import fx

from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.graph.inference import Inference, Unknown
from qfx.graph.text import value_text
from qfx.history.snapshot import Snapshot


class ValueCheck:
    """Checks what is new or changed since a stage, and what reads it.

    Args:
        graph_module: whose graph to check, as it is now.
        before: the view of it that the pass started from.
        after: the view of it as it is now.
        made: new nodes whose values were not given, but inferred or assumed.
        expected: what stood where a new node stands now.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        before: Snapshot,
        after: Snapshot,
        made: Container[fx.Node],
        expected: Mapping[fx.Node, meta.Value],
    ) -> None:
        self._graph = graph_module.graph
        self._inference = Inference(graph_module)
        self._made, self._expected = made, expected
        self._before = {record.name: record for record in before}
        self._output = next(iter(reversed(before.records)))
        known = {record.name: record for record in after}
        self._fresh = {n for n, record in known.items() if self._before.get(n) is not record}
        old = self._fresh & self._before.keys()
        self._moved = {n for n in old if self._before[n].value != known[n].value}

    def run(self) -> None:
        """Raise VerifyError at the first node that is wrong.

        It can't run on the shapes that it is given, or yields something else than is recorded or
        than its readers were used to; or the model returns something else than before.
        """
        for node in self._graph.nodes:
            if node.op.startswith("call_") and self._is_touched(node):
                self._check(node)
        was = [self._before[n].value for n in self._output.inputs if n in self._before]
        now = _returned(next(iter(reversed(self._graph.nodes))))
        if not _same(was, now):
            shown = (", ".join(map(_shown, values)) for values in (was, now))
            text = "the model returned {}, and returns {} now".format(*shown)
            raise VerifyError(text, node="output")

    def _is_touched(self, node: fx.Node) -> bool:
        moved = (operand.name in self._moved for operand in node.all_input_nodes)
        return node.name in self._fresh or any(moved)

    def _check(self, node: fx.Node) -> None:
        found = self._found(node)
        if found is None:
            return
        (value,) = found
        said = meta.value_of(node)
        if node in self._made or not meta.has_value(node):
            said = self._expected.get(node, value)
            meta.set_value(node, value)
            if node.name in self._before and not _same(value, self._before[node.name].value):
                self._moved.add(node.name)
        if not _same(value, said):
            raise VerifyError(
                f"%{meta.where(node)} yields {_shown(value)} and stands where {_shown(said)} was; "
                "what reads it expects that",
                node=node.name,
            )

    def _found(self, node: fx.Node) -> tuple[meta.Value] | None:
        """What ``node`` yields; None where that depends on data."""
        try:
            return (self._inference.value(node),)
        except Unknown:
            return None
        except Exception:
            refusal = self._inference.refusal(node)
        if refusal is None:
            return None
        given = ", ".join(_shown(meta.value_of(n)) for n in node.all_input_nodes)
        first = str(refusal).partition("\n")[0]
        raise VerifyError(
            f"%{meta.where(node)} can't run on what it reads ({given}): "
            f"{type(refusal).__name__}: {first}",
            node=node.name,
        ) from refusal


def _shown(value: meta.Value) -> str:
    return value_text(value) or "no tensor"


def _returned(output: fx.Node) -> list[meta.Value]:
    found: list[meta.Value] = []
    fx.map_arg(output.args, lambda node: found.append(meta.value_of(node)))
    return found


def _same(a: meta.Value, b: meta.Value) -> bool:
    """Equality of values; lists and tuples are alike."""
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b
