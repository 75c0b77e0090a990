"""What a graph at each level must satisfy, beyond what every graph must (:mod:`qfx.graph.verify`).

From CANONICAL on, operations have one form. What a level means beyond that is for those to say who
have a use for it: they put :class:`LevelChecks` into the context of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import fx

from qfx import vocab
from qfx.errors import VerifyError
from qfx.framework.levels import Level
from qfx.graph import meta
from qfx.graph.effects import has_effect
from qfx.vocab import OpDef

Check: TypeAlias = Callable[[fx.GraphModule], None]
"""Raises VerifyError at the first fault; its ``node`` names the node."""


@dataclass(frozen=True)
class LevelChecks:
    """What graphs at each level are held to.

    A level has what the levels before it have, but for what it undoes, so each has its own list.
    """

    by_level: Mapping[Level, tuple[Check, ...]] = field(default_factory=dict)

    def check(self, graph_module: fx.GraphModule, level: Level) -> None:
        """Check what ``level`` promises of a graph.

        Raises:
            VerifyError: at the first fault; its ``node`` names the node.
        """
        for check in self.by_level.get(level, ()):
            check(graph_module)
        if level >= Level.CANONICAL:
            for check in CANONICAL:
                check(graph_module)


def check_canonical(graph_module: fx.GraphModule) -> None:
    """Operations have one form: operands by position, attributes by keyword, defaults left out."""
    for node in graph_module.graph.nodes:
        if not isinstance(node.target, OpDef):
            continue
        for name, value in node.kwargs.items():
            parameter = node.target.signature.parameters[name]
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise fault(node, f"is not canonical: its operand {name} is given by keyword")
            if type(value) is type(parameter.default) and value == parameter.default:
                raise fault(
                    node, f"is not canonical: {name}={value!r} is the default, leave it out"
                )


def check_post_ops(graph_module: fx.GraphModule) -> None:
    """What is fused into an operation is a list of operations of the vocabulary."""
    for node in graph_module.graph.nodes:
        for step in node.kwargs.get("post", ()) if isinstance(node.target, OpDef) else ():
            name = step[0] if isinstance(step, (tuple, list)) and step else step
            if not vocab.has(name):
                raise fault(node, f"has the post-op {step!r}, which names no operation")


def check_read(graph_module: fx.GraphModule, but: Container[fx.Node] = ()) -> None:
    """What only computes is read by something: what was left over would run for nothing.

    Args:
        graph_module: whose graph to check.
        but: nodes that are not looked at: what users wrote may compute what nobody reads.
    """
    for node in graph_module.graph.nodes:
        if node in but:
            continue
        if not node.users and node.op.startswith("call_") and not has_effect(node):
            raise fault(
                node,
                "is read by nothing; let something read it, or erase it (ctx.rewriter.erase)",
            )


CANONICAL: tuple[Check, ...] = (check_canonical, check_post_ops, check_read)
"""What every level from CANONICAL on has."""


def fault(node: fx.Node, what: str) -> VerifyError:
    """What a check raises at ``node``."""
    return VerifyError(f"%{meta.where(node)} {what}", node=node.name)
