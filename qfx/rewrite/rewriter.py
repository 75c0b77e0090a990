"""The only gate that mutates a graph: it keeps provenance, values and names, and removes what died.

What goes through it, and only that, stands in the history: each call leaves an event, or adds to
the event of the rule at work. A test sees to it that passes of ours take no other way.

Every mutation costs time in proportion to the nodes it touches, never to the graph. A node that
replaces exactly one node takes its name, so sites keep the names of the capture; one that fuses
several is named after them (``conv1`` and ``relu`` become ``conv1_relu``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, fx, nn

from qfx.errors import PatternError
from qfx.graph import meta
from qfx.graph.attributes import Attributes
from qfx.graph.clone import copy_nodes
from qfx.graph.effects import has_effect
from qfx.history.events import Event
from qfx.rewrite.ledger import Ledger
from qfx.rewrite.making import inherit, joined_name, without_defaults
from qfx.rewrite.rebuilding import changes, look_of
from qfx.rewrite.rule import Match
from qfx.rewrite.surroundings import Analysis, Surroundings
from qfx.rewrite.values import UNSET, Values
from qfx.vocab import OpDef

T = TypeVar("T")
A = TypeVar("A", bound=Analysis)


class Rewriter:
    """Mutates the graph of ``graph_module`` on behalf of one pass.

    Args:
        graph_module: the owner of the graph.
        pass_name: of the pass.
        surroundings: what the pass finds around it.
        infers: whether nodes may be run, without values, to tell what they yield.

    Attributes:
        graph: the graph.
        rule: name of the rule at work, or None.
        node: name of the node that the rule matched, or None.
        values: what the nodes that were made yield.
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
        self._match: Match | None = None
        self._point: fx.Node | None = None
        self._ledger = Ledger()
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

    @contextmanager
    def at(self, node: fx.Node) -> Iterator[None]:
        """Create nodes before ``node``; the default is the matched root, or the output.

        It is the insertion point of the graph itself too. An exception leaves ``node`` for the
        report.
        """
        outer, self._point = self._point, node
        try:
            with self.graph.inserting_before(node):
                yield
        except Exception:
            self.node = self.node or node.name
            raise
        finally:
            self._point = outer

    @contextmanager
    def blaming(self, rule: str, node: fx.Node) -> Iterator[None]:
        """An exception leaves ``rule`` and ``node`` for the report."""
        try:
            yield
        except Exception:
            self.rule, self.node = f"{self.pass_name}/{rule}", node.name
            raise

    @contextmanager
    def applying(self, rule: str, match: Match) -> Iterator[None]:
        """Work on behalf of a rule. An exception leaves ``rule`` and ``node`` for the report."""
        self._flush()
        self.rule, self.node, self._match = f"{self.pass_name}/{rule}", match.root.name, match
        self._touched = []
        with self.at(match.root):
            yield
        self._flush()
        self.rule = self.node = self._match = None

    @contextmanager
    def named(self, rule: str) -> Iterator[None]:
        """What happens within is the work of ``rule`` of the pass, in events and provenance."""
        self._flush()
        outer, self.rule = self.rule, f"{self.pass_name}/{rule}"
        yield
        self._flush()
        self.rule = outer  # an exception leaves it for the report

    # -- create ----------------------------------------------------------------------------------

    def call(
        self,
        target: Callable[..., Any],
        /,
        *args: Any,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: Any,
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
        *args: Any,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: Any,
    ) -> fx.Node:
        """A new ``call_method`` node; see :meth:`call`."""
        return self._create("call_method", name, args, kwargs, origins, value)

    def call_module(
        self,
        name_hint: str,
        module: nn.Module,
        /,
        *args: Any,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: Any,
    ) -> fx.Node:
        """Register ``module`` under a name like ``name_hint``, and a node that calls it."""
        name = self._attributes.add_module(name_hint, module)
        return self._create("call_module", name, args, kwargs, origins, value, name=name)

    def call_submodule(
        self,
        path: str,
        /,
        *args: Any,
        origins: Sequence[fx.Node] = (),
        value: meta.Value = UNSET,
        **kwargs: Any,
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

    def attribute(self, name: str, *, origins: Sequence[fx.Node] = ()) -> fx.Node:
        """A node that reads the parameter, buffer or attribute called ``name``."""
        value = meta.describe(self._attributes.get(name))
        return self._create("get_attr", name, (), {}, origins, value, name=name)

    def with_args(
        self, node: fx.Node, *args: Any, origins: Sequence[fx.Node] = (), **kwargs: Any
    ) -> fx.Node:
        """A copy of ``node`` with other positional arguments (if any are given) and keywords."""
        sources = origins or (() if self._match is not None else (node,))
        positional = args or tuple(node.args)
        keywords = {**node.kwargs, **kwargs}
        made = self._create(node.op, node.target, positional, keywords, sources, UNSET)
        meta.copy_effects(made, node)
        return made

    # -- read ------------------------------------------------------------------------------------

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor that a ``get_attr`` node reads."""
        if node.op != "get_attr":
            raise PatternError(f"{meta.where(node)} is no parameter or constant: it is {node.op}")
        value = self._attributes.get(str(node.target))
        if not isinstance(value, Tensor):
            raise PatternError(f"{meta.where(node)} holds {type(value).__name__}, not a tensor")
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

    # -- change ----------------------------------------------------------------------------------

    def rewire(self, reader: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Let ``reader`` read ``new`` wherever it reads ``old``, which stays.

        To let all readers do so, use :meth:`replace`. It is to yield what it yielded.
        """
        if reader not in old.users:
            raise PatternError(f"{meta.where(reader)} does not read {meta.where(old)}")
        reader.replace_input_with(old, new)
        self._changed(reader, UNSET, (new,))

    def update(
        self,
        node: fx.Node,
        *,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        value: meta.Value = UNSET,
    ) -> None:
        """Give ``node`` other positional arguments, other keywords, or both.

        Args:
            node: what to change; what it read stays, even if nothing else reads it.
            args: all positional arguments that it gets; by default it keeps its own.
            kwargs: all keywords that it gets; by default it keeps its own. Those of an operation
                that equal its defaults are left out.
            value: what it yields now; by default what it yielded, which is checked.
        """
        if args is not None:
            node.args = tuple(args)
        if kwargs is not None:
            op, given = node.target, dict(kwargs)
            node.kwargs = without_defaults(op, given) if isinstance(op, OpDef) else given
        self._changed(node, value, node.all_input_nodes)

    def retarget(self, node: fx.Node, target: Any, *, value: meta.Value = UNSET) -> None:
        """Let ``node`` call or read ``target`` instead, which is of the same kind."""
        node.target = target
        self._changed(node, value)

    def configure(self, node: fx.Node, **attributes: Any) -> None:
        """Set attributes of the module that ``node`` calls, which is the graph's own copy."""
        module = self.module(node)
        for name, value in attributes.items():
            setattr(module, name, value)
        self._changed(node, UNSET)
        self.values.configured.add(node)

    # -- replace and erase -----------------------------------------------------------------------

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let all that read ``old`` read ``new``; erase ``old``, and its inputs if dead.

        Nodes made for this very replacement keep reading ``old``, so a node can be wrapped:
        ``replace(old, call(f, old))``.
        """
        if old is new:
            raise PatternError(f"{meta.where(old)} cannot replace itself; return a new node")
        self._mutations += 1
        self._ledger.locate(old)
        wrapping = self._fresh_ancestors(new)
        self._claim(wrapping | {new}, old)
        self.values.stand_in(old, new)
        readers = [user for user in old.users if user not in wrapping]
        for reader in readers:
            reader.replace_input_with(old, new)
            self._touched.append(reader)
            self._surroundings.changed(reader)
        namesake = self._named_after.get(new)
        self._erase_dead(old, force=True)
        if namesake is old and old._erased:
            new.name = old.name
        else:
            for reader in readers:
                self._ledger.changed(reader)
        self._touched.append(new)
        if self._match is None:
            self._flush(wrapping)

    def keep(self, node: fx.Node) -> None:
        """Don't take ``node`` for dead when what reads it goes: others are to read it later."""
        self._kept.add(node)

    def erase(self, node: fx.Node) -> None:
        """Erase ``node``, which nothing may read, and its inputs if that leaves them dead."""
        if node._erased:
            return
        if node.users:
            readers = ", ".join(f"%{u.name}" for u in node.users)
            raise PatternError(
                f"cannot erase {meta.where(node)}: still read by {readers}. Use replace(old, new)."
            )
        self._mutations += 1
        self._ledger.locate(node)
        self._erase_dead(node, force=True)
        if self._match is None:
            self._flush()

    def erase_unread(self, needed: Callable[[fx.Node], bool] = has_effect) -> None:
        """Erase all that nothing reads, unless it is ``needed``."""
        for node in reversed(list(self.graph.nodes)):
            if not (node.users or needed(node)):
                self._erase(node)
        self._flush()

    def rebuild(self, source: fx.Graph) -> None:
        """Let the graph be a copy of ``source``, which derives from the same operations.

        What is in both stays, though as new nodes. Of the rest, what derives from an operation in
        one graph stands for what does in the other.
        """
        before = {node: look_of(node) for node in self.graph.nodes}
        self._flush()
        for node in reversed(before):
            self.graph.erase_node(node)
            self.values.forget(node)
        copy_nodes(source, self.graph)
        for change in changes(before, self.graph.nodes):
            self.events.append(change.event(self.pass_name))

    def finish(self) -> None:
        """End the pass: drop constants, parameters and submodules that nothing uses any more."""
        self._flush()
        self.erase_unread(lambda node: node.op != "get_attr")
        self._attributes.drop_orphans()

    # -- for the driver --------------------------------------------------------------------------

    @property
    def touched(self) -> list[fx.Node]:
        """Nodes made, rewired, or read less often by the rule at work."""
        return self._touched

    @property
    def has_mutated(self) -> bool:
        """Whether the rule at work replaced or erased nodes itself."""
        return self._mutations > 0

    @property
    def fresh(self) -> tuple[fx.Node, ...]:
        """Nodes that the rule at work made."""
        return tuple(self._ledger.fresh)

    def rollback(self) -> None:
        """Take back the nodes that a rule made before it returned a Mismatch."""
        if self.has_mutated:
            raise PatternError(
                f"rule {self.rule} changed the graph at {self.node} and then returned a Mismatch; "
                "decide first, then rewrite"
            )
        for node in reversed(list(self._ledger.fresh)):
            self._erase(node)
            self._named_after.pop(node, None)

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
        given = tuple(origins) or (self._match.nodes if self._match is not None else ())
        sources = given or tuple(_nodes_in(args))
        if isinstance(target, OpDef):
            kwargs = without_defaults(target, kwargs)
        with self.graph.inserting_before(self._insertion_point()):
            # Arguments come afterwards: create_node searches them for symbolic numbers, at length.
            node: fx.Node = self.graph.create_node(op, target, name=name or joined_name(given))
            node.args, node.kwargs = args, kwargs
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
            if self._point._erased:
                raise PatternError(
                    f"{self._point.name}, before which nodes are to be made, is erased; make new "
                    "nodes before you replace or erase the old one"
                )
            return self._point
        last: fx.Node = next(iter(reversed(self.graph.nodes)))
        if last.op != "output":
            raise PatternError("the graph has no output; say where to insert: `with rw.at(node):`")
        return last

    def _claim(self, nodes: Iterable[fx.Node], old: fx.Node) -> None:
        """Let nodes whose origins were not given derive from what they replace, and be named so."""
        for node in nodes:
            if node not in self._unclaimed:
                continue
            del self._unclaimed[node]
            meta.copy_meta(node, old, rule=self.rule or self.pass_name)
            inherit(node, (old,))
            if node in self._ledger.fresh:
                self._named_after[node] = old

    def _changed(self, node: fx.Node, value: meta.Value, read: Iterable[fx.Node] = ()) -> None:
        """Keep the books of a node that changed, and that reads ``read`` now."""
        self._mutations += 1
        self._ledger.locate(node)
        self._ledger.changed(node)
        self.values.restate(node, value)
        self._touched.append(node)
        self._surroundings.changed(node)
        if self._match is None:
            self._flush(self._fresh_ancestors(*read))

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

    def _erase_dead(self, node: fx.Node, *, force: bool) -> None:
        """Erase ``node`` if nothing reads it, then its inputs in turn."""
        stack = [(node, force)]
        while stack:
            node, forced = stack.pop()
            if node._erased or node.users or not (forced or self._may_vanish(node)):
                continue
            if node.op in ("placeholder", "output"):
                continue
            inputs = node.all_input_nodes
            self._erase(node)
            self._touched.extend(inputs)
            stack.extend((i, False) for i in inputs)

    def _erase(self, node: fx.Node) -> None:
        self._ledger.removed(node)
        self._surroundings.changed(node)
        self.graph.erase_node(node)
        self.values.forget(node)

    def _may_vanish(self, node: fx.Node) -> bool:
        """Whether a dead node has no effect; a node of the match is the rule's to remove."""
        if node in self._kept:
            return False
        if self._match is not None and node in self._match.nodes:
            return True
        return not has_effect(node)

    def _flush(self, only: Container[fx.Node] | None = None) -> None:
        """Leave an event of what happened since the last one; of the new nodes only ``only``."""
        for node in self._ledger.close(self.rule or self.pass_name, only):
            self._named_after.pop(node, None)
        self._mutations = 0
        if self._match is None:
            self._touched = []


def _nodes_in(args: tuple[Any, ...]) -> Iterator[fx.Node]:
    for arg in args:
        if isinstance(arg, fx.Node):
            yield arg
        elif isinstance(arg, (tuple, list)):
            yield from _nodes_in(tuple(arg))
