"""Operators that ``ExportedProgram.run_decompositions`` leaves, as the layers that they come from.

aten.convolution(x, w, b, ..., transposed=False, ...)       ->  conv2d(x, w, b, ...)
aten._native_batch_norm_legit_no_training(x, w, b, m, v)[0]  ->  batch_norm(x, m, v, w, b)
aten.native_layer_norm(x, shape, w, b, eps)[0]               ->  layer_norm(x, shape, w, b)

Of norms that yield their statistics too, those are not read in inference; where they are, the call
is left as it was written.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from torch import fx

from qfx import vocab
from qfx.rewrite.pattern import Mismatch
from qfx.torch_private import OVERLOAD, PACKET
from qfx.vocab import OpDef
from qfx_passes.canonical.adapters import ADAPTERS
from qfx_passes.canonical.argument_values import rank_of
from qfx_passes.canonical.call_site import CallSite
from qfx_passes.canonical.functional_calls import Spelling
from qfx_passes.canonical.readings import NamedArguments, Reading


def recompose(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The layer that an operator of ATen computes."""
    reader = _READERS.get(call.target) if isinstance(call.target, str) else None
    if reader is None or not isinstance(site.node.target, (OVERLOAD, PACKET)) or not call.args:
        return None
    return reader(site, {"input": call.args[0], **call.kwargs})


def _convolution(site: CallSite, given: NamedArguments) -> Reading:
    dims, transposed = (rank_of(given["input"]) or 0) - 2, given.pop("transposed")
    ops = vocab.TRANSPOSED if transposed else vocab.CONVOLUTIONS
    op = next((each for each in ops if each.dims == dims), None)
    if op is None:
        return Mismatch("a convolution of what is not known to be a batch")
    if not transposed:
        given.pop("output_padding", None)
    failed = ADAPTERS[op](op, given, site)
    return site.becomes(op, given) if failed is None else failed


def _norm(op: OpDef, names: Mapping[str, str]) -> Callable[[CallSite, NamedArguments], Reading]:
    def norm(site: CallSite, given: NamedArguments) -> Reading:
        read = [reader for reader in site.node.users if reader.users]
        if not all(r.target is operator.getitem and r.args[1] == 0 for r in read) or not read:
            return Mismatch("its statistics are read, too")
        arguments = {names.get(name, name): value for name, value in given.items()}
        failed = ADAPTERS[op](op, arguments, site)
        if failed is not None:
            return failed
        made = site.call(op, arguments)
        for reader in list(site.node.users):
            if reader in read:
                site.rewriter.replace(reader, made)
            else:
                site.rewriter.erase(reader)
        site.rewriter.erase(site.node)  # which may move statistics, for all that is known of it
        return made

    return norm


_READERS: dict[str, Callable[[CallSite, NamedArguments], Reading]] = {
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _norm(vocab.BATCH_NORM, {}),
    "native_layer_norm": _norm(vocab.LAYER_NORM, {}),
}
