"""Where gradients stop: what forward computes under ``torch.no_grad()``.

A graph has no such blocks. One that is to be trained calls ``detach`` instead: on what is computed
in a block and read outside of it, and on what an operation in a block reads that writes to memory.

A block that is entered by what the model finds out about its training flag, or about gradients
(``with torch.set_grad_enabled(self.training)``), is that of inference while a graph is captured,
and is left out: in training gradients pass there.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

from qfx.graph import meta, source
from qfx.graph.effects import overwrites, shares_memory
from qfx.graph.lookup import attribute_of
from qfx.private_attributes import is_erased

_PARTS = (operator.getitem, getattr)
_DECORATED = "_contextlib.py"
"""The file of torch in which a decorated function enters its block."""


class GradientBlocks:
    """A watch that knows whether the model is in a block that holds gradients back.

    Args:
        user_frame: the innermost frame of the model's own code at or above one.
        is_foreign: whether the call is none of the model's.
        askers: the code that asked for the training flag, or for gradients, so far.

    Attributes:
        nodes: the calls that were made in such blocks.
        passed: where the model enters one that is left out ("file:line").
    """

    def __init__(
        self,
        user_frame: Callable[[FrameType], FrameType | None],
        is_foreign: Callable[[], bool],
        askers: Collection[CodeType],
    ) -> None:
        self._user_frame = user_frame
        self._is_foreign = is_foreign
        self._askers = askers
        self.passed: dict[str, None] = {}
        self.nodes: list[fx.Node] = []
        self._blocks: list[bool] = []
        self._depths: dict[int, int] = {}
        self._decided: set[int] = set()
        self._undo = ExitStack()

    @property
    def _hold_back(self) -> bool:
        return bool(self._blocks) and self._blocks[-1]

    def note(self, node: fx.Node) -> None:
        """Remember ``node``, which is being recorded, if it is a call in such a block."""
        if self._hold_back and node.op.startswith("call_"):
            self.nodes.append(node)

    def __enter__(self) -> GradientBlocks:
        for kind, name, then in (
            (torch.no_grad, "__init__", self._made),
            (torch.no_grad, "__enter__", self._entered),
            (torch.inference_mode, "__init__", self._made),
            (torch.inference_mode, "__enter__", self._entered),
            (torch.set_grad_enabled, "__init__", self._set),
            (torch.enable_grad, "__enter__", self._entered),
        ):
            self._undo.enter_context(_after(kind, name, then))
        for kind in (
            torch.no_grad,
            torch.inference_mode,
            torch.set_grad_enabled,
            torch.enable_grad,
        ):
            self._undo.enter_context(_after(kind, "__exit__", self._left))
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def _made(self, block: object, frame: FrameType) -> None:
        if not self._is_foreign():
            self._decided.discard(id(block))
            self._is_decided(block, self._user_frame(frame))

    def _is_decided(self, block: object, user: FrameType | None) -> bool:
        """Whether ``block`` is there by what the model finds out about how it is run."""
        if user is not None and user.f_code in self._askers:
            self._decided.add(id(block))
        return id(block) in self._decided

    def _set(self, block: object, frame: FrameType) -> None:
        self._made(block, frame)
        self._entered(block, frame)  # which it need not be, to have an effect

    def _entered(self, block: Any, frame: FrameType) -> None:
        if self._is_foreign():
            return
        holds_back = isinstance(block, torch.no_grad) or (
            block.mode if isinstance(block, torch.inference_mode) else not getattr(block, "mode", 1)
        )
        user = self._user_frame(frame)
        is_users = user is frame or frame.f_code.co_filename.endswith(_DECORATED)
        is_decided = self._is_decided(block, user)
        if is_users and is_decided and holds_back and not self._hold_back:
            self.passed.setdefault(source.location(user))
        self._depths[id(block)] = len(self._blocks)
        self._blocks.append(self._hold_back if is_decided or not is_users else holds_back)

    def _left(self, block: Any, frame: FrameType) -> None:
        if not self._is_foreign() and id(block) in self._depths:
            del self._blocks[self._depths.pop(id(block)) :]


@contextmanager
def _after(kind: type, name: str, then: Callable[[Any, FrameType], None]) -> Iterator[None]:
    """Let a method of ``kind`` call ``then``, with its object and caller, when it is done."""
    method = vars(kind)[name]

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        method(self, *args, **kwargs)
        then(self, sys._getframe(1))

    setattr(kind, name, call)
    try:
        yield
    finally:
        setattr(kind, name, method)


def hold_back(captured: fx.GraphModule, blocks: GradientBlocks) -> tuple[str, ...]:
    """Let a graph that was recorded in ``blocks`` hold back the gradients that they hold back.

    Returns:
        Where it does not ("file:line"): blocks that were left out, and calls in blocks that write
        to a value outside, whose gradients pass through what is written.
    """
    graph, inside = captured.graph, {node for node in blocks.nodes if not is_erased(node)}
    inside |= _parts(graph, inside)
    handing_on: set[fx.Node] = set()
    passed = dict(blocks.passed)
    for node in list(graph.nodes):
        if _hands_on(captured, node, handing_on):
            handing_on.add(node)
        if node not in inside:
            continue
        written = overwrites(node)
        values = [w for w in written if w in handing_on and w not in inside and not _is_held(w)]
        if values:
            passed.setdefault(meta.source(node))
        for operand in node.all_input_nodes if written else ():
            if operand in handing_on and operand not in values:
                with graph.inserting_before(node):
                    node.replace_input_with(operand, _detached(graph, operand))
        if node in handing_on and not written and meta.is_float_tensor(node):
            _detach_outside(graph, node, inside)
    return tuple(passed)


def _parts(graph: fx.Graph, inside: Collection[fx.Node]) -> set[fx.Node]:
    """What is taken outside from the tuples that are computed inside."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        whole = node.args[0] if node.target in _PARTS else None
        if isinstance(whole, fx.Node) and (whole in inside or whole in found):
            found |= set() if meta.tensor_info(whole) is not None else {node}
    return found


def _hands_on(root: nn.Module, node: fx.Node, handing_on: Collection[fx.Node]) -> bool:
    """Whether gradients of ``node`` may be asked for."""
    if node.op == "get_attr":
        return bool(getattr(attribute_of(root, str(node.target)), "requires_grad", False))
    computed = node.op == "placeholder" or any(o in handing_on for o in node.all_input_nodes)
    return computed and meta.is_float_value(node)


def _is_held(node: fx.Node) -> bool:
    """Whether ``node`` is a parameter or buffer, or may be a view of one."""
    return node.op == "get_attr" or any(map(_is_held, shares_memory(node)))


def _detach_outside(graph: fx.Graph, node: fx.Node, inside: set[fx.Node]) -> None:
    if inside.issuperset(node.users):
        return
    with graph.inserting_after(node):
        made = _detached(graph, node)
    node.replace_all_uses_with(made, lambda user: user is not made and user not in inside)


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    made = graph.call_method("detach", (node,))
    meta.set_origins(made, meta.origins(node))
    meta.set_value(made, meta.value_of(node))
    meta.set_alias(made)
    return made
