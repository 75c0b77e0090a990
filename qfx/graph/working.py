"""A graph module whose code is generated when it is first needed.

``fx.GraphModule`` generates and compiles code whenever it is given a graph: seconds for a hundred
thousand nodes, each time, also for graphs that are only read or are about to be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any, TypeVar

from torch import fx, nn

from qfx import vocab
from qfx.graph.unread_modules import take_after
from qfx.private_attributes import REGISTRIES, UNSAVED, set_tracer

_Self = TypeVar("_Self", bound="WorkingGraphModule")


class CodeTracer(fx.Tracer):
    """Reads a graph off its own code, operations as they are: unpickling does."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(vocab.ops()))


class WorkingGraphModule(fx.GraphModule):
    """Generates its code when ``forward`` or ``code`` is first asked for, or by ``recompile()``."""

    def __new__(cls: type[_Self], *args: Any, **kwargs: Any) -> _Self:
        """An instance of a class of its own, whose base is the class as it was written.

        fx tells those that it made by their qualified name, which is the model's here. A class made
        of one of a copy's original would take over its ``__call__``, which calls itself.
        """
        made_by_fx = fx.GraphModule.__module__
        return super().__new__(next(c for c in cls.__mro__ if c.__module__ != made_by_fx))

    def __init__(
        self, root: nn.Module | dict[str, Any], graph: fx.Graph, class_name: str = "GraphModule"
    ) -> None:
        super().__init__(root, graph, class_name)
        # fx makes a class for each instance, and qualifies all by the same name.
        type(self).__qualname__ = class_name
        if isinstance(root, nn.Module):
            _keep_classes(self, root)

    @classmethod
    def over(cls: type[_Self], root: nn.Module, graph: fx.Graph) -> _Self:
        """One that takes over what ``root`` holds, which is what ``graph`` reads and calls.

        ``root`` is used up. fx, given it, would look up and register name by name.
        """
        made = cls(nn.Module(), fx.Graph())
        for registry in (*REGISTRIES, UNSAVED):
            made.__dict__[registry] = root.__dict__[registry]
        made.training = root.training
        made.graph = graph
        return made

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
        self.update_code()
        return str(super().code)

    def __str__(self) -> str:
        self.update_code()  # fx prints the code it keeps
        return super().__str__()

    def _deepcopy_init(self) -> Callable[..., None]:
        return partial(WorkingGraphModule.__init__, class_name=type(self).__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        self.update_code()  # what is pickled is the code
        set_tracer(self, CodeTracer)  # what captured the model needs more than code
        return super().__reduce__()

    def update_code(self) -> None:
        """Generate the code, if the graph has changed since it was."""
        if vars(type(self))["forward"] is _GENERATED:
            self.recompile()


def _keep_classes(made: fx.GraphModule, root: nn.Module) -> None:
    """Give modules of which nodes read parts the classes they have in ``root``: fx does not."""
    for path, module in made.named_modules():
        if path and type(module) is nn.Module:
            original = root.get_submodule(path)
            if original is not module and type(original) is not nn.Module:
                take_after(module, original)


class _Generated:
    """Stands where ``forward`` will be; looking it up puts it there."""

    def __get__(self, owner: fx.GraphModule | None, kind: type) -> Callable[..., Any]:
        if owner is None:
            return fx.GraphModule.forward
        with _GENERATING:  # threads that call a new model at once wait for the first of them
            if vars(type(owner))["forward"] is self:
                owner.recompile()
        return owner.forward


_GENERATED = _Generated()
_GENERATING = RLock()
