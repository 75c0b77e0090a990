"""What a pass and its rules find around them: settings by type, and analyses of the whole graph.

    region = rw.analysis(QuantizedRegion)      # computed when first asked for
    backend = rw.get(Backend)                  # settings; the pass at work too: rw.get(MyPass)

An analysis is dropped when the graph changes, unless it can learn what changed: a rewrite that
asks for one then costs no walk through the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import fx
from typing_extensions import Self

from qfx.errors import ConfigError

T = TypeVar("T")
A = TypeVar("A", bound="Analysis")


class Analysis:
    """What is known of a whole graph; subclasses say what, and how it is found."""

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Self:
        """Compute it."""
        raise NotImplementedError(f"{cls.__name__} defines no of(graph_module)")

    def learn(self, node: fx.Node) -> bool:
        """Take in a node that was made, reads something else now, or is to be erased.

        Returns:
            Whether the analysis holds for the graph as it is now; if not, which is the default, it
            is computed again when next asked for.
        """
        return False


class Surroundings:
    """Settings by type, and analyses of one graph.

    Attributes:
        graph_module: the owner of the graph.
        at_work: name of the pass.
        preserved: analyses that hold whatever that pass does.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.at_work = ""
        self.preserved: tuple[type[Analysis], ...] = ()
        self._store: dict[type, object] = {}
        self._offers: dict[type, Callable[[], object]] = {}
        self._analyses: dict[type[Analysis], Analysis] = {}

    # -- settings --------------------------------------------------------------------------------
    def offer(self, kind: type[T], make: Callable[[], T]) -> None:
        """Make settings of type ``kind`` when first asked for, if none were put."""
        self._offers[kind] = make

    def put(self, settings: object) -> None:
        """Keep settings, to be got by their type."""
        self._store[type(settings)] = settings

    def get(self, kind: type[T]) -> T:
        """The settings of type ``kind``.

        Raises:
            ConfigError: nobody put any; the message says which argument is missing.
        """
        for known, settings in self._store.items():
            if issubclass(known, kind) and isinstance(settings, kind):
                return settings
        if kind in self._offers:
            made = self._store[kind] = self._offers[kind]()
            assert isinstance(made, kind)
            return made
        running = f"pass {self.at_work}" if self.at_work else "this pass"
        raise ConfigError(
            f"{running} needs {kind.__name__} settings, and none were given. Pass "
            f"`settings=[{kind.__name__}(...)]` to run_passes, or run it through qfx.quantize or "
            "qfx.prepare, which provide them."
        )

    def has(self, kind: type) -> bool:
        """Whether :meth:`get` would find settings of type ``kind``."""
        return kind in self._offers or any(issubclass(known, kind) for known in self._store)

    # -- analyses --------------------------------------------------------------------------------
    def analysis(self, kind: type[A]) -> A:
        """The analysis of the graph as it is now."""
        found = self._analyses.get(kind)
        if found is None:
            found = self._analyses[kind] = kind.of(self.graph_module)
        assert isinstance(found, kind)
        return found

    def changed(self, node: fx.Node) -> None:
        """Tell analyses that ``node`` was made, changed or is to go; drop who can't learn."""
        stale = [kind for kind, each in self._analyses.items() if not each.learn(node)]
        for kind in stale:
            if kind not in self.preserved:
                del self._analyses[kind]

    def drop_analyses(self, *, but: tuple[type[Analysis], ...] = ()) -> None:
        """Forget what is known of the graph, but for analyses that hold all the same."""
        self._analyses = {kind: each for kind, each in self._analyses.items() if kind in but}
