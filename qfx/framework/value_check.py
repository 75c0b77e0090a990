"""Whether what is recorded of nodes agrees with what they compute, after a pass.

A rewrite that changes a shape breaks the graph where it is next read, or hands out another output;
nothing fails before the graph runs, and then far from the pass. So what a pass made or rewired is
run on tensors without data (:mod:`qfx.graph.inference`), one node at a time. What calls the same on
the same values as before the pass is not looked at again. Nothing is recorded here: a node's value
is set where it is made (:mod:`qfx.rewrite.values`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from qfx.errors import VerifyError
from qfx.graph import meta
from qfx.graph.inference import Inference, UnknownValue
from qfx.graph.promised_writes import REFORMING
from qfx.graph.text import REFERENCE, value_text
from qfx.history.record import NodeRecord
from qfx.history.snapshot import Snapshot
from qfx.rewrite.values import Values


class ValueCheck:
    """Checks what calls something else, or on something else, since a stage.

    Args:
        graph_module: whose graph to check, as it is now.
        before: the view of it that the pass started from.
        after: the view of it as it is now.
        values: what the pass said of the nodes that it made.
        lowering: the pass, if it lowers the graph: the kernels that it calls are checked where they
            run, since one that is wrong is no fault of the pass.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        before: Snapshot,
        after: Snapshot,
        values: Values,
        lowering: str | None = None,
    ) -> None:
        self._graph, self._values, self._lowering = graph_module.graph, values, lowering
        self._inference = Inference(graph_module)
        self._before = {record.name: record for record in before}
        self._after = {record.name: record for record in after}
        self._output = before.records[-1]
        known = ((r, self._before.get(name)) for name, r in self._after.items())
        self._moved = {r.name for r, old in known if old is not None and old.value != r.value}
        self._touched: set[str] = set()

    def run(self) -> None:
        """Raise VerifyError at the first node that is wrong.

        It can't run on the shapes that it is given, or yields something else than is recorded or
        than its readers were used to; or the model returns something else than before.
        """
        for node in self._graph.nodes:
            if node.op.startswith("call_") and self._is_touched(node):
                self._touched.add(node.name)
                self._check(node)
        formed = _formed(self._before.values())
        was = [formed[n] for n in self._output.inputs if n in formed]
        now = _returned(next(iter(reversed(self._graph.nodes))))
        if not _same(was, now):
            shown = (", ".join(map(_shown, values)) for values in (was, now))
            text = "the model returned {}, and returns {} now".format(*shown)
            raise VerifyError(text, node="output")

    def _is_touched(self, node: fx.Node) -> bool:
        new, old = self._after[node.name], self._before.get(node.name)
        if node in self._values.expected or node in self._values.configured:
            return True
        if old is new and not self._moved:
            return False
        if self._lowering is not None and meta.rule_of(node).partition("/")[0] == self._lowering:
            return False
        if old is None or old.value != new.value or self._reads_numbers(node):
            return True
        return _call(old, self._before) != _call(new, self._after)

    def _reads_numbers(self, node: fx.Node) -> bool:
        """Whether ``node`` reads something that was touched, and whose value is not recorded."""
        read = (operand for operand in node.all_input_nodes if operand.name in self._touched)
        return any(meta.value_of(operand) is None for operand in read)

    def _check(self, node: fx.Node) -> None:
        found = self._found(node)
        if found is None:
            return
        (value,) = found
        said = self._values.expected.get(node, meta.value_of(node))
        if not _same(value, said):
            raise self._error(
                node,
                f"%{meta.where(node)} yields {_shown(value)} and stands where {_shown(said)} was; "
                "what reads it expects that",
            )

    def _found(self, node: fx.Node) -> tuple[meta.Value] | None:
        """What ``node`` yields; None where that depends on data."""
        if self._values.is_inferred(node):
            return (meta.value_of(node),)
        try:
            return (self._inference.value(node),)
        except UnknownValue:
            return None
        except Exception:
            refusal = self._inference.refusal(node)
        if refusal is None:
            return None
        given = ", ".join(_shown(meta.value_of(n)) for n in node.all_input_nodes)
        first = str(refusal).partition("\n")[0]
        text = f"can't run on what it reads ({given}): {type(refusal).__name__}: {first}"
        raise self._error(node, f"%{meta.where(node)} {text}") from refusal

    def _error(self, node: fx.Node, text: str) -> VerifyError:
        """The error of ``node`` or, if it was there before, of a new call that it reads."""
        new = (
            operand
            for operand in node.all_input_nodes
            if operand.op.startswith("call_") and operand.name not in self._before
        )
        own = node.name not in self._before or node in self._values.expected
        put = None if own else next(new, None)
        if put is None:
            return VerifyError(text, node=node.name)
        return VerifyError(
            f"{text}. The pass made %{meta.where(put)}, which it reads", node=put.name
        )


def _call(record: NodeRecord, records: Mapping[str, NodeRecord]) -> tuple[str, ...]:
    """What a node calls, and on what: nodes stand for the values that they yield."""

    def operand(name: str) -> str:
        return name if name == "%" else value_text(records[name].value) or f"%{name}"

    arguments = REFERENCE.sub(lambda found: operand(found[1]), record.args)
    return record.op, record.target, record.path, arguments


def _shown(value: meta.Value) -> str:
    return value_text(value) or "no tensor"


def _formed(records: Iterable[NodeRecord]) -> dict[str, meta.Value]:
    """What each node yields in the end: calls in place may have given a tensor another form."""
    tensor: dict[str, str] = {}
    form: dict[str, meta.Value] = {}
    for record in records:
        reforms = record.op == "call_method" and record.target in REFORMING
        tensor[record.name] = tensor[record.inputs[0]] if reforms else record.name
        form[tensor[record.name]] = record.value
    return {name: form[of] for name, of in tensor.items()}


def _returned(output: fx.Node) -> list[meta.Value]:
    found: list[meta.Value] = []
    fx.map_arg(output.args, lambda node: found.append(meta.value_of(node)))
    return found


def _same(a: meta.Value, b: meta.Value) -> bool:
    """Equality of values; lists and tuples are alike, and so is all that holds no tensor."""
    if not (_holds_tensor(a) or _holds_tensor(b)):
        return True
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _holds_tensor(value: meta.Value) -> bool:
    held = value.values() if isinstance(value, dict) else value
    return held is not None and (isinstance(held, meta.TensorInfo) or any(map(_holds_tensor, held)))
