"""Rules, and what comes of trying one: a match, or a near-miss with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import fx

from qfx.errors import PatternError
from qfx.rewrite.pattern import Literal, Mismatch, Pattern

if TYPE_CHECKING:
    from qfx.rewrite.rewriter import Rewriter


class Match:
    """A place where a pattern matched, and what it bound there.

    Attributes:
        root: the node that the root of the pattern matched.
        nodes: every node matched by an Op, Module or Attr of the pattern, in graph order.
    """

    __slots__ = ("_bindings", "nodes", "root", "rule")

    def __init__(
        self, root: fx.Node, nodes: Iterable[fx.Node], bindings: dict[str, Literal], rule: str = ""
    ) -> None:
        self.root, self.rule = root, rule
        self.nodes: tuple[fx.Node, ...] = tuple(sorted(dict.fromkeys(nodes)))
        self._bindings = bindings

    def __getitem__(self, name: str) -> Any:
        """The node or literal bound to ``name``; PatternError if the match bound none."""
        try:
            return self._bindings[name]
        except KeyError:
            known = ", ".join(sorted(self._bindings)) or "nothing"
            subject = f"the pattern of rule {self.rule}" if self.rule else "the match"
            raise PatternError(f"{subject} binds {known}, not {name!r}") from None

    def get(self, name: str) -> fx.Node | None:
        """The node bound to ``name``, or None if it is a literal or the match bound none."""
        value = self._bindings.get(name)
        return value if isinstance(value, fx.Node) else None

    def __contains__(self, name: str) -> bool:
        return name in self._bindings

    def __repr__(self) -> str:
        bound = ", ".join(f"{k}={v}" for k, v in self._bindings.items())
        return f"Match({self.root}{', ' if bound else ''}{bound})"


RuleFunction: TypeAlias = "Callable[[Match, Rewriter], fx.Node | Mismatch]"


@dataclass(frozen=True)
class RewriteRule:
    """A pattern, and the function that builds what replaces the root of a match."""

    pattern: Pattern
    function: RuleFunction
    name: str

    def __post_init__(self) -> None:
        tuple(self.pattern.roots())  # a pattern without a proper root fails here

    def __call__(self, match: Match, rewriter: Rewriter) -> fx.Node | Mismatch:
        return self.function(match, rewriter)

    def __add__(self, other: RewriteRule | tuple[RewriteRule, ...]) -> tuple[RewriteRule, ...]:
        """Rules in order of precedence: ``patterns = one + another + OtherPass.patterns``."""
        if isinstance(other, RewriteRule):
            return (self, other)
        return (self, *other) if isinstance(other, tuple) else NotImplemented

    def __radd__(self, other: tuple[RewriteRule, ...]) -> tuple[RewriteRule, ...]:
        return (*other, self) if isinstance(other, tuple) else NotImplemented


def rewrite(pattern: Pattern, name: str | None = None) -> Callable[[RuleFunction], RewriteRule]:
    """Make a rule of a function ``(match, rewriter) -> new node | Mismatch``.

    Args:
        pattern: where the function is called.
        name: as shown in histories and errors; the name of the function by default.

    Raises:
        PatternError: ``pattern`` is none.
    """
    if not isinstance(pattern, Pattern):
        shown = getattr(pattern, "__name__", None) or repr(pattern)
        raise PatternError(
            f"rewrite takes a pattern, as in @qfx.rewrite(qfx.Op(vocab.RELU, ...)), not {shown}"
        )

    def decorate(function: RuleFunction) -> RewriteRule:
        given = name if name is not None else str(getattr(function, "__name__", "rule"))
        return RewriteRule(pattern, function, given.lstrip("_"))

    return decorate
