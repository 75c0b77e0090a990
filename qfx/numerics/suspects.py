"""Who is behind an error that rounding does not explain: what a pass removed, or what it rewrote.

An operation that a pass removed has no value to compare; what reads it shows its error. So the
operations that went into a faulty one and are gone are looked at first: one whose float result is
none of its operands did something, and whoever removed it is to blame.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import Tensor, fx

from qfx import vocab
from qfx.framework.registry import is_builtin
from qfx.graph import meta
from qfx.graph.layouts import are_equal
from qfx.history.removal import removers
from qfx.numerics import observation
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import is_op


def makers_of(qmodel: QuantizedModel, node: fx.Node, since: int = 0) -> tuple[str, ...]:
    """Passes and rules, from stage ``since`` on, that rewrote what ``node`` may round."""
    while is_op(node, vocab.QUANTIZE, vocab.DEQUANTIZE):
        node = node.all_input_nodes[0]
    steps = qmodel.history.blame(node.name).steps
    return tuple(dict.fromkeys(s.rule for s in steps if s.index >= since))


def is_foreign(maker: str) -> bool:
    """Whether "pass/rule" is not of one of qfx's own passes."""
    return not is_builtin(maker.partition("/")[0])


def suspect(makers: Iterable[str], otherwise: str) -> str:
    """The first pass that is not one of qfx's own, else the last one."""
    passes = [maker.partition("/")[0] for maker in makers]
    foreign = next(filter(is_foreign, passes), None)
    return foreign or (passes[-1] if passes else otherwise)


def removed_before(
    qmodel: QuantizedModel,
    captured: fx.GraphModule,
    node: fx.Node,
    observed: Container[str],
    batch: observation.Batch,
) -> tuple[str, str] | None:
    """The first operation between ``node`` and what it is fed that is gone and did something.

    Args:
        qmodel: the quantized model.
        captured: the float graph.
        node: of the reference graph, whose result is off.
        observed: captured operations whose values were compared; the search ends there.
        batch: to run the float graph on.

    Returns:
        Its name in the capture, and "pass/rule" that removed it; None if there is none.
    """
    behind = _behind(captured.graph, {o.node for o in meta.origins(node)}, observed)
    gone = removers(list(qmodel.history), (n.name for n in behind))
    candidates = [n for n in behind if n.name in gone]
    if not candidates:
        return None
    wanted = {n.name for c in candidates for n in (c, *c.all_input_nodes)}
    values, _ = observation.float_values(captured, wanted, batch)
    found = next((c for c in candidates if _does_something(c, values)), None)
    return (found.name, gone[found.name]) if found is not None else None


def _behind(graph: fx.Graph, names: set[str], observed: Container[str]) -> list[fx.Node]:
    """What the operations ``names`` are computed from, up to what was observed; graph order."""
    stack = [n for n in graph.nodes if n.name in names]
    found = dict.fromkeys(stack)
    while stack:
        for operand in stack.pop().all_input_nodes:
            wanted = operand.op.startswith("call_") and operand.name not in observed
            if wanted and operand not in found:
                found[operand] = None
                stack.append(operand)
    return sorted(found)


def _does_something(node: fx.Node, values: dict[str, Tensor]) -> bool:
    """Whether the result of ``node`` is none of its operands."""
    result = values.get(node.name)
    if result is None:
        return False
    operands = (values.get(n.name) for n in node.all_input_nodes)
    return not any(o is not None and _same(o, result) for o in operands)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and are_equal(a, b)
