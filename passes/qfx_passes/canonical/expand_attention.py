"""Multi-head attention, taken apart into what it computes: see :mod:`.multi_head_attention`.

    attention(query, key, value)  ->  its projections, heads, softmax and output projection

``nn.MultiheadAttention`` and ``F.multi_head_attention_forward`` are read alike; the arguments of
the function are the names of both. Both return a pair, whose readers read its parts.
"""

from __future__ import annotations

import inspect
import operator
from operator import attrgetter
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from qfx.graph import meta
from qfx.graph.modes import ModeFlag
from qfx.private_attributes import is_erased
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling
from qfx_passes.canonical.multi_head_attention import AttentionNodes

_PARAMETERS = (
    *("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    *("bias_k", "bias_v", "out_proj_weight", "out_proj_bias"),
)
"""Arguments of the function that the module holds."""
_FLAGS = (
    *("need_weights", "average_attn_weights", "is_causal", "num_heads", "add_zero_attn"),
    "dropout_p",
)


def expand_attention(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """Replace attention by its parts; a Mismatch leaves it as it was written."""
    if call.target is F.multi_head_attention_forward:
        return _expand_function(site, call)
    if isinstance(site.module, nn.MultiheadAttention) and site.kind is not None:
        return _expand_module(site, site.module)
    return None


def _expand_module(site: CallSite, module: nn.MultiheadAttention) -> fx.Node | Mismatch:
    node, trainable = site.node, site.trainable
    bound = inspect.signature(nn.MultiheadAttention.forward).bind(module, *node.args, **node.kwargs)
    bound.apply_defaults()
    if module.dropout and module.training:
        return Mismatch("attention with dropout, in training")
    arguments = {
        **bound.arguments,
        "num_heads": module.num_heads,
        "add_zero_attn": module.add_zero_attn,
        "dropout_p": module.dropout if trainable else 0.0,
        "batch_first": module.batch_first,
    }
    failed = _obstacle(arguments)
    if failed is not None:
        return failed
    for name in _PARAMETERS:
        path = name.replace("out_proj_", "out_proj.")
        missing = attrgetter(path)(module) is None
        arguments[name] = (
            None if missing else site.rewriter.attribute(f"{node.target}.{path}", origins=(node,))
        )
    return _replace(node, AttentionNodes(node, site.rewriter, arguments, trainable))


def _expand_function(site: CallSite, call: Spelling) -> fx.Node | Mismatch:
    signature = inspect.signature(F.multi_head_attention_forward)
    bound = signature.bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    arguments = {**bound.arguments, "batch_first": False}
    training, follows = arguments["training"], isinstance(arguments["training"], ModeFlag)
    if isinstance(training, fx.Node) or (int(training) and arguments["dropout_p"]):
        return Mismatch("attention with dropout, in training")
    if not (site.trainable and follows):
        arguments["dropout_p"] = 0.0
    failed = _obstacle(arguments)
    if failed is not None:
        return failed
    if arguments["static_k"] is not None or arguments["static_v"] is not None:
        return Mismatch("attention over keys or values that are given (static_k, static_v)")
    if arguments["use_separate_proj_weight"]:
        arguments["in_proj_weight"] = None
    return _replace(site.node, AttentionNodes(site.node, site.rewriter, arguments, site.trainable))


def _obstacle(arguments: dict[str, Any]) -> Mismatch | None:
    if any(isinstance(arguments[name], fx.Node) for name in _FLAGS):
        return Mismatch("a flag of the attention is computed")
    info = meta.tensor_info(arguments["query"])
    if info is None or len(info.shape) not in (2, 3):
        return Mismatch("attention over a query of unknown rank")
    return None


def _replace(node: fx.Node, attention: AttentionNodes) -> fx.Node:
    """Let the readers of the pair that attention returns read its parts; returns the first."""
    rewriter = attention.rewriter
    single = {n: int(n.args[1]) % 2 for n in node.users if _takes_one(n)}  # type: ignore[arg-type]
    is_whole = len(single) < len(node.users)
    needs_weights = attention.arguments["need_weights"]
    pair = attention.build(bool(needs_weights) and (is_whole or any(single.values())))
    for reader, index in single.items():
        part = pair[index]
        assert part is not None
        rewriter.replace(reader, part)
    if is_erased(node):
        return pair[0]
    for reader in list(node.users):
        if reader.target is len:
            for user in list(reader.users):
                _let_read(user, reader, len(pair), rewriter)
            rewriter.erase(reader)
            continue
        _let_read(reader, node, pair, rewriter)
    rewriter.erase(node)
    return pair[0]


def _let_read(reader: fx.Node, node: fx.Node, value: Any, rewriter: Rewriter) -> None:
    """Give ``reader`` the argument ``value``, a nest of nodes or a number, instead of ``node``."""
    arguments: Any = (reader.args, reader.kwargs)
    args, kwargs = fx.map_arg(arguments, lambda n: value if n is node else n)
    rewriter.update(reader, args=args, kwargs=kwargs)


def _takes_one(reader: fx.Node) -> bool:
    return reader.target is operator.getitem and isinstance(reader.args[1], int)
