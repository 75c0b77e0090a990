"""The only gate that mutates a graph: it keeps provenance, values and names, and removes what died.

What goes through it, and only that, stands in the history: each call leaves an event, or adds to
the event of the rule at work. A test sees to it that passes of ours take no other way.

Every mutation costs time in proportion to the nodes it touches, never to the graph. A node that
replaces exactly one node takes its name, so sites keep the names of the capture; one that fuses
several is named after them (``conv1`` and ``relu`` become ``conv1_relu``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx

from qfx.errors import PatternError
from qfx.graph import meta
from qfx.graph.clone import copy_nodes
from qfx.graph.effects import has_effect
from qfx.private_attributes import is_erased
from qfx.rewrite.maker import Maker
from qfx.rewrite.making import inherit, without_defaults
from qfx.rewrite.rebuilding import changes, look_of
from qfx.rewrite.values import UNSET
from qfx.vocab import OpDef


class Rewriter(Maker):
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

    # -- change ----------------------------------------------------------------------------------

    def rewire(self, reader: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Let ``reader`` read ``new`` wherever it reads ``old``, which stays.

        To let all readers do so, use :meth:`replace`. It is to yield what it yielded.
        """
        if reader not in old.users:
            raise PatternError(
                f"{meta.where(reader)} does not read {meta.where(old)}", node=reader.name
            )
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

    def move(self, node: fx.Node, *, before: fx.Node) -> None:
        """Let ``node`` stand right before another node.

        It is the pass that sees to it that ``node`` stands below what it reads and above what reads
        it, and on its side of what writes to any of that.
        """
        before.prepend(node)
        self._changed(node, UNSET)

    def retarget(self, node: fx.Node, target: Any, *, value: meta.Value = UNSET) -> None:
        """Let ``node`` call or read ``target`` instead, which is of the same kind."""
        node.target = target
        self._changed(node, value)

    def configure(self, node: fx.Node, **attributes: object) -> None:
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
            raise PatternError(
                f"{meta.where(old)} cannot replace itself; return a new node", node=old.name
            )
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
        if namesake is old and is_erased(old):
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
        if is_erased(node):
            return
        if node.users:
            readers = ", ".join(f"%{u.name}" for u in node.users)
            raise PatternError(
                f"cannot erase {meta.where(node)}: still read by {readers}. Use replace(old, new).",
                node=node.name,
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

    @property
    def has_changed(self) -> bool:
        """Whether anything was made, changed or erased so far."""
        self._flush()
        return bool(self.events)

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

    def _erase_dead(self, node: fx.Node, *, force: bool) -> None:
        """Erase ``node`` if nothing reads it, then its inputs in turn."""
        stack = [(node, force)]
        while stack:
            node, forced = stack.pop()
            if is_erased(node) or node.users or not (forced or self._may_vanish(node)):
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
