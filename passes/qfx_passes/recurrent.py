"""How recurrent modules are read: their weights as tuples of names, and what has no canonical form.

``weight_ih_l0``, ``weight_hh_l0``, then the reverse direction, then the next layer: the order in
which :mod:`qfx.recurrent` takes them.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.adapters import Arguments, Held, Site

_FLAGS = ("num_layers", "bidirectional", "batch_first", "nonlinearity")


def attributes(op: OpDef, module: nn.Module) -> Arguments:
    """The weights and flags of a recurrent module."""
    names = [""] if op in vocab.CELLS else list(_suffixes(module))
    held = {
        kind: tuple(Held(f"{stem}_{part}{end}") for end in names for part in ("ih", "hh"))
        for kind, stem in (("weights", "weight"), ("biases", "bias"))
    }
    flags = {f: getattr(module, f) for f in _FLAGS if f in op.signature.parameters}
    return {**held, **flags} if module.bias else {"weights": held["weights"], **flags}


def _suffixes(module: nn.Module) -> list[str]:
    layers: Any = module.num_layers
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return [f"_l{layer}{way}" for layer in range(layers) for way in ways]


def adapt(op: OpDef, arguments: Arguments, site: Site) -> Mismatch | None:
    """Leave defaults out; refuse what the operation does not compute."""
    module = site.rewriter.module(site.node)
    if getattr(module, "proj_size", 0):
        return Mismatch("it projects its hidden state (proj_size={0})", module.proj_size)
    if getattr(module, "dropout", 0) and module.training:
        return Mismatch("it drops out between layers, in training")
    source = arguments.get("input")
    if not isinstance(source, fx.Node) or meta.tensor_info(source) is None:
        return Mismatch("its input is no tensor, but a PackedSequence")
    for name in _FLAGS:
        if name in arguments and arguments[name] == op.signature.parameters[name].default:
            del arguments[name]
    return None
