"""How recurrent modules are read: their weights as tuples of names, and what has no canonical form.

``weight_ih_l0``, ``weight_hh_l0``, then the reverse direction, then the next layer: the order in
which :mod:`qfx.semantics.recurrent` takes them.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn.utils.rnn import PackedSequence

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical.call_site import Arguments, CallSite, HeldName

_FLAGS = ("num_layers", "bidirectional", "batch_first", "nonlinearity")


def attributes(op: OpDef, module: nn.Module) -> Arguments:
    """The weights and flags of a recurrent module."""
    names = [""] if op in vocab.CELLS else list(_suffixes(module))
    held = {
        kind: tuple(HeldName(f"{stem}_{part}{end}") for end in names for part in ("ih", "hh"))
        for kind, stem in (("weights", "weight"), ("biases", "bias"))
    }
    flags = {f: getattr(module, f) for f in _FLAGS if f in op.signature.parameters}
    return {**held, **flags} if module.bias else {"weights": held["weights"], **flags}


def _suffixes(module: nn.Module) -> list[str]:
    layers: Any = module.num_layers
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return [f"_l{layer}{way}" for layer in range(layers) for way in ways]


def adapt(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    """Leave defaults out; refuse what the operation does not compute."""
    module = site.rewriter.module(site.node)
    if getattr(module, "proj_size", 0):
        return Mismatch("it projects its hidden state (proj_size={0})", module.proj_size)
    if getattr(module, "dropout", 0) and module.training:
        return Mismatch("it drops out between layers, in training")
    failed = _unpack(op, arguments, site)
    if failed is not None:
        return failed
    for name in _FLAGS:
        if name in arguments and arguments[name] == op.signature.parameters[name].default:
            del arguments[name]
    return None


def _unpack(op: OpDef, arguments: Arguments, site: CallSite) -> Mismatch | None:
    """Let the input be the data of a PackedSequence, if it is one, and ``packed`` the rest."""
    source = arguments.get("input")
    if isinstance(source, fx.Node) and meta.tensor_info(source) is not None:
        return None
    parts = _parts(source, site)
    if parts is None or "packed" not in op.signature.parameters:
        return Mismatch("its input is neither a tensor nor a PackedSequence")
    arguments["input"], arguments["packed"] = parts[0], parts[1:]
    return None


def _parts(source: object, site: CallSite) -> tuple[fx.Node | None, ...] | None:
    """The fields of a PackedSequence; None if ``source`` is none."""
    if isinstance(source, PackedSequence):
        return tuple(source)  # type: ignore[arg-type]
    if not isinstance(source, fx.Node):
        return None
    values = meta.value_of(source)
    if not isinstance(values, tuple) or len(values) != len(PackedSequence._fields):
        return None
    return tuple(
        site.rewriter.call(vocab.GETITEM, source, i, origins=(source,), value=value)
        for i, value in enumerate(values)
    )
