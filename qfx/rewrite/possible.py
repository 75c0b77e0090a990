"""Whether a pattern over operations of the vocabulary can match any call of them at all.

A mistyped ``users``, a third operand of a relu, a name where a tensor stands: such a pattern would
never match, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Protocol

import torch

from qfx.errors import PatternError
from qfx.rewrite.arguments import operand_names
from qfx.vocab import OpDef

_LITERALS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "torch.dtype": (torch.dtype,),
    "torch.device": (torch.device, str),
    "Tensor": (),
    "None": (),
}
"""Kinds of parameters, and what may stand there in a graph besides nodes; others hold anything."""

_SEQUENCES = ("Sequence[", "tuple[", "list[", "Post", "Pair", "Codes")


class Expected(Protocol):
    """What a pattern expects of an argument."""

    def excludes(self, annotation: str) -> str:
        """Why no argument of a parameter of that kind can match; "" if one can."""


def check_possible(
    ops: Sequence[OpDef],
    orders: Sequence[Sequence[Expected]],
    attributes: Mapping[str, Expected],
    options: Sequence[str],
) -> None:
    """PatternError if no call of any of ``ops`` can match.

    Args:
        ops: what is called.
        orders: the operands, in each order in which they may stand.
        attributes: by name.
        options: what else may be said by keyword.
    """
    known = {name for op in ops for name in op.signature.parameters}
    for name in attributes:
        if name not in known:
            close = get_close_matches(name, {*known, *options}, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise PatternError(
                f"{_named(ops)} has no attribute {name!r}{hint} Its attributes are "
                f"{', '.join(sorted(known))}, and Op takes {', '.join(options)}."
            )
    faults = [_fault(op, operands, attributes) for op in ops for operands in orders]
    if all(faults):
        raise PatternError(faults[0])


def _named(ops: Sequence[OpDef]) -> str:
    return " or ".join(op.name for op in ops)


def _fault(op: OpDef, operands: Sequence[Expected], attributes: Mapping[str, Expected]) -> str:
    names = operand_names(op)
    if len(operands) > len(names):
        return (
            f"{op.name} takes {len(names)} operand{'s' if len(names) != 1 else ''} "
            f"({', '.join(names)}), and the pattern has {len(operands)}; what is not a tensor is "
            "given by keyword"
        )
    given = dict(zip(names, operands, strict=False))
    twice = given.keys() & attributes.keys()
    if twice:
        return f"the pattern of {op.name} has {min(twice)} twice, by position and by keyword"
    for name, expected in {**given, **attributes}.items():
        parameter = op.signature.parameters.get(name)
        why = "" if parameter is None else expected.excludes(str(parameter.annotation))
        if why:
            return f"{name} of {op.name} {why}"
    return ""


def excludes(annotation: str, value: object) -> str:
    """Why a parameter never holds the literal ``value``; "" if it may."""
    kinds = annotation.split(" | ")
    if any(_holds(kind, value) for kind in kinds):
        return ""
    shown = getattr(value, "__name__", None) or repr(value)
    if kinds == ["Tensor"]:
        hint = f'; to give it a name write Any("{value}")' if isinstance(value, str) else ""
        return f"is a tensor, which never equals {shown}{hint}"
    hint = f"; for any {shown} write Const({shown})" if isinstance(value, type) else ""
    return f"is {annotation}, which never equals {shown}{hint}"


def excludes_list(annotation: str) -> str:
    """Why a parameter never holds a list; "" if it may."""
    if any(
        kind.startswith(_SEQUENCES) or _holds_anything(kind) for kind in annotation.split(" | ")
    ):
        return ""
    return f"is {annotation}, and never a list"


def excludes_tensors(annotation: str) -> str:
    """Why a parameter is never a tensor of the model; "" if it may be."""
    kinds = annotation.split(" | ")
    if any(kind == "Tensor" or kind.startswith(_SEQUENCES) for kind in kinds):
        return ""
    if any(map(_holds_anything, kinds)):
        return ""
    return f"is {annotation}, and never a parameter or constant"


def excludes_kinds(annotation: str, wanted: Sequence[type], shown: str) -> str:
    """Why a parameter never holds a literal of the types ``wanted``; "" if it may.

    With none ``wanted`` it may be of any: what a predicate accepts.
    """
    for kind in annotation.split(" | "):
        if _holds_anything(kind) or kind.startswith(_SEQUENCES):
            return ""
        held = (type(None),) if kind == "None" else _LITERALS[kind]
        if held and not wanted:
            return ""
        if any(_may_be(want, each) for want in wanted for each in held):
            return ""
    return f"is {annotation}, which is never {shown}"


def _may_be(wanted: type, held: type) -> bool:
    """Whether a value of a parameter that holds ``held`` may be ``wanted``: a bool is no number."""
    return wanted is held or (bool not in (wanted, held) and issubclass(held, wanted))


def _holds(kind: str, value: object) -> bool:
    if kind.startswith(_SEQUENCES):
        return isinstance(value, (tuple, list))
    if _holds_anything(kind):
        return True
    if value is None:
        return kind == "None"
    if isinstance(value, bool) and kind != "bool":
        return False
    return isinstance(value, _LITERALS[kind])


def _holds_anything(kind: str) -> bool:
    return kind not in _LITERALS
