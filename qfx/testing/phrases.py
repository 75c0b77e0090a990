"""Python text that the rules of a pass apply to: what generated models hold now and then.

That is told of patterns of arithmetic, element by element, over anything. Layers, and what changes
shapes, are in generated models anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qfx import vocab
from qfx.framework.pass_base import Pass, PatternPass
from qfx.graph.text import target_name
from qfx.rewrite.call_patterns import Op
from qfx.rewrite.pattern import Any, Const, OneOf, Pattern
from qfx.vocab import OpDef

_OF_TWO = (vocab.ADD, vocab.SUB, vocab.MUL)


class UntoldError(Exception):
    """No text is known that a pattern matches."""


def phrases_of(steps: Iterable[Pass]) -> dict[str, str]:
    """Text for each rule that some is known of, by its name: ``torch.relu(torch.neg({0}))``."""
    found: dict[str, str] = {}
    for step in steps:
        for rule in step.patterns if isinstance(step, PatternPass) else ():
            values: dict[str, str] = {}
            try:
                text = _text(rule.pattern, values)
            except UntoldError:
                continue
            if values:
                found[f"{step.name}/{rule.name}"] = text
    return found


def _text(pattern: Pattern, values: dict[str, str]) -> str:
    """What ``pattern`` matches, of ``values`` by name, which grow by what it leaves open."""
    if isinstance(pattern, Any):
        return values.setdefault(pattern.bind or f"{len(values)}", f"{{{len(values)}}}")
    if isinstance(pattern, Const):
        return _literal(pattern)
    if isinstance(pattern, OneOf):
        return _text(pattern.alternatives[0], values)
    op = pattern.targets[0] if isinstance(pattern, Op) else None
    if not (isinstance(pattern, Op) and isinstance(op, OpDef)):
        raise UntoldError
    if not (op.elementwise or op in _OF_TWO) or not op.functions:
        raise UntoldError
    count = 2 if op in _OF_TWO else 1
    operands = (*pattern.operands, *(Any() for _ in range(count)))[:count]
    texts = [_text(each, values) for each in operands]
    return f"{_spelling(op)}({', '.join((*texts, *_attributes(pattern)))})"


def _attributes(pattern: Op) -> Iterator[str]:
    """The attributes that ``pattern`` asks for, as text; fused post-ops nobody writes."""
    for name, value in pattern.attributes.items():
        if isinstance(value, Any) or name == "post":
            continue
        if not isinstance(value, Const):
            raise UntoldError
        yield f"{name}={_literal(value)}"


def _literal(pattern: Const) -> str:
    if not isinstance(pattern.value, bool | int | float | str | None):
        raise UntoldError  # a type or a predicate
    return repr(pattern.value)


def _spelling(op: OpDef) -> str:
    name = target_name(op.functions[0])
    if not name.startswith(("torch.", "F.")):
        raise UntoldError
    return name
