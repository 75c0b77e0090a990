"""canonicalize: every spelling of an operation becomes one form.

One sweep in graph order. A call that works in place becomes functional first
(:mod:`qfx_passes.canonical.functionalize`); then the families of :data:`FAMILIES` are asked in
order, and the first that knows the call rewrites it. What comes out is ``call_function`` of the
vocabulary, with tensor operands by position and attributes by keyword; parameters are ``get_attr``
under their own names. The rest stays as it was written, with a note that says why where there is
more to say than "unknown".

It is one pass, as families build on each other's results call by call: ``x.shape[0]`` is read off
what ``x.shape`` became.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import fx

from qfx import vocab
from qfx.errors import ConfigError
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass
from qfx.framework.pass_context import PassContext
from qfx.graph import meta
from qfx.graph.leaves import has_hooks
from qfx.private_attributes import is_erased
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.vocab import OpDef
from qfx_passes.canonical import dropouts, rename_spellings
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.casts import canonical_cast
from qfx_passes.canonical.dropouts import canonical_dropout
from qfx_passes.canonical.expand_attention import expand_attention
from qfx_passes.canonical.expand_products import expand_product
from qfx_passes.canonical.functional_calls import Spelling, as_functional, changes_form, read_call
from qfx_passes.canonical.functionalize import Mutations
from qfx_passes.canonical.give_back import GivenBack
from qfx_passes.canonical.markers import canonical_marker
from qfx_passes.canonical.name_overwritten import name_changed_values
from qfx_passes.canonical.norms import norms_of
from qfx_passes.canonical.output_sizes import canonical_output_size
from qfx_passes.canonical.overloads import as_called
from qfx_passes.canonical.pin_layouts import pin_layouts
from qfx_passes.canonical.rearrangements import canonical_rearrangement
from qfx_passes.canonical.recompose import recompose
from qfx_passes.canonical.reductions import canonical_reduction
from qfx_passes.canonical.rename_spellings import rename_spelling
from qfx_passes.canonical.rewordings import reword
from qfx_passes.canonical.sizes import canonical_size

Family: TypeAlias = "Callable[[CallSite, Spelling], fx.Node | Mismatch | None]"
"""Rewrites the calls that it knows, and returns what they became; None leaves a call to others, and
a Mismatch leaves it as it was written."""

FAMILIES: dict[str, Family] = {
    "markers": canonical_marker,  # stubs, assertions
    "casts": canonical_cast,  # to, float, type_as
    "dropouts": canonical_dropout,  # dropout and identity
    "sizes": canonical_size,  # shape, ndim, len, arithmetic of numbers
    "expand-attention": expand_attention,  # multi-head attention, into its projections
    "expand-products": expand_product,  # einsum, addmm, matmul with a constant
    "rearrangements": canonical_rearrangement,  # movedim, hstack, tile, view_as
    "reductions": canonical_reduction,  # max, norm, var, sort
    "rewordings": reword,  # clamp by tensors, addcmul, diag, cross
    "recompose": recompose,  # layers that an exported program holds in parts
    "output-sizes": canonical_output_size,  # transposed convolutions that are told theirs
    "rename-spellings": rename_spelling,  # all that the vocabulary lists
}
"""By the name under which the history shows what they did, as rules of the pass."""

_FUNCTIONALIZE = "functionalize"

_FUNCTIONS = frozenset(
    {*rename_spellings.FUNCTIONS, *dropouts.FUNCTIONS, torch.addmm, torch.baddbmm}
)


class Canonicalize(Pass):
    """Bring a captured graph into the closed vocabulary.

    Attributes:
        trainable: keep what training needs: dropout, and the parameters themselves rather than
            what could be computed from them once and for all.
        leave_out: names of families that do nothing, or "functionalize": the calls that they know
            stay as they were written.
    """

    name = "canonicalize"
    requires = Level.CAPTURED
    produces = Level.CANONICAL
    parts = (_FUNCTIONALIZE, *FAMILIES)
    trainable: bool = False
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [part for part in self.leave_out if part not in self.parts]
        if unknown:
            raise ConfigError(
                f"canonicalize has no family called {unknown[0]!r}; it has: {', '.join(self.parts)}"
            )

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        norms = norms_of(graph) if self.trainable else None
        sweep = _Sweep(ctx.graph_module, ctx.rewriter, self)
        for node in list(graph.nodes):
            sweep.visit(node)
        if norms is not None:
            ctx.put(norms)
        with ctx.rewriter.named("remove-unread"):
            ctx.rewriter.erase_unread()
        with ctx.rewriter.named("name-overwritten"):
            name_changed_values(graph, ctx.rewriter)
        with ctx.rewriter.named("pin-layouts"):
            pin_layouts(graph, ctx.rewriter)


class _Sweep:
    """Visits the nodes of a graph once, in order."""

    def __init__(
        self, graph_module: fx.GraphModule, rewriter: Rewriter, options: Canonicalize
    ) -> None:
        self._rewriter = rewriter
        self._trainable = options.trainable
        left_out = options.leave_out
        self._families = [each for each in FAMILIES.items() if each[0] not in left_out]
        self._functionalizes = _FUNCTIONALIZE not in left_out
        self._copies: dict[str, str] = {}
        self._mutations = Mutations(graph_module)
        self._now: dict[fx.Node, fx.Node] = {}
        self._given_back = GivenBack(rewriter)

    def visit(self, node: fx.Node) -> None:
        if is_erased(node):  # the parts of attention replace its readers too
            return
        self._read_results_of_mutations(node)
        if node.op == "output":
            with self._rewriter.at(node), self._rewriter.named("give-back"):
                self._given_back.write(node)
        if node.op in ("placeholder", "get_attr", "output") or isinstance(node.target, OpDef):
            return
        with self._rewriter.at(node):
            if node in self._mutations.made_functional and not self._functionalizes:
                meta.set_note(node, "functionalize is left out of canonicalize")
            elif node in self._mutations.made_functional:
                self._make_functional(node)
            elif node in self._mutations.refused:
                meta.set_note(node, self._mutations.refused[node].reason)
            else:
                self._canonicalize(node, read_call(node))

    def _canonicalize(self, node: fx.Node, call: Spelling) -> fx.Node | None:
        """What ``node`` becomes; None, perhaps with a note, if it stays as it was written."""
        site = CallSite(node, self._rewriter, self._trainable, self._copies)
        if site.module is not None and has_hooks(site.module):
            return None  # capture said why
        call = as_called(call, node, _FUNCTIONS)
        found: fx.Node | Mismatch | None = None
        for name, family in self._families:
            self._rewriter.rule = f"{Canonicalize.name}/{name}"
            found = family(site, call)
            if found is not None:
                break
        self._rewriter.rule = None
        if isinstance(found, Mismatch):
            meta.set_note(node, found.reason)
            return None
        return found

    # -- mutation --------------------------------------------------------------------------------
    def _read_results_of_mutations(self, node: fx.Node) -> None:
        if not self._now:
            return
        for operand in node.all_input_nodes:
            current = self._current(operand)
            if current is not operand:
                self._rewriter.rewire(node, operand, current)

    def _current(self, node: fx.Node) -> fx.Node:
        passed = []
        while node in self._now:
            passed.append(node)
            node = self._now[node]
        for each in passed:
            self._now[each] = node
        return node

    def _make_functional(self, node: fx.Node) -> None:
        in_place, (written, call) = read_call(node), as_functional(node)
        made = self._canonicalize(node, call)
        if made is None:
            with self._rewriter.named("functionalize"):
                made = self._as_call(node, call)
        if made is written:
            return  # as detach_ does: it changes nothing that counts here
        if node in self._mutations.reforming:
            self._given_back.reformed(written, made, in_place)
        elif node in self._mutations.seen_by_caller:
            self._given_back.changed(written, made)
        value = meta.value_of(node if changes_form(in_place) else written)
        self._rewriter.values.restate(made, value)
        self._now[written] = made
        self._rewriter.keep(made)  # what reads it is yet to be visited

    def _as_call(self, node: fx.Node, call: Spelling) -> fx.Node:
        """The functional call of something that the vocabulary does not know."""
        rewriter = self._rewriter
        if node.op == "call_module":
            rewriter.configure(node, inplace=False)
            return node
        if isinstance(call.target, str):
            new = rewriter.call_method(call.target, *call.args, origins=(node,), **call.kwargs)
        else:
            new = rewriter.call(call.target, *call.args, origins=(node,), **call.kwargs)
        written, made = meta.tensor_info(node), meta.tensor_info(new)
        if written is not None and made is not None and made.dtype != written.dtype:
            new = rewriter.call(vocab.CAST, new, dtype=written.dtype, origins=(node,))  # x.gt_(0)
        rewriter.replace(node, new)
        return new
