"""One node as data: what a snapshot holds of it, and how that is read off a live fx node."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePath

from torch import fx

from qfx.graph import meta
from qfx.graph.findings import Findings, findings
from qfx.graph.meta import Origin, TensorInfo, Value
from qfx.graph.text import REFERENCE, call_text, literal, module_type, target_name, value_text
from qfx.history import listing
from qfx.vocab import OpDef

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True, slots=True, eq=False)
class NodeRecord:
    """One node of a snapshot.

    Attributes:
        name: unique in the snapshot.
        op: the fx kind: placeholder, get_attr, call_module, call_method, call_function, output.
        target: what is called, as printed: ``conv2d+relu`` with its fused post-ops, ``F.relu``, a
            method's or a module type's name; ``input``, ``return``; an attribute's qualified name.
        path: qualified name of the module of a ``call_module`` or the attribute of a ``get_attr``.
        args: arguments as printed, without parentheses; ``%name`` refers to a node and ``%%`` is
            a percent sign.
        value: shape and dtype of what it yields, as :data:`qfx.graph.meta.Value`.
        origins: the captured operations it derives from.
        rule: "pass/rule" that made it, "" for a captured node.
        fingerprint: of target and arguments, valid in this process only; decides interning.
        digest: of the program it denotes, the same in every process.
        findings: what passes recorded of it.
    """

    name: str
    op: str
    target: str
    path: str
    args: str
    value: Value
    origins: tuple[Origin, ...]
    rule: str
    fingerprint: int
    digest: int
    findings: Findings = ()

    def __copy__(self) -> NodeRecord:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> NodeRecord:
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the nodes it reads, in order of the arguments, repeated as they repeat."""
        return tuple(n for n in REFERENCE.findall(self.args) if n != "%")

    @property
    def type_text(self) -> str:
        """``f32[1,8,32,32]``, "" when it yields no tensor."""
        return value_text(self.value)

    @property
    def source(self) -> str:
        """``file:line`` of the first origin that has one, or ""."""
        return next((o.source for o in self.origins if o.source), "")

    @property
    def module_path(self) -> str:
        """Module path of the first origin, or ""."""
        return self.origins[0].module_path if self.origins else ""

    def __str__(self) -> str:
        return listing.line(self)


def base_name(node: fx.Node, root: fx.GraphModule, names: dict[object, str]) -> str:
    """What identifies the target: its name; for a module its path and type.

    Args:
        node: any node of ``root``.
        root: where submodules are looked up.
        names: names of function targets found so far, extended.
    """
    target = node.target
    if node.op == "call_module":
        return f"{target}:{module_type(root, str(target))}"
    if isinstance(target, str):
        return target
    name = names.get(target)
    if name is None:
        name = names[target] = target_name(target)
    return name


def fingerprint_of(node: fx.Node, base: str) -> int:
    """A cheap hash at least as fine as the printed form; nodes in arguments count by name."""
    return hash((base, node.op, repr(node.args), repr(node.kwargs)))


def is_current(record: NodeRecord, node: fx.Node) -> bool:
    """Whether the provenance and value of a record are still those of the node."""
    return (
        record.origins == _origins(node)
        and record.rule == node.meta.get(meta.RULE, "")
        and record.value == _value(node)
        and record.findings == findings(node)
    )


def record_of(node: fx.Node, base: str, fingerprint: int) -> NodeRecord:
    """Read a node off, given its :func:`base_name` and :func:`fingerprint_of`."""
    path = ""
    if node.op == "call_module":
        path, _, base = base.rpartition(":")
    elif node.op == "get_attr":
        path = base
    target, args = _printed(node, base)
    value = _frozen(_value(node))
    return NodeRecord(
        node.name, node.op, target, path, args, value, _origins(node), meta.rule_of(node),
        fingerprint, digest_of(node.name, node.op, target, path, args, value), findings(node),
    )  # fmt: skip


def digest_of(name: str, op: str, target: str, path: str, args: str, value: Value) -> int:
    """What tells one program from another; see :class:`NodeRecord`."""
    identity = "\0".join((name, op, target, path, args, value_text(value)))
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "little")


def _printed(node: fx.Node, base: str) -> tuple[str, str]:
    """Target and arguments as the IR shows them."""
    if node.op == "placeholder":
        named = () if base == node.name else (base,)
        default = {"default": node.args[0]} if node.args else {}
        return "input", call_text("", named, default)[1:-1]
    if node.op == "output":
        return "return", literal(node.args[0]) if node.args else ""
    kwargs: dict[str, object] = dict(node.kwargs)
    if kwargs and isinstance(node.target, OpDef):
        base, kwargs = _canonical(node.target, kwargs)
    return base, call_text("", node.args, kwargs)[1:-1]


def _canonical(op: OpDef, kwargs: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Attributes in the order of the signature; post-ops as part of the name.

    ``post=(("relu",), ("add", y))`` reads ``conv2d+relu+add`` with the argument ``add=%y``.
    """
    order = {name: position for position, name in enumerate(op.signature.parameters)}
    kwargs = {k: kwargs[k] for k in sorted(kwargs, key=lambda k: order.get(k, len(order)))}
    post = kwargs.pop("post", ())
    if not isinstance(post, tuple | list):
        return op.name, {**kwargs, "post": post}
    for name, *operands in post:
        if operands:
            # A name taken twice (two residuals) is numbered, so that neither is lost.
            key = name if name not in kwargs else f"{name}_{len(kwargs)}"
            kwargs[key] = operands[0] if len(operands) == 1 else tuple(operands)
    return "+".join([op.name, *(name for name, *_ in post)]), kwargs


def _value(node: fx.Node) -> Value:
    """What qfx recorded, else what ShapeProp or torch.export left; an output yields nothing."""
    found = node.meta
    if node.op == "output":
        return None
    if meta.VALUE in found:
        return meta.value_of(node)
    return _foreign(found.get("tensor_meta", found.get("val")))


def _foreign(value: object) -> Value:
    """Shape and dtype of tensor-likes; None where a size is symbolic, as reading it would guard."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return tuple(map(_foreign, value)) if isinstance(value, tuple | list) else None
    return TensorInfo(tuple(shape), dtype) if all(type(d) is int for d in shape) else None


def _frozen(value: Value) -> Value:
    """A copy that shares no list or dict with the node."""
    if isinstance(value, list):
        return [_frozen(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_frozen(v) for v in value)
    return {k: _frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def _origins(node: fx.Node) -> tuple[Origin, ...]:
    """Provenance; of a node that qfx did not capture, from its stack trace if it has one."""
    known = meta.origins(node)
    if known or "stack_trace" not in node.meta:
        return known
    frames = _FRAME.findall(node.meta["stack_trace"] or "")
    if not frames:
        return ()
    file, line = frames[-1]
    return (Origin(node.name, _foreign_path(node), f"{PurePath(file).name}:{line}", ""),)


def _foreign_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    innermost = next(reversed(stack.values()), None) if isinstance(stack, dict) else None
    return str(innermost[0]) if isinstance(innermost, tuple) else ""
