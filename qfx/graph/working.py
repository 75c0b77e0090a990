"""A graph module whose code is generated when it is first needed.

``fx.GraphModule`` generates and compiles code whenever it is given a graph: seconds for a hundred
thousand nodes, each time, also for graphs that are only read or are about to be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


class WorkingGraphModule(fx.GraphModule):
    """Generates its code when ``forward`` or ``code`` is first asked for, or by ``recompile()``."""

    @property
    def graph(self) -> fx.Graph:
        """The graph; assigning one, or :meth:`outdate`, makes the code outdated."""
        return self._graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        self._graph = graph
        graph.owning_module = self
        self.outdate()

    def outdate(self) -> None:
        """Generate code anew when it is next needed: the graph has changed."""
        # fx gives each instance a class of its own, and recompile() puts forward there.
        type(self).forward = _GENERATED  # type: ignore[assignment]

    @property
    def code(self) -> str:
        """The Python code of the graph."""
        self._update()
        return str(super().code)

    def __str__(self) -> str:
        self._update()  # fx prints the code it keeps
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        self._update()  # what is pickled is the code
        return super().__reduce__()

    def _update(self) -> None:
        if vars(type(self))["forward"] is _GENERATED:
            self.recompile()


class _Generated:
    """Stands where ``forward`` will be; looking it up puts it there."""

    def __get__(self, owner: fx.GraphModule | None, kind: type) -> Callable[..., Any]:
        if owner is None:
            return fx.GraphModule.forward
        owner.recompile()
        return owner.forward


_GENERATED = _Generated()
