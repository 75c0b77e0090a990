"""Which nodes do something besides yielding a value, so that they stay when nothing reads them."""

from __future__ import annotations

from torch import fx

from qfx.vocab import OpDef

_MUTATING = frozenset(
    {"setitem", "__setitem__", "delitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod"}
    | {"ipow", "iand", "ior", "ixor", "ilshift", "irshift", "imatmul", "append", "extend", "update"}
)


def has_effect(node: fx.Node) -> bool:
    """Whether ``node`` does something besides yielding a value, or is no computation."""
    if node.op in ("placeholder", "output"):
        return True
    if isinstance(node.target, OpDef):
        return node.is_impure()
    if node.op == "get_attr":
        return False
    if node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None:
        return True
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_module":
        return False
    mutates = str(name).endswith("_") and not str(name).endswith("__")
    return mutates or str(name) in _MUTATING or node.is_impure()
