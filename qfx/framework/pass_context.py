"""What a pass may use besides the graph: the gate, settings, analyses, findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import fx

from qfx.framework.levels import Level
from qfx.graph.findings import Finding, record
from qfx.history.events import NearMiss
from qfx.rewrite.rewriter import Rewriter
from qfx.rewrite.surroundings import Analysis, Surroundings

T = TypeVar("T")
A = TypeVar("A", bound=Analysis)


class PassContext:
    """What a pass may use besides the graph.

    Attributes:
        graph_module: the owner of the graph.
        rewriter: the gate through which the pass mutates the graph; a new one for every pass.
        example_inputs, example_kwargs: what the model was captured with.
        region: name of the region that the graph is ("main").
        near_misses: rules that nearly applied, of all passes so far.
        ahead: the passes that are to run after the one at work.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        example_inputs: tuple[object, ...] = (),
        example_kwargs: dict[str, Any] | None = None,
        region: str = "main",
        rewriter: Rewriter | None = None,
    ) -> None:
        self.example_inputs = example_inputs
        self.example_kwargs = dict(example_kwargs or {})
        self.region = region
        self.near_misses: list[NearMiss] = []
        self.ahead: tuple[object, ...] = ()
        self.level = Level.CAPTURED
        self._surroundings = Surroundings(graph_module)
        self.rewriter = rewriter or self.rewriter_of("")

    @property
    def graph_module(self) -> fx.GraphModule:
        return self._surroundings.graph_module

    @graph_module.setter
    def graph_module(self, other: fx.GraphModule) -> None:
        self._surroundings.graph_module = other
        self._surroundings.drop_analyses()

    def rewriter_of(
        self,
        pass_name: str,
        *,
        preserved: tuple[type[Analysis], ...] = (),
        infers: bool = True,
    ) -> Rewriter:
        """A new gate to the graph, for the pass of that name; see :class:`Rewriter`."""
        around = self._surroundings
        around.at_work, around.preserved = pass_name, preserved
        return Rewriter(self.graph_module, pass_name=pass_name, surroundings=around, infers=infers)

    def offer(self, kind: type[T], make: Callable[[], T]) -> None:
        """Make settings of type ``kind`` when the first pass asks for them and none were put."""
        self._surroundings.offer(kind, make)

    def put(self, *settings: object) -> PassContext:
        """Keep settings for passes to :meth:`get` by type; returns self."""
        for each in settings:
            self._surroundings.put(each)
        return self

    def get(self, kind: type[T]) -> T:
        """The settings of type ``kind``.

        Raises:
            ConfigError: nobody put any; the message says which argument is missing.
        """
        return self._surroundings.get(kind)

    def has(self, kind: type) -> bool:
        """Whether :meth:`get` would find settings of type ``kind``."""
        return self._surroundings.has(kind)

    def analysis(self, kind: type[A]) -> A:
        """What is known of the whole graph as it is now: an :class:`~qfx.rewrite.Analysis`.

        It is computed when first asked for, and dropped when the graph changes.
        """
        return self._surroundings.analysis(kind)

    def record(self, node: fx.Node, name: str, value: Finding) -> None:
        """Write down what a pass found out about ``node``: shown wherever the node is.

        That is: in the IR, drawings, JSON, the report and its page. What replaces the node has it.

        Args:
            node: any node of the graph.
            name: letters, digits, ``_ . -``; what stood under it is replaced.
            value: a text, a flag or a number.

        Raises:
            ConfigError: it is none of these.
        """
        record(node, name, value)

    def drop_analyses(self, *, but: tuple[type[Analysis], ...] = ()) -> None:
        """Forget what is known of the graph, which somebody may have changed beside the gate."""
        self._surroundings.drop_analyses(but=but)
