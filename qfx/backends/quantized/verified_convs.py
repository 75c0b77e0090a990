"""Convolutions on quantized dtypes that prove themselves, where oneDNN may run them.

See :mod:`qfx.backends.onednn.verified_convs`: it is the same kernels that may be wrong, here
reached by ``torch.ops.quantized`` and as an engine packs for it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, fx

from qfx.backends.onednn.conv_calls import ConvCall, Ending
from qfx.backends.onednn.conv_forms import size_of
from qfx.backends.onednn.verified_convs import Numbers, Run, fault, is_suspect
from qfx.backends.packing_engine import engine
from qfx.torch_private import make_per_tensor

_ENDING = Ending(shifted=True, dtype=torch.uint8)


def is_wrong(call: ConvCall | None, node: fx.Node, packing: str) -> bool:
    """Whether an engine that takes oneDNN's kernels gets the call of a convolution wrong."""
    if call is None or packing not in ("x86", "onednn") or not is_suspect(call):
        return False
    return bool(fault(call, _ENDING, size_of(node), _runner(packing)))


@cache
def _runner(packing: str) -> Run:
    def run(
        call: ConvCall, ending: Ending, codes: Tensor, weight: Tensor, numbers: Numbers
    ) -> Tensor:
        make = make_per_tensor
        ops, name = torch.ops.quantized, f"conv{call.dims}d"
        with engine(packing):
            prepack = getattr(ops, f"{name}_prepack")
            packed = prepack(make(weight, 1.0, 0), None, *call.geometry)
        packet = getattr(ops, name)
        kernel = packet.new if "new" in packet.overloads() else packet.default
        x = make(codes, numbers.x_scale, numbers.zero_point)
        result: Tensor = kernel(x, packed, *numbers.output).int_repr()
        return result

    return run
