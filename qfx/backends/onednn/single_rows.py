"""Linear layers on a single row, as in decoding: fbgemm's kernel, over the same codes.

    y[n] = x_scale * w_scale[n] * sum((x - x_zp) * w[n]) + bias[n]

One row reads every weight once: fetching them is all there is to do, and fbgemm is better at it.
Microseconds on one core of a Xeon with AMX, the weights not in its own cache, the fastest of 96
runs; rounding the row is counted for fbgemm, and not for oneDNN, where it takes 20 more:

    in x out       oneDNN   fbgemm
    1024 x 1024      94       80
    1024 x 3072     282      236
    3072 x 1024     336      327

Two rows take both as long, more take fbgemm longer. A layer is packed for fbgemm when it is given
one row for the first time; from then on it takes a byte a weight more.

The kernel rounds the row itself, to the scale and the zero point that were measured: to the same
codes, but for values midway between two. Post-ops are computed after it, in float.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn.saturation import saturates
from qfx.backends.packing_engine import engine, silence_deprecation
from qfx.torch_private import find, make_per_channel

_kernel = find(
    "torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default"
)  # (row, scale, zero point, packed)
_prepack = find("torch.ops.quantized.linear_prepack.default")

POST_OPS: Mapping[str, Callable[..., Tensor]] = {
    "none": lambda y, algorithm: y,
    "relu": lambda y, algorithm: y.relu_(),
    "hardtanh": lambda y, low, high, algorithm: y.clamp_(low, high),
    "hardswish": lambda y, algorithm: F.hardswish(y, inplace=True),
    "swish": lambda y, algorithm: F.silu(y, inplace=True),
    "gelu": lambda y, algorithm: F.gelu(y, approximate=algorithm),
    "leaky_relu": lambda y, slope, algorithm: F.leaky_relu(y, slope, inplace=True),
    "tanh": lambda y, algorithm: y.tanh_(),
}
"""oneDNN's name of a post-op -> what computes it: the result, its numbers, its algorithm."""

_packed: dict[int, tuple[weakref.ref[Tensor], object]] = {}
"""By the id of a weight that oneDNN packed: that weight, and the same for fbgemm."""
_lock = threading.Lock()


def is_single(x: Tensor) -> bool:
    """Whether ``x`` (..., in) is one row."""
    return x.dim() > 1 and 0 < x.numel() == x.shape[-1]


def multiply(x: Tensor, x_scale: Any, x_zero_point: Any, weight: Any, *rest: Any) -> Tensor:
    """What ``onednn.qlinear_pointwise`` computes, of a row that is not rounded yet.

    Args:
        x: float32 (..., in), one row.
        x_scale: a number, as measured.
        x_zero_point: likewise, the code of 0.0.
        weight: as oneDNN packed it.
        rest: as for that kernel, which see; the result is float.
    """
    scales, _, bias, *_, post, numbers, algorithm = rest
    known = _packed.get(id(weight))
    packed = _pack(weight, scales, bias) if known is None else known[1]
    y: Tensor = _kernel(x, x_scale, x_zero_point, packed)
    return y if post == "none" else POST_OPS[post](y, *numbers, algorithm)


def _pack(weight: Tensor, scales: Tensor, bias: Tensor | None) -> object:
    with _lock, torch.inference_mode(), engine("fbgemm"):
        known = _packed.get(id(weight))
        if known is not None:
            return known[1]
        codes = weight.to_dense().t().contiguous()
        each = scales.double().expand(len(codes)).contiguous()
        zeros = torch.zeros(len(codes), dtype=torch.int64)
        made: object = _prepack(make_per_channel(codes, each, zeros, 0), bias)
        key = id(weight)
        _packed[key] = weakref.ref(weight, lambda _: _packed.pop(key, None)), made
        return made


@cache
def pays() -> bool:
    """Whether fbgemm's kernel is there, as exact as oneDNN's, and takes less than that.

    Where fbgemm adds up products in 16 bits, it saturates, and this finds it wrong.
    """
    if saturates():
        return False
    silence_deprecation()
    with torch.inference_mode(), torch.device("cpu"):
        try:
            return all(_is_right(*sizes) for sizes in ((64, 64), (1000, 33)))
        except (RuntimeError, AttributeError):  # absent, or refuses
            return False


def _is_right(inputs: int, outputs: int) -> bool:
    row = torch.full((1, inputs), 252.0)  # the largest code, over a zero point of 3
    row[0, ::3] = -3.0
    codes = torch.full((outputs, inputs), 127, dtype=torch.int8)
    codes[::2, 1::5] = -128
    packed = torch.ops.onednn.qlinear_prepack(codes, [1, inputs])
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int8)
    result: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    found = multiply(row, 1.0, 3, packed, ones, zeros, ones, *result)
    exact = row.double() @ codes.double().t() + 1.0
    return torch.allclose(found.double(), exact, rtol=1e-5, atol=1.0)
