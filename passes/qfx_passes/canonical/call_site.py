"""The call that is being read, and how a canonical operation takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.graph.source import torch_class
from qfx.rewrite.rewriter import Rewriter
from qfx.rewrite.values import UNSET
from qfx.vocab import OpDef

Arguments: TypeAlias = "dict[str, Any]"


class HeldName(str):
    """Name of a parameter or buffer of the module at hand."""


@dataclass(frozen=True)
class CallSite:
    """The call that is being read.

    Attributes:
        node: the call as written.
        rewriter: the gate to the graph.
        trainable: whether to keep what training needs.
        copies: of matrices that the graph holds transposed copies of, by name, those copies.
    """

    node: fx.Node
    rewriter: Rewriter
    trainable: bool = False
    copies: dict[str, str] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module | None:
        """The module that is called, if it is one."""
        return self.rewriter.module(self.node) if self.node.op == "call_module" else None

    @property
    def kind(self) -> type[nn.Module] | None:
        """The class of PyTorch that the module is of, if it is one that computes as that does."""
        module = self.module
        return None if module is None else torch_class(module)

    @property
    def operand(self) -> fx.Node:
        """What the module is called with."""
        source = self.node.args[0] if self.node.args else self.node.kwargs["input"]
        assert isinstance(source, fx.Node)
        return source

    def pad(self, input: object, spread: Sequence[int], mode: str = "constant") -> fx.Node:
        """A PAD of ``input`` before the call."""
        return self.rewriter.call(
            vocab.PAD, input, pad=tuple(spread), mode=mode, origins=(self.node,)
        )

    def through(self, source: fx.Node) -> fx.Node:
        """Let ``source`` take the place of the call, which hands it through."""
        self.rewriter.replace(self.node, source)
        return source

    def becomes(self, op: OpDef, arguments: Arguments) -> fx.Node:
        """Let ``op`` take its place, which yields what the call has yielded."""
        return self.through(self.call(op, arguments, value=meta.value_of(self.node)))

    def call(self, op: OpDef, arguments: Arguments, *, value: meta.Value = UNSET) -> fx.Node:
        """A call of ``op`` in front of it: operands by position, attributes by keyword."""
        operands: list[Any] = []
        defaults: list[Any] = []
        attributes: dict[str, Any] = {}
        for name, parameter in op.signature.parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                if name in arguments:
                    attributes[name] = arguments[name]
                continue
            operands.append(self._read(arguments.get(name, parameter.default)))
            defaults.append(parameter.default)
        while operands and operands[-1] is None and defaults[-1] is None:  # not x[None]
            operands.pop()
            defaults.pop()
        if "value" not in op.signature.parameters:
            attributes["value"] = value
        return self.rewriter.call(op, *operands, origins=(self.node,), **attributes)

    def _read(self, value: object) -> Any:
        """``value``, with what the module holds read from it."""
        if isinstance(value, HeldName):
            return self.rewriter.attribute(f"{self.node.target}.{value}", origins=(self.node,))
        if isinstance(value, tuple) and any(isinstance(item, HeldName) for item in value):
            return tuple(self._read(item) for item in value)
        return value
