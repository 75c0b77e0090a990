"""What a model does to its arguments, which its caller sees.

y = f_(x)  ->  y = f(x), ..., copy_(x, y), output        where x is an argument, or a view of one
y = g_(x)  ->  y = g(x), ..., g_(x), output              where g changes the shape only

Copies come last: by then nothing else reads the arguments. A result that is one of them is what the
copy returns: the caller's own tensor. What is left in place does as it says.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from qfx.graph import meta
from qfx.rewrite.rewriter import Rewriter
from qfx_passes.canonical.functional_calls import Spelling, name_of


class GivenBack:
    """Collects what operations that were made functional did to arguments."""

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._held: dict[fx.Node, fx.Node] = {}
        self._objects: dict[fx.Node, fx.Node] = {}
        self._forms: list[tuple[fx.Node, str, tuple[Any, ...], dict[str, Any]]] = []

    def changed(self, written: fx.Node, made: fx.Node) -> None:
        """``made`` is what ``written``, in the caller's memory or holding what goes there, held."""
        self._held[made] = self._held.pop(written, written)

    def reformed(self, written: fx.Node, made: fx.Node, call: Spelling) -> None:
        """``made`` is the same tensor as ``written``, of the shape that ``call`` gives it."""
        tensor = self._objects.get(written) or self._held.get(written, written)
        self._objects[made] = tensor
        self._forms.append((tensor, name_of(call), call.args[1:], call.kwargs))

    def write(self, output: fx.Node) -> None:
        """Write it to the arguments in front of ``output``, which returns these where it did."""
        for made, held in self._held.items():
            copied = self._rewriter.call_method("copy_", held, made, value=meta.value_of(held))
            meta.set_origins(copied, ())
            if made in output.all_input_nodes:
                self._rewriter.rewire(output, made, copied)
        formed: dict[fx.Node, fx.Node] = {}  # what calls that change a form return: the tensor
        for tensor, name, args, kwargs in self._forms:
            before = formed.get(tensor, tensor)
            formed[tensor] = self._rewriter.call_method(name, before, *args, **kwargs)
            meta.set_origins(formed[tensor], ())
