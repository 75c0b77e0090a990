"""Making nodes, parameters and submodules: what is new in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx, nn

from qfx.errors import PatternError
from qfx.graph import meta
from qfx.private_attributes import is_erased, set_arguments
from qfx.rewrite.books import Books
from qfx.rewrite.making import check_call, inherit, joined_name, without_defaults
from qfx.rewrite.values import UNSET
from qfx.vocab import OpDef


class Maker(Books):
    """Makes nodes, with what they derive from and what they yield."""

    # -- create ----------------------------------------------------------------------------------

    def call(
        self,
        target: Callable[..., object],
        /,
        *args: object,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: object,
    ) -> fx.Node:
        """A new ``call_function`` node.

        Args:
            target: an operation or a function.
            args: operands; nodes, literals, and nests of them.
            origins: the nodes it derives from; by default all nodes of the match, or outside a
                rule what it will replace, and if nothing, what it reads.
            value: what it yields; by default what it computes from the shapes that it reads, and
                where that can't be told without data, what it will replace yields. What is given
                is checked; it lets a node yield something else than what it replaces. An operation
                with a parameter ``value`` (pad) gets it instead.
            kwargs: attributes. Those of an operation that equal its defaults are left out.
        """
        if (
            value is not UNSET
            and isinstance(target, OpDef)
            and "value" in target.signature.parameters
        ):
            kwargs["value"], value = value, UNSET
        return self._create("call_function", target, args, kwargs, origins, value)

    def call_method(
        self,
        name: str,
        /,
        *args: object,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: object,
    ) -> fx.Node:
        """A new ``call_method`` node; see :meth:`call`."""
        return self._create("call_method", name, args, kwargs, origins, value)

    def call_module(
        self,
        name_hint: str,
        module: nn.Module,
        /,
        *args: object,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: object,
    ) -> fx.Node:
        """Register ``module`` under a name like ``name_hint``, and a node that calls it."""
        name = self._attributes.add_module(name_hint, module)
        return self._create("call_module", name, args, kwargs, origins, value, name=name)

    def call_submodule(
        self,
        path: str,
        /,
        *args: object,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: object,
    ) -> fx.Node:
        """A node that calls the module that is registered as ``path`` already."""
        return self._create("call_module", path, args, kwargs, origins, value, name=path)

    def constant(
        self,
        name_hint: str,
        tensor: Tensor,
        *,
        trainable: bool = False,
        origins: Sequence[fx.Node] = (),
    ) -> fx.Node:
        """Register ``tensor`` under a qualified name like ``name_hint``, and a node that reads it.

        A buffer, or with ``trainable`` a parameter. Nothing is ever overwritten: a taken name gets
        a number.
        """
        name = self.register(name_hint, tensor, trainable=trainable)
        return self.attribute(name, origins=origins)

    def register(self, name_hint: str, tensor: Tensor, *, trainable: bool = False) -> str:
        """:meth:`constant` without a node; returns the qualified name, for :meth:`attribute`."""
        return self._attributes.add_tensor(name_hint, tensor, trainable=trainable)

    def attach(self, name_hint: str, value: object) -> str:
        """Keep what only kernels understand (packed weights); it is no part of ``state_dict``.

        Returns:
            The qualified name, for :meth:`attribute`.
        """
        return self._attributes.add_opaque(name_hint, value)

    def rename(self, name: str, wanted: str) -> str:
        """Hold what is called ``name`` at the root as ``wanted``; a taken name gets underscores.

        Nodes that read it are to be retargeted: the old name goes with the last of them.

        Returns:
            Its name there, for ``retarget``.
        """
        return self._attributes.rename(name, wanted)

    def attribute(self, name: str, *, origins: Sequence[fx.Node] = ()) -> fx.Node:
        """A node that reads the parameter, buffer or attribute called ``name``."""
        value = meta.describe(self._attributes.get(name))
        return self._create("get_attr", name, (), {}, origins, value, name=name)

    def with_args(
        self, node: fx.Node, *args: object, origins: Sequence[fx.Node] = (), **kwargs: object
    ) -> fx.Node:
        """A copy of ``node`` with other positional arguments (if any are given) and keywords."""
        sources = origins or (() if self._match is not None else (node,))
        positional = args or tuple(node.args)
        keywords = {**node.kwargs, **kwargs}
        made = self._create(node.op, node.target, positional, keywords, sources, UNSET)
        meta.copy_effects(made, node)
        return made

    # -- inside ----------------------------------------------------------------------------------

    def _create(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        origins: Sequence[fx.Node],
        value: meta.Value,
        *,
        name: str | None = None,
    ) -> fx.Node:
        matched = self._match.nodes if self._match is not None else ()
        given = tuple(origins) or self._sources or matched
        sources = given or tuple(_nodes_in(args))
        if isinstance(target, OpDef):
            check_call(target, args, kwargs)
            kwargs = without_defaults(target, kwargs)
        with self.graph.inserting_before(self._insertion_point()):
            # Arguments come afterwards: create_node searches them for symbolic numbers, at length.
            node: fx.Node = self.graph.create_node(op, target, name=name or joined_name(given))
            set_arguments(node, args, kwargs)
        meta.copy_meta(node, *sources, rule=self.rule or self.pass_name)
        root = self._match.root if self._match is not None else None
        self.values.settle(node, value, root or next(reversed(given), None))
        inherit(node, sources)
        if not given:
            self._unclaimed[node] = None
        compute = [s for s in given if s.op != "get_attr"]
        if name is None and len(compute) == 1:
            self._named_after[node] = compute[0]
        self._ledger.made(node)
        self._touched.append(node)
        self._surroundings.changed(node)
        return node

    def _insertion_point(self) -> fx.Node:
        if self._point is not None:
            if is_erased(self._point):
                raise PatternError(
                    f"{self._point.name}, before which nodes are to be made, is erased; make new "
                    "nodes before you replace or erase the old one"
                )
            return self._point
        last: fx.Node = next(iter(reversed(self.graph.nodes)))
        if last.op != "output":
            raise PatternError("the graph has no output; say where to insert: `with rw.at(node):`")
        return last


def _nodes_in(args: tuple[object, ...]) -> Iterator[fx.Node]:
    for arg in args:
        if isinstance(arg, fx.Node):
            yield arg
        elif isinstance(arg, (tuple, list)):
            yield from _nodes_in(tuple(arg))
