"""Transposed convolutions that are called with the size that they are to yield.

up(x, output_size=(h, w))  ->  conv_transpose2d(x, output_padding=stride - 1)[:, :, :h, :w]

Several sizes of an input shrink to one, and the size asked for tells which of them comes back.
``output_padding`` only computes more at the end of each dim, so that all of them are the beginning
of the largest: the convolution is the same at every size. Sizes that the module refuses are refused
by a guard, ``(largest - size) // stride == 0``.
"""

from __future__ import annotations

import inspect
import operator

from torch import fx

from qfx import vocab
from qfx.graph import meta
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import OpDef
from qfx_passes.canonical.adapters import ADAPTERS
from qfx_passes.canonical.argument_values import computed, rank_of
from qfx_passes.canonical.call_site import Arguments, CallSite
from qfx_passes.canonical.functional_calls import Spelling
from qfx_passes.canonical.rename_spellings import op_of_module, read_module

_OUTPUT_SIZE = "output_size"


def canonical_output_size(site: CallSite, call: Spelling) -> fx.Node | Mismatch | None:
    """The largest result of the transposed convolution, cut to the size that is asked for."""
    op, module, node = op_of_module(site), site.module, site.node
    if op is None or op not in vocab.TRANSPOSED or module is None:
        return None
    given = inspect.signature(type(module).forward).bind(module, *node.args, **node.kwargs)
    size = given.arguments.get(_OUTPUT_SIZE)
    if size is None:
        return None
    assert op.dims is not None
    if rank_of(site.operand) != op.dims + 2:
        return Mismatch("an output_size of what is not known to be a batch")
    sizes = _sizes(site, size)
    if sizes is None:
        return computed(_OUTPUT_SIZE)
    arguments = read_module(op, module, (site.operand,), {})
    if isinstance(arguments, Mismatch):
        return arguments
    failed = ADAPTERS[op](op, arguments, site)
    return failed if failed is not None else _cut(site, op, arguments, sizes[-op.dims :])


def _sizes(site: CallSite, size: object) -> list[object] | None:
    """The numbers of an ``output_size``; None if it isn't known how many they are."""
    if isinstance(size, (tuple, list)):
        return list(size)
    value = meta.value_of(size) if isinstance(size, fx.Node) else None
    if not isinstance(value, (tuple, list)):
        return None
    call, origins = site.rewriter.call, (site.node,)
    return [call(vocab.GETITEM, size, i, origins=origins, value=None) for i in range(len(value))]


def _cut(site: CallSite, op: OpDef, arguments: Arguments, sizes: list[object]) -> fx.Node:
    call, origins = site.rewriter.call, (site.node,)
    steps = arguments.get("stride", (1,) * len(sizes))
    whole = site.call(op, {**arguments, "output_padding": tuple(step - 1 for step in steps)})
    for dim, (size, step) in enumerate(zip(sizes, steps, strict=True), 2):
        largest = call(vocab.SIZE, whole, dim=dim, origins=origins, value=None)
        more = call(vocab.SCALARS[operator.sub], largest, size, origins=origins, value=None)
        fits = call(vocab.SCALARS[operator.floordiv], more, step, origins=origins, value=None)
        what = f"an output_size that {site.node.target} can yield"
        call(vocab.GUARD, fits, expected=0, what=what, asserted=True, origins=origins)
    kept = (slice(None), slice(None), *(slice(None, size) for size in sizes))
    return site.through(call(vocab.GETITEM, whole, kept, origins=origins))
