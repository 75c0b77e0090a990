"""The books of a rewriter: where it works, for which rule, what it knows, what it has done."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TypeVar

from torch import Tensor, fx, nn

from qfx.errors import PatternError
from qfx.graph import meta
from qfx.graph.attributes import Attributes
from qfx.history.events import Event, RuleStatistics
from qfx.rewrite.ledger import Ledger
from qfx.rewrite.rule import Match
from qfx.rewrite.surroundings import Analysis, Surroundings
from qfx.rewrite.values import Values

T = TypeVar("T")
A = TypeVar("A", bound=Analysis)


class _At(AbstractContextManager[None]):
    """A block in which nodes are made before one; a class, as every match of a rule enters one."""

    def __init__(self, books: Books, node: fx.Node) -> None:
        self._books, self._node = books, node

    def __enter__(self) -> None:
        books = self._books
        self._outer, books._point = books._point, self._node
        self._inserting = books.graph.inserting_before(self._node)  # from here on
        self._inserting.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inserting.__exit__(kind, error, trace)
        self._books._point = self._outer
        if isinstance(error, Exception):
            self._books.node = self._books.node or self._node.name


class _Applying(_At):
    """A block in which a rule is at work on a match."""

    def __init__(self, books: Books, rule: str, match: Match) -> None:
        super().__init__(books, match.root)
        self._rule, self._match = rule, match

    def __enter__(self) -> None:
        books = self._books
        books._flush()
        books.rule, books.node = f"{books.pass_name}/{self._rule}", self._node.name
        books._match, books._touched = self._match, []
        super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is None:
            books = self._books
            books._flush()
            books.rule = books.node = books._match = None


class Books:
    """What a rewriter of the graph of ``graph_module`` knows and keeps, on behalf of one pass.

    Attributes:
        graph: the graph.
        rule: name of the rule at work, or None.
        node: name of the node that the rule matched, or None.
        values: what the nodes that were made yield.
        statistics: of the rules that the pass drove, by name.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        pass_name: str,
        surroundings: Surroundings | None = None,
        infers: bool = True,
    ) -> None:
        self.graph_module = graph_module
        self.graph: fx.Graph = graph_module.graph
        self.pass_name = pass_name
        self.rule: str | None = None
        self.node: str | None = None
        self.values = Values(graph_module, runs=infers)
        self._surroundings = surroundings or Surroundings(graph_module)
        self._attributes = Attributes(graph_module)
        self.statistics: dict[str, RuleStatistics] = {}
        self._match: Match | None = None
        self._point: fx.Node | None = None
        self._sources: tuple[fx.Node, ...] = ()
        self._ledger = Ledger(len(self.graph.nodes))
        self._named_after: dict[fx.Node, fx.Node] = {}
        self._unclaimed: dict[fx.Node, None] = {}  # derive from what they read, or will replace
        self._touched: list[fx.Node] = []
        self._kept: set[fx.Node] = set()
        self._mutations = 0

    @property
    def events(self) -> list[Event]:
        """What was done, in order."""
        return self._ledger.events

    # -- where -----------------------------------------------------------------------------------

    def at(self, node: fx.Node) -> AbstractContextManager[None]:
        """Create nodes before ``node``; the default is the matched root, or the output.

        It is the insertion point of the graph itself too. An exception leaves ``node`` for the
        report.
        """
        return _At(self, node)

    @contextmanager
    def deriving(self, *sources: fx.Node) -> Iterator[None]:
        """Nodes that are made within derive from ``sources``, unless they say from what."""
        outer, self._sources = self._sources, sources
        try:
            yield
        finally:
            self._sources = outer

    def blame(self, rule: str, node: fx.Node) -> None:
        """Leave ``rule`` and ``node`` for the report of what is raised."""
        self.rule, self.node = f"{self.pass_name}/{rule}", node.name

    def applying(self, rule: str, match: Match) -> AbstractContextManager[None]:
        """Work on behalf of a rule. An exception leaves ``rule`` and ``node`` for the report."""
        return _Applying(self, rule, match)

    @contextmanager
    def named(self, rule: str) -> Iterator[None]:
        """What happens within is the work of ``rule`` of the pass, in events and provenance."""
        self._flush()
        outer, self.rule = self.rule, f"{self.pass_name}/{rule}"
        yield
        self._flush()
        self.rule = outer  # an exception leaves it for the report

    # -- read ------------------------------------------------------------------------------------

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor that a ``get_attr`` node reads."""
        if node.op != "get_attr":
            raise PatternError(
                f"{meta.where(node)} is no parameter or constant: it is {node.op}", node=node.name
            )
        value = self._attributes.get(str(node.target))
        if not isinstance(value, Tensor):
            raise PatternError(
                f"{meta.where(node)} holds {type(value).__name__}, not a tensor", node=node.name
            )
        return value

    def module(self, node: fx.Node) -> nn.Module:
        """The module that a ``call_module`` node calls."""
        return self.graph_module.get_submodule(str(node.target))

    # -- what is around --------------------------------------------------------------------------

    def get(self, kind: type[T]) -> T:
        """The settings of type ``kind``, or the pass at work: ``rw.get(MyPass).my_option``."""
        return self._surroundings.get(kind)

    def has(self, kind: type) -> bool:
        """Whether :meth:`get` would find settings of type ``kind``."""
        return self._surroundings.has(kind)

    def analysis(self, kind: type[A]) -> A:
        """What is known of the whole graph as it is now; computed when first asked for."""
        return self._surroundings.analysis(kind)

    # -- inside ----------------------------------------------------------------------------------

    def _fresh_ancestors(self, *new: fx.Node) -> set[fx.Node]:
        """Nodes of the current rewrite that ``new`` is computed from, themselves included."""
        found: set[fx.Node] = set()
        stack = list(new)
        while stack:
            node = stack.pop()
            if node in self._ledger.fresh and node not in found:
                found.add(node)
                stack.extend(node.all_input_nodes)
        return found

    def _flush(self, only: Container[fx.Node] | None = None) -> None:
        """Leave an event of what happened since the last one; of the new nodes only ``only``."""
        if not self._ledger.is_empty:
            for node in self._ledger.close(self.rule or self.pass_name, only):
                self._named_after.pop(node, None)
        self._mutations = 0
        if self._match is None:
            self._touched = []
