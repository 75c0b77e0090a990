"""Calls that are known by a table: the names of their arguments in order, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling

NamedArguments: TypeAlias = "dict[str, Any]"
"""The arguments of a call by name."""

Reading: TypeAlias = "fx.Node | Mismatch | None"
"""What a call became; None leaves it to others, and a Mismatch as it was written."""

Reader: TypeAlias = "Callable[[CallSite, NamedArguments], Reading]"


def read(site: CallSite, call: Spelling, readers: Mapping[Any, tuple[str, Reader]]) -> Reading:
    """What the call becomes by a table of readers; None if that doesn't know it."""
    names, reader = readers.get(call.target, ("", None))
    operand = call.args[0] if call.args else call.kwargs.get("input")
    if reader is None or not is_tensor(operand):
        return None
    known = names.split()
    kwargs = {n: value for n, value in call.kwargs.items() if n in known or value is not None}
    if len(call.args) > len(known) or not kwargs.keys() <= set(known):
        return None
    return reader(site, {**dict(zip(known, call.args, strict=False)), **kwargs})


def is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and meta.tensor_info(value) is not None


def of_several(site: CallSite, op: OpDef, given: NamedArguments, fields: Sequence[str]) -> Reading:
    """An operation of several results, whose readers by the name of a field read by place."""
    readers = [reader for reader in site.node.users if reader.target is getattr]
    if any(reader.args[1] not in fields for reader in readers):
        return Mismatch("something else than its results is read")
    if not readers:
        return site.becomes(op, given)
    rewriter = site.rewriter
    made = rewriter.call(op, given.pop("input"), origins=(site.node,), **given)
    for reader in readers:
        index = fields.index(str(reader.args[1]))
        element = rewriter.call(vocab.GETITEM, made, index, origins=(reader,))
        rewriter.replace(reader, element)
    return site.through(made)


def factors(op: OpDef, *fields: str) -> Reader:
    """What reads a call whose results have names."""

    def of_fields(site: CallSite, given: NamedArguments) -> Reading:
        return of_several(site, op, given, fields)

    return of_fields
