"""What qfx knows of a node, kept in ``node.meta``: where it comes from, and what it yields.

Eight keys, written only through this module:

``qfx.origins``
    The captured operations a node derives from, in graph order. A fused node has several.
``qfx.value``
    A :class:`TensorInfo` for a tensor, a nest of tuples, lists and dicts of them, or None for
    anything that is not a tensor (a number, a shape).
``qfx.rule``
    "pass/rule" that made the node.
``qfx.note``
    Why the node was left as it was written, for the report.
``qfx.alias``
    True when the node yields (a view of) one of its operands, as seen with the example inputs.
``qfx.drew``
    Whether the node drew random numbers as it ran on the example inputs; absent if it was not run.
``qfx.wrote``
    True when the node was seen to write to the memory of an operand, or of a parameter of the
    module that it calls.
``qfx.contiguous``
    Of the output: which of what it returns lay contiguous in memory, as seen with these inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import fx

from qfx.graph.findings import hand_on
from qfx.torch_private import pytree

ORIGINS = "qfx.origins"
RULE = "qfx.rule"
VALUE = "qfx.value"
NOTE = "qfx.note"
ALIAS = "qfx.alias"
SPARSE = "qfx.sparse"
DREW = "qfx.drew"
WROTE = "qfx.wrote"
CONTIGUOUS = "qfx.contiguous"


@dataclass(frozen=True, slots=True)
class Origin:
    """One operation of the captured graph.

    Attributes:
        node: its name in the capture.
        module_path: qualified name of the module whose forward held it ("" is the root).
            For a leaf module (nn.Conv2d), the path of that module itself.
        source: "file.py:12" of the user's line, or "" when unknown.
        type_name: what was written: "torch.nn.modules.conv.Conv2d", "torch.add", "Tensor.relu".
    """

    node: str
    module_path: str
    source: str
    type_name: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and dtype of a tensor as seen with the example inputs."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return prod(self.shape)


Value: TypeAlias = "TensorInfo | tuple[Value, ...] | list[Value] | dict[str, Value] | None"


def describe(value: object) -> Value:
    """The :data:`Value` that stands for a runtime value."""
    if isinstance(value, torch.Tensor):
        return TensorInfo(tuple(int(d) for d in value.shape), value.dtype)
    if isinstance(value, tuple):
        return tuple(describe(v) for v in value)
    if isinstance(value, list):
        return [describe(v) for v in value]
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    return None


def origins(node: fx.Node) -> tuple[Origin, ...]:
    """The captured operations that ``node`` derives from; empty for synthetic nodes."""
    found: tuple[Origin, ...] = node.meta.get(ORIGINS, ())
    return found


def set_origins(node: fx.Node, sources: Iterable[Origin]) -> None:
    """Set the provenance of ``node``; duplicates are dropped, order kept."""
    found = tuple(sources)
    node.meta[ORIGINS] = found if len(found) < 2 else tuple(dict.fromkeys(found))


def value_of(node: fx.Node) -> Value:
    """What ``node`` yields, or None if it is no tensor or unknown."""
    value: Value = node.meta.get(VALUE)
    return value


def has_value(node: fx.Node) -> bool:
    """Whether it is known what ``node`` yields; what is known may be that it is no tensor."""
    return VALUE in node.meta


def tensor_info(node: fx.Node) -> TensorInfo | None:
    """Shape and dtype when ``node`` yields one tensor, else None."""
    value = node.meta.get(VALUE)
    return value if isinstance(value, TensorInfo) else None


def with_dtype(value: Value, dtype: torch.dtype) -> Value:
    """``value`` with all its tensors of ``dtype``."""
    if isinstance(value, TensorInfo):
        return TensorInfo(value.shape, dtype)
    if isinstance(value, tuple):
        return tuple(with_dtype(item, dtype) for item in value)
    if isinstance(value, list):
        return [with_dtype(item, dtype) for item in value]
    return value


def set_value(node: fx.Node, value: Value) -> None:
    node.meta[VALUE] = value


def set_note(node: fx.Node, text: str) -> None:
    """Say why ``node`` was left as it was written."""
    node.meta[NOTE] = text


def note_of(node: fx.Node) -> str:
    """Why ``node`` was left as it was written, or "" if there is nothing to say."""
    text: str = node.meta.get(NOTE, "")
    return text


def set_alias(node: fx.Node) -> None:
    """Say that what ``node`` yields shares memory with one of its operands."""
    node.meta[ALIAS] = True


def is_alias(node: fx.Node) -> bool:
    """Whether what ``node`` yields shares memory with one of its operands."""
    return bool(node.meta.get(ALIAS, False))


def set_sparse(node: fx.Node) -> None:
    """Say that ``node`` yields a tensor of another layout than strides."""
    node.meta[SPARSE] = True


def is_complex(node: fx.Node) -> bool:
    """Whether a node yields complex numbers."""
    info = tensor_info(node)
    return info is not None and info.dtype.is_complex


def is_sparse(node: fx.Node) -> bool:
    """Whether ``node`` was seen to yield a tensor of another layout than strides."""
    return bool(node.meta.get(SPARSE, False))


def set_effects(node: fx.Node, *, drew: bool, wrote: bool) -> None:
    """Write down what ``node`` was seen to do: draw random numbers, write to memory."""
    node.meta[DREW], node.meta[WROTE] = drew, wrote


def drew(node: fx.Node) -> bool | None:
    """Whether ``node`` was seen to draw random numbers; None if nothing was seen."""
    seen: bool | None = node.meta.get(DREW)
    return seen


def wrote(node: fx.Node) -> bool:
    """Whether ``node`` was seen to write to an operand, or to a parameter of its module."""
    return bool(node.meta.get(WROTE, False))


def copy_effects(target: fx.Node, source: fx.Node) -> None:
    """Give ``target``, which calls the same, what ``source`` was seen to do."""
    target.meta.update((key, source.meta[key]) for key in (DREW, WROTE) if key in source.meta)


def set_contiguous_outputs(output: fx.Node, returned: object) -> None:
    """Write down which tensors of ``returned``, what the model yields, are contiguous."""
    leaves, values = pytree.tree_leaves(output.args), pytree.tree_leaves((returned,))
    if len(leaves) == len(values):
        output.meta[CONTIGUOUS] = tuple(
            isinstance(value, torch.Tensor)
            and value.layout == torch.strided
            and value.is_contiguous()
            for value in values
        )


def contiguous_outputs(output: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes that ``output`` returns and that yielded contiguous tensors; each once."""
    leaves, flags = pytree.tree_leaves(output.args), output.meta.get(CONTIGUOUS, ())
    if len(leaves) != len(flags):
        return ()
    pairs = zip(leaves, flags, strict=True)
    return tuple(dict.fromkeys(n for n, flag in pairs if flag and isinstance(n, fx.Node)))


def is_float_tensor(node: fx.Node) -> bool:
    """Whether ``node`` yields one floating-point tensor."""
    info = tensor_info(node)
    return info is not None and info.dtype.is_floating_point


def float_tensors(value: Value) -> tuple[TensorInfo, ...]:
    """Every floating-point tensor inside a value."""
    if isinstance(value, TensorInfo):
        return (value,) if value.dtype.is_floating_point else ()
    if isinstance(value, dict):
        return tuple(t for item in value.values() for t in float_tensors(item))
    if isinstance(value, (tuple, list)):
        return tuple(t for item in value for t in float_tensors(item))
    return ()


def is_float_value(node: fx.Node) -> bool:
    """Whether ``node`` yields a floating-point tensor, alone or inside a tuple, list or dict."""
    return bool(float_tensors(value_of(node)))


def rule_of(node: fx.Node) -> str:
    """The maker of this node, "pass/rule", or "" for a captured one."""
    rule: str = node.meta.get(RULE, "")
    return rule


def module_path(node: fx.Node) -> str:
    """Module path of the first origin, or ""."""
    sources = origins(node)
    return sources[0].module_path if sources else ""


def source(node: fx.Node) -> str:
    """Where the first origin that says so stands, "file:line", or ""."""
    return next((o.source for o in origins(node) if o.source), "")


def where(node: fx.Node) -> str:
    """Human place of a node for messages: ``conv1 (layer1.0.conv1, model.py:12)``.

    What a pass put behind an input says so: ``observer_0 (of input x)``.
    """
    parts = [p for p in (module_path(node), source(node)) if p]
    if not parts and node.op != "placeholder":
        parts += [f"of {_role(read)}" for read in node.all_input_nodes[:1]]
    return f"{node.name} ({', '.join(parts)})" if parts else node.name


def _role(node: fx.Node) -> str:
    """An input or parameter by name, seen through nodes that no line of the user's stands for."""
    seen: set[fx.Node] = set()
    while node not in seen:
        if node.op in ("placeholder", "get_attr"):
            return f"input {node.name}" if node.op == "placeholder" else str(node.target)
        if source(node) or not node.all_input_nodes:
            return where(node)
        seen.add(node)
        node = node.all_input_nodes[0]
    return node.name  # a cycle, which is what the message is about


def copy_meta(target: fx.Node, *sources: fx.Node, rule: str) -> None:
    """Give ``target`` the union of the origins of ``sources``, in order, and name its maker."""
    set_origins(target, (o for s in sources for o in origins(s)))
    target.meta[RULE] = rule
    hand_on(target, sources)
