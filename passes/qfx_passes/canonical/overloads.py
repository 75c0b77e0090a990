"""Operators of ATen as what they are called in torch: ``aten.linear(x, w)`` is ``F.linear(x, w)``.

Arguments go by the names of the schema, so an operator whose twin orders them differently
(``batch_norm``) is read rightly, and one that has arguments of its own is left as it was written.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import fx

from qfx.rewrite.arguments import arguments_of
from qfx.torch_private import OVERLOAD, PACKET
from qfx_passes.canonical.functional_calls import Spelling

_METHODS = {"_unsafe_view": "view", "sym_size": "size"}
"""What a graph of torch.export calls otherwise than the method that it is."""
_IDLE = frozenset({"cudnn_enable", "cudnn_enabled", "implicit"})
"""Arguments that say nothing of what is computed."""
_RENAMED = {"view": {"size": "shape"}}
"""Where the schema calls something otherwise than the operation."""

_OTHER = frozenset({"floor_divide"})
"""Operators that are known by their target, not by arguments."""


def as_called(call: Spelling, node: fx.Node, functions: Container[object]) -> Spelling:
    """``call`` of an operator as that of its twin among ``functions``, or of a method."""
    if not isinstance(call.target, (OVERLOAD, PACKET)):
        return call
    package, name, *_ = str(call.target).split(".")
    name, given = _METHODS.get(name, name), arguments_of(node)
    if package != "aten" or name.endswith("_") or name in _OTHER or not given.names:
        return call
    renamed = _RENAMED.get(name, {})
    # An empty list stands for an argument that is left out: the stride of a pool, say.
    kept = {key: value for key, value in given.named.items() if value != [] and key not in _IDLE}
    kwargs = {renamed.get(key, key): value for key, value in kept.items()}
    twins = [getattr(holder, name, None) for holder in (F, torch)]
    target = next((twin for twin in twins if twin is not None and twin in functions), name)
    if not isinstance(target, str):
        return replace(call, target=target, args=(), kwargs=kwargs)
    receiver = kwargs.pop("input", None)
    if not isinstance(receiver, fx.Node):
        return call
    return Spelling("call_method", name, (receiver,), kwargs)
