"""Canonicalization: every spelling of an operation becomes one form.

One sweep in graph order. A call whose module type, function or method the vocabulary knows becomes
``call_function`` of the operation, with tensor operands by position and attributes by keyword;
parameters become ``get_attr`` under their own names. In-place calls become functional
(:mod:`qfx_passes.canonical.mutation`), what does nothing in inference (dropout, identity) goes,
attention is taken apart into its projections (:mod:`qfx_passes.canonical.attention`). The rest
stays as it was written, with a note that says why where there is more to say than "unknown".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, PassContext
from qfx.graph import meta
from qfx.graph.leaves import has_hooks
from qfx.graph.memory import Memory
from qfx.graph.modes import ModeFlag
from qfx.graph.source import qualified_name, torch_class
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx.stubs import is_dequant_stub, is_quant_stub
from qfx.torch_private import ASSERT, DROPOUTS
from qfx.training.dropout import KINDS
from qfx.vocab import OpDef, is_op
from qfx_passes.canonical import attention, recurrent, spellings
from qfx_passes.canonical.adapters import ADAPTERS, Arguments, Held, Site
from qfx_passes.canonical.casts import Cast, read_cast
from qfx_passes.canonical.mutation import Call, Mutations, functional, read_call
from qfx_passes.canonical.norms import norms_of
from qfx_passes.canonical.overloads import as_called
from qfx_passes.canonical.overwritten import name_changed_values
from qfx_passes.canonical.products import Products


class Canonicalize(Pass):
    """Bring a captured graph into the closed vocabulary.

    Attributes:
        trainable: keep what training needs: dropout, and the parameters themselves rather than
            what could be computed from them once and for all.
    """

    name = "canonicalize"
    requires = Level.CAPTURED
    produces = Level.CANONICAL
    trainable: bool = False

    def run(self, graph: fx.Graph, ctx: PassContext) -> None:
        norms = norms_of(graph) if self.trainable else None
        sweep = _Sweep(ctx.graph_module, ctx.rewriter, trainable=self.trainable)
        for node in list(graph.nodes):
            sweep.visit(node)
        if norms is not None:
            ctx.put(norms)
        ctx.rewriter.erase_unread()
        name_changed_values(graph, ctx.rewriter)
        _keep_layouts(graph, ctx.rewriter)


# -- what the spellings mean, from the one table of the vocabulary ---------------------------------
_MODULES: dict[type[nn.Module], OpDef] = {m: op for op in vocab.ops() for m in op.modules}
_FUNCTIONS: dict[Any, OpDef] = {f: op for op in vocab.ops() for f in op.functions}
_METHODS: dict[str, OpDef] = {m: op for op in vocab.ops() for m in op.methods}
_ADAPTERS = {**ADAPTERS, **dict.fromkeys(vocab.RECURRENT, recurrent.adapt)}
_DROPOUTS: dict[Any, str] = {
    **{getattr(F, name): name for name in KINDS if hasattr(F, name)},
    torch.dropout: "dropout",
    torch.feature_dropout: "dropout2d",
    torch.alpha_dropout: "alpha_dropout",
}
"""Functions that drop, and their kind of :class:`qfx.training.dropout.Dropout`."""
_KNOWN_FUNCTIONS = frozenset({*_FUNCTIONS, *_DROPOUTS, torch.addmm})
_DROPOUT_MODULES: dict[type[nn.Module], str] = {
    nn.Dropout: "dropout",
    nn.Dropout1d: "dropout1d",
    nn.Dropout2d: "dropout2d",
    nn.Dropout3d: "dropout3d",
    nn.AlphaDropout: "alpha_dropout",
    nn.FeatureAlphaDropout: "feature_alpha_dropout",
}
_STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth.stochastic_depth"
_PROPERTIES: dict[str, OpDef] = {
    "shape": vocab.SIZE,
    "ndim": vocab.DIM,
    "dtype": vocab.DTYPE,
    "device": vocab.DEVICE,
}


class _Sweep:
    """Visits the nodes of a graph once, in order."""

    def __init__(
        self, graph_module: fx.GraphModule, rewriter: Rewriter, *, trainable: bool
    ) -> None:
        self._rewriter = rewriter
        self._trainable = trainable
        self._products = Products(rewriter, trainable=trainable)
        self._mutations = Mutations(graph_module)
        self._now: dict[fx.Node, fx.Node] = {}

    def visit(self, node: fx.Node) -> None:
        if node._erased:  # the parts of attention replace its readers too
            return
        self._read_results_of_mutations(node)
        if node.op in ("placeholder", "get_attr", "output") or isinstance(node.target, OpDef):
            return
        with self._rewriter.at(node):
            if node in self._mutations.made_functional:
                self._make_functional(node)
            elif node in self._mutations.refused:
                meta.set_note(node, self._mutations.refused[node].reason)
            else:
                self._canonicalize(node, read_call(node))

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
        written = read_call(node)
        call = functional(written)
        assert call is not None
        assert written.mutates is not None
        made = self._canonicalize(node, call) or self._as_call(node, call)
        meta.set_value(made, meta.value_of(written.mutates))
        self._now[written.mutates] = made
        self._rewriter.keep(made)  # what reads it is yet to be visited

    def _as_call(self, node: fx.Node, call: Call) -> fx.Node:
        """The functional call of something that the vocabulary does not know."""
        if node.op == "call_module":
            self._rewriter.configure(node, inplace=False)
            return node
        if isinstance(call.target, str):
            new = self._rewriter.call_method(
                call.target, *call.args, origins=(node,), **call.kwargs
            )
        else:
            new = self._rewriter.call(call.target, *call.args, origins=(node,), **call.kwargs)
        self._rewriter.replace(node, new)
        return new

    # -- one call --------------------------------------------------------------------------------
    def _canonicalize(self, node: fx.Node, call: Call) -> fx.Node | None:
        """What ``node`` becomes; None, perhaps with a note, if it stays as it was written."""
        if call.kind == "call_module":
            return self._canonicalize_module(node)
        call = as_called(call, node, _KNOWN_FUNCTIONS)
        if call.target is getattr:
            return self._canonicalize_property(node, call)
        cast = read_cast(call)
        if cast is not None:
            return self._canonicalize_cast(node, cast)
        drop = _drop_function(call)
        if drop is not None and self._trainable and isinstance(drop.training, ModeFlag) and drop.p:
            arguments = {"input": drop.input, "p": drop.p, "kind": drop.kind}
            return self._call(node, vocab.DROPOUT, arguments)
        if drop is not None and (not int(drop.training) or not drop.p):
            self._rewriter.replace(node, drop.input)
            return drop.input
        if call.target is ASSERT:
            condition, message = call.args[:2]
            named = {"expected": True, "what": message, "asserted": True}
            return self._call(node, vocab.GUARD, {"value": condition, **named})
        if call.target in vocab.SCALARS and not _holds_tensor(meta.value_of(node)):
            return self._canonicalize_number(node, call)
        if call.target is F.multi_head_attention_forward:
            return self._expand_attention_function(node, call)
        product = self._products.expand(node, call)
        if isinstance(product, fx.Node):
            self._rewriter.replace(node, product)
            return product
        if product is not None:
            meta.set_note(node, product.reason)
        return self._canonicalize_spelling(node, call)

    def _canonicalize_cast(self, node: fx.Node, cast: Cast) -> fx.Node:
        if cast.changes:
            return self._call(node, vocab.CAST, {"input": cast.input, "dtype": cast.dtype})
        self._rewriter.replace(node, cast.input)
        return cast.input

    def _canonicalize_spelling(self, node: fx.Node, call: Call) -> fx.Node | None:
        op = vocab.SETITEM if call.target is vocab.SETITEM else self._op(call)
        if op is None or not _reads_tensor(op, call):
            return None
        arguments = spellings.bind(call.target, op, call.args, call.kwargs)
        if op is vocab.GETITEM and _of(call.args[0], vocab.SIZE) and isinstance(call.args[1], int):
            return self._call(
                node, vocab.SIZE, {"input": call.args[0].args[0], "dim": call.args[1]}
            )
        return self._finish(node, op, arguments)

    def _op(self, call: Call) -> OpDef | None:
        if isinstance(call.target, str):
            return _METHODS.get(call.target)
        return _FUNCTIONS.get(call.target)

    def _finish(self, node: fx.Node, op: OpDef, arguments: Arguments | Mismatch) -> fx.Node | None:
        if not isinstance(arguments, Mismatch):
            adapt = _ADAPTERS.get(op)
            failed = None if adapt is None else adapt(op, arguments, Site(node, self._rewriter))
            if failed is None:
                return self._call(node, op, arguments)
            arguments = failed
        meta.set_note(node, arguments.reason)
        return None

    def _canonicalize_number(self, node: fx.Node, call: Call) -> fx.Node:
        if call.target is len and _of(call.args[0], vocab.SIZE):
            return self._call(node, vocab.DIM, {"input": call.args[0].args[0]})
        if call.target is len and meta.tensor_info(call.args[0]) is not None:
            return self._call(node, vocab.SIZE, {"input": call.args[0], "dim": 0})
        assert not isinstance(call.target, str)
        op = vocab.SCALARS[call.target]
        value = meta.value_of(node)  # None of a number, as many of a torch.Size as it has
        new = self._rewriter.call(op, *call.args, origins=(node,), value=value, **call.kwargs)
        self._rewriter.replace(node, new)
        return new

    def _canonicalize_property(self, node: fx.Node, call: Call) -> fx.Node | None:
        receiver, name = call.args[:2]
        info = meta.tensor_info(receiver)
        if info is None:
            return None
        if name in _PROPERTIES:
            return self._call(node, _PROPERTIES[name], {"input": receiver})
        if name == "mT" or (name == "T" and len(info.shape) == 2):
            return self._call(node, vocab.TRANSPOSE, {"input": receiver, "dim0": -2, "dim1": -1})
        return None

    # -- modules ---------------------------------------------------------------------------------
    def _canonicalize_module(self, node: fx.Node) -> fx.Node | None:
        module = self._rewriter.module(node)
        if has_hooks(module):
            return None  # capture said why
        if is_quant_stub(module) or is_dequant_stub(module):
            op = vocab.QUANT_STUB if is_quant_stub(module) else vocab.DEQUANT_STUB
            return self._call(node, op, {"input": node.args[0]})
        kind = torch_class(module)
        if kind is None:
            return None
        if self._trainable and _drops_inside(module):
            meta.set_note(node, "it drops out between its layers in training")
            return None
        if self._trainable and kind in _DROPOUT_MODULES and module.p:
            operand = node.args[0] if node.args else node.kwargs["input"]
            dropped = {"input": operand, "p": module.p, "kind": _DROPOUT_MODULES[kind]}
            return self._call(node, vocab.DROPOUT, dropped)
        if _is_idle_module(module):
            source = node.args[0] if node.args else node.kwargs["input"]
            assert isinstance(source, fx.Node)
            self._rewriter.replace(node, source)
            return source
        if isinstance(module, nn.MultiheadAttention):
            return self._expand_attention(node, module)
        op_of_kind = next((_MODULES[k] for k in kind.__mro__ if k in _MODULES), None)
        if op_of_kind is None:
            return None
        arguments = spellings.read_module(op_of_kind, module, node)
        return self._finish(node, op_of_kind, arguments)

    def _expand_attention(self, node: fx.Node, module: nn.MultiheadAttention) -> fx.Node | None:
        failed = attention.expand_module(node, module, self._rewriter, trainable=self._trainable)
        if failed is not None:
            meta.set_note(node, failed.reason)
        return None

    def _expand_attention_function(self, node: fx.Node, call: Call) -> fx.Node | None:
        failed = attention.expand_function(
            node, call.args, call.kwargs, self._rewriter, trainable=self._trainable
        )
        if failed is not None:
            meta.set_note(node, failed.reason)
        return None

    # -- making nodes ----------------------------------------------------------------------------
    def _call(self, node: fx.Node, op: OpDef, arguments: Arguments) -> fx.Node:
        """Replace ``node`` by ``op``: operands by position, attributes by keyword."""
        operands: list[Any] = []
        defaults: list[Any] = []
        attributes: dict[str, Any] = {}
        for name, parameter in op.signature.parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                if name in arguments:
                    attributes[name] = arguments[name]
                continue
            operands.append(self._read(node, arguments.get(name, parameter.default)))
            defaults.append(parameter.default)
        while operands and operands[-1] is None and defaults[-1] is None:  # not x[None]
            operands.pop()
            defaults.pop()
        if "value" not in op.signature.parameters:  # capture has seen what it yields
            attributes["value"] = meta.value_of(node)
        new = self._rewriter.call(op, *operands, origins=(node,), **attributes)
        self._rewriter.replace(node, new)
        return new

    def _read(self, node: fx.Node, value: Any) -> Any:
        """``value``, with what the module of ``node`` holds read from it."""
        if isinstance(value, Held):
            return self._rewriter.attribute(f"{node.target}.{value}", origins=(node,))
        if isinstance(value, tuple) and any(isinstance(item, Held) for item in value):
            return tuple(self._read(node, item) for item in value)
        return value


def _is_idle_module(module: nn.Module) -> bool:
    """Whether ``module`` hands its input through."""
    if isinstance(module, DROPOUTS):
        return not module.training or getattr(module, "p", None) == 0
    return torch_class(module) is nn.Identity


def _drops_inside(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that drops between its own parts in training."""
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1


class _Drop(NamedTuple):
    """A call that drops."""

    input: fx.Node
    p: float
    kind: str
    training: bool


def _drop_function(call: Call) -> _Drop | None:
    """What a call drops, or None if it is another."""
    if call.target in _DROPOUTS:
        named = dict(zip(("input", "p", "training"), call.args, strict=False)) | call.kwargs
        training, kind = named.get("training", named.get("train", True)), _DROPOUTS[call.target]
    elif not isinstance(call.target, str) and qualified_name(call.target) == _STOCHASTIC_DEPTH:
        named = dict(zip(("input", "p", "mode", "training"), call.args, strict=False)) | call.kwargs
        training, kind = named.get("training", True), named["mode"]
    else:
        return None
    source, p = named.get("input"), named.get("p", 0.5)
    if not isinstance(source, fx.Node) or isinstance(training, fx.Node):
        return None
    return _Drop(source, p, kind, training)


def _of(value: Any, op: OpDef) -> bool:
    """Whether ``value`` is a node of ``op`` without attributes."""
    return isinstance(value, fx.Node) and value.target is op and not value.kwargs


def _holds_tensor(value: meta.Value) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensor, value))
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    return value is not None


def _reads_tensor(op: OpDef, call: Call) -> bool:
    """Whether an operand is a tensor, as operations want (and ``2 * 3`` has not)."""
    if op is vocab.GETITEM:
        return True
    operands = [*call.args[:2], *call.kwargs.values()]
    flat = [o for each in operands for o in (each if isinstance(each, (tuple, list)) else (each,))]
    return any(isinstance(o, fx.Node) and _holds_tensor(meta.value_of(o)) for o in flat)


def _keep_layouts(graph: fx.Graph, rewriter: Rewriter) -> None:
    """Pin the memory format of results that views look into and something overwrites.

    Kernels may hand out channels_last, of which a flatten is a copy, and no view any more.
    """
    for root in Memory(graph).owners_of_views():
        if meta.tensor_info(root) is None or all(is_op(u, vocab.CONTIGUOUS) for u in root.users):
            continue
        with rewriter.at(root.next):
            pinned = rewriter.call(
                vocab.CONTIGUOUS, root, origins=(root,), value=meta.value_of(root)
            )
            rewriter.replace(root, pinned)
