"""Other parameters and observers in the place of those that a graph has."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from qfx.graph import meta
from qfx.quant.observers import Observer
from qfx.rewrite.rewriter import Rewriter


def replace_parameter(reader: fx.Node, old: fx.Node, tensor: Tensor, rw: Rewriter) -> fx.Node:
    """Let ``reader`` read ``tensor`` in place of the parameter that ``old`` reads: the new node."""
    with rw.at(reader):
        made = rw.constant(str(old.target), tensor.to(rw.tensor(old).dtype), origins=(old,))
    rw.rewire(reader, old, made)
    if not old.users:
        rw.erase(old)
    return made


def replace_observer(name: str, calls: Sequence[fx.Node], observer: Observer, rw: Rewriter) -> None:
    """Let all calls of an observer call another; the old one may be that of a model."""
    path = ""
    for call in calls:
        value, read = meta.value_of(call), call.args[0]
        with rw.at(call):
            if path:
                made = rw.call_submodule(path, read, value=value, origins=(call,))
            else:
                made = rw.call_module(name, observer, read, value=value, origins=(call,))
                path = str(made.target)
        rw.replace(call, made)
