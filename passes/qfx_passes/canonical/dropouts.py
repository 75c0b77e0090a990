"""Dropout: kept as an operation where it is trained, and gone in inference, like the identity.

dropout(x, p)  ->  dropout(x, p=p, kind=kind)       in a graph that is to be trained
               ->  x                                else
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.graph.modes import ModeFlag
from qfx.graph.source import qualified_name
from qfx.rewrite.pattern import Mismatch
from qfx.torch_private import DROPOUTS
from qfx.training.dropout import KINDS
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling

FUNCTIONS: dict[Any, str] = {
    **{getattr(F, name): name for name in KINDS if hasattr(F, name)},
    torch.dropout: "dropout",
    torch.feature_dropout: "dropout2d",
    torch.alpha_dropout: "alpha_dropout",
}
"""Functions that drop, and their kind of :class:`qfx.training.dropout.Dropout`."""

_MODULES: dict[type[nn.Module], str] = {
    nn.Dropout: "dropout",
    nn.Dropout1d: "dropout1d",
    nn.Dropout2d: "dropout2d",
    nn.Dropout3d: "dropout3d",
    nn.AlphaDropout: "alpha_dropout",
    nn.FeatureAlphaDropout: "feature_alpha_dropout",
}
_STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth.stochastic_depth"


class _Drop(NamedTuple):
    """A call that drops."""

    input: fx.Node
    p: float
    kind: str
    training: bool


def canonical_dropout(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The operation that drops, or what a call that drops nothing hands through."""
    if call.kind == "call_module":
        return _of_module(site)
    drop = _read_function(call)
    if drop is None:
        return None
    if site.trainable and isinstance(drop.training, ModeFlag) and drop.p:
        dropped = {"input": drop.input, "p": drop.p, "kind": drop.kind}
        return site.becomes(vocab.DROPOUT, dropped)
    return None if int(drop.training) and drop.p else site.through(drop.input)


def _of_module(site: CallSite) -> fx.Node | Mismatch | None:
    module, kind = site.module, site.kind
    if module is None or kind is None:
        return None
    if site.trainable and _drops_inside(module):
        return Mismatch("it drops out between its layers in training")
    if site.trainable and kind in _MODULES and module.p:
        dropped = {"input": site.operand, "p": module.p, "kind": _MODULES[kind]}
        return site.becomes(vocab.DROPOUT, dropped)
    return site.through(site.operand) if _is_idle(module, kind) else None


def _is_idle(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` hands its input through."""
    if isinstance(module, DROPOUTS):
        return not module.training or getattr(module, "p", None) == 0
    return kind is nn.Identity


def _drops_inside(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that drops between its own parts in training."""
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1


def _read_function(call: Spelling) -> _Drop | None:
    """What a call drops, or None if it is another."""
    if call.target in FUNCTIONS:
        named = dict(zip(("input", "p", "training"), call.args, strict=False)) | call.kwargs
        training, kind = named.get("training", named.get("train", True)), FUNCTIONS[call.target]
    elif not isinstance(call.target, str) and qualified_name(call.target) == _STOCHASTIC_DEPTH:
        named = dict(zip(("input", "p", "mode", "training"), call.args, strict=False)) | call.kwargs
        training, kind = named.get("training", True), named["mode"]
    else:
        return None
    source, p = named.get("input"), named.get("p", 0.5)
    if not isinstance(source, fx.Node) or isinstance(training, fx.Node):
        return None
    return _Drop(source, p, kind, training)
