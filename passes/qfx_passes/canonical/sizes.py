"""Questions about tensors, and the numbers that are computed from the answers.

x.shape, x.ndim, x.dtype, x.device  ->  size(x), dim(x), dtype(x), device(x)
x.shape[i], len(x), len(x.shape)    ->  size(x, dim=i), size(x, dim=0), dim(x)
x.mT, x.T                           ->  transpose(x, dim0=-2, dim1=-1)
n + 1, n // 2, ...                  ->  the operations of :data:`qfx.vocab.SCALARS`
"""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.vocab import OpDef
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling

_PROPERTIES: dict[str, OpDef] = {
    "shape": vocab.SIZE,
    "ndim": vocab.DIM,
    "dtype": vocab.DTYPE,
    "device": vocab.DEVICE,
}


def canonical_size(site: CallSite, call: Spelling) -> fx.Node | None:
    """The question, or the arithmetic of numbers, that the call is."""
    if call.kind == "call_module":
        return None
    if call.target is getattr:
        return _property(site, call)
    if call.target in vocab.SCALARS and not holds_tensor(meta.value_of(site.node)):
        return _number(site, call)
    asks_one = call.target in vocab.GETITEM.functions and isinstance(call.args[1], int)
    if asks_one and _of(call.args[0], vocab.SIZE):
        return site.becomes(vocab.SIZE, {"input": call.args[0].args[0], "dim": call.args[1]})
    return None


def _property(site: CallSite, call: Spelling) -> fx.Node | None:
    receiver, name = call.args[:2]
    info = meta.tensor_info(receiver)
    if info is None:
        return None
    if name in _PROPERTIES:
        return site.becomes(_PROPERTIES[name], {"input": receiver})
    if name == "mT" or (name == "T" and len(info.shape) == 2):
        return site.becomes(vocab.TRANSPOSE, {"input": receiver, "dim0": -2, "dim1": -1})
    return None


def _number(site: CallSite, call: Spelling) -> fx.Node:
    if call.target is len and _of(call.args[0], vocab.SIZE):
        return site.becomes(vocab.DIM, {"input": call.args[0].args[0]})
    if call.target is len and meta.tensor_info(call.args[0]) is not None:
        return site.becomes(vocab.SIZE, {"input": call.args[0], "dim": 0})
    assert not isinstance(call.target, str)
    op, node = vocab.SCALARS[call.target], site.node
    value = meta.value_of(node)  # None of a number, as many of a torch.Size as it has
    return site.through(
        site.rewriter.call(op, *call.args, origins=(node,), value=value, **call.kwargs)
    )


def _of(value: object, op: OpDef) -> bool:
    """Whether ``value`` is a node of ``op`` without attributes."""
    return isinstance(value, fx.Node) and value.target is op and not value.kwargs


def holds_tensor(value: meta.Value) -> bool:
    """Whether a value is a tensor, or a nest with one in it."""
    if isinstance(value, (tuple, list)):
        return any(map(holds_tensor, value))
    if isinstance(value, dict):
        return any(map(holds_tensor, value.values()))
    return value is not None
