"""What goes into an ``emit`` and comes out of it: biases as codes, and calls, which are checked.

A bias of a kernel that adds integers has the scale of the accumulator,

    b_q = round(b / (s_x * s_w))

with one code per output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx.backends.base import KernelRule, LoweringSite
from qfx.errors import BackendError
from qfx.graph import meta
from qfx.quant.qparams import QParams
from qfx.rewrite.pattern import Mismatch
from qfx.rewrite.rewriter import Rewriter

_INT32 = torch.iinfo(torch.int32)


def bias_codes(site: LoweringSite, bias: Tensor) -> Tensor | Mismatch:
    """``bias`` as codes of the accumulator's scale, or why it has none."""
    scales = [q.scale for _, q in site.inputs.values() if isinstance(q, QParams)]
    if len(scales) != 1 or site.weight is None:
        return Mismatch("a bias in integers takes one input and one weight of known scales")
    step = torch.as_tensor(scales[0], dtype=torch.float64) * torch.as_tensor(
        site.weight.qparams.scale, dtype=torch.float64
    )
    codes = torch.round(bias.double() / step)
    largest = float(codes.abs().max()) if codes.numel() else 0.0
    if not largest <= _INT32.max:
        return Mismatch("its bias is up to {0:.3g} steps of the accumulator, beyond int32", largest)
    return codes.to(torch.int32)


def settle_emitted(rw: Rewriter, made: object, site: LoweringSite, rule: KernelRule) -> None:
    """Check what ``emit`` returned, and record what it yields where that could not be told.

    Raises:
        BackendError: it is no node, or yields something else than the row says.
    """
    row = f"emit of the row {rule.op.name}, {rule.kernel!r}, at {meta.where(site.node)}"
    if not isinstance(made, fx.Node):
        raise BackendError(
            f'{row} returned {type(made).__name__}; return a node, or Mismatch("why not")'
        )
    if made is site.node or made in site.inputs:
        raise BackendError(f"{row} returned a node of the float graph: %{made.name}")
    wanted = meta.tensor_info(site.node)
    if wanted is None:
        return
    dtype = wanted.dtype if site.output is None else site.output.dtype
    found = meta.tensor_info(made)
    if not rw.values.is_inferred(made) and (found is None or found == wanted):
        rw.values.restate(made, meta.TensorInfo(wanted.shape, dtype))
        return
    if found is not None and found.shape != wanted.shape:
        raise BackendError(
            f"{row} yields shape {list(found.shape)}, and {rule.op.name} yields "
            f"{list(wanted.shape)}"
        )
    if found is not None and found.dtype.is_floating_point != dtype.is_floating_point:
        raise BackendError(
            f"{row} yields {found.dtype}, where {dtype} is asked for: site.output is "
            f"{'None, so float' if site.output is None else site.output}"
        )
