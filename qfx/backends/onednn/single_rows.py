"""Linear layers on a single row, as in decoding: fbgemm's kernel, over the same codes.

    y[n] = post(x_scale * w_scale[n] * sum((x - x_zp) * w[n]) + bias[n])

One row reads every weight once: fetching them is all there is to do, and fbgemm is better at it.
Its call also has less to set up. Microseconds of a call on one core of a Xeon with AMX, the weights
not in its own cache, median of some 400 (the least in brackets); rounding the row is counted for
fbgemm, and not for oneDNN:

    in x out          oneDNN        fbgemm
    1024 x 512      103  (66)      85  (68)
    1024 x 1024     302 (121)     125  (88)
    1024 x 3072     514 (361)     432 (298)
    3072 x 1024     537 (359)     392 (307)

From two rows on oneDNN wins, at 128 by 2.9. A weight is packed for fbgemm when a graph is first
given one row; from then on it takes a byte more for each of its elements there.

The row is measured as ever and rounded by the kernel, in one multiply-add and to the even code, as
:func:`qfx.semantics.affine.quantize` does. Post-ops are computed after it, in float.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn.saturation import saturates
from qfx.backends.packing_engine import engine, silence_deprecation
from qfx.graph.clone import OpaqueValue
from qfx.torch_private import at_once, find, make_per_channel

_kernel = at_once(
    find("torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default")
)  # (row, scale, zero point, packed)
_prepack = find("torch.ops.quantized.linear_prepack.default")

POST_OPS: Mapping[str, Callable[..., Tensor]] = {
    "relu": lambda y, algorithm: y.relu_(),
    "hardtanh": lambda y, low, high, algorithm: y.clamp_(low, high),
    "hardswish": lambda y, algorithm: F.hardswish(y, inplace=True),
    "swish": lambda y, algorithm: F.silu(y, inplace=True),
    "gelu": lambda y, algorithm: F.gelu(y, approximate=algorithm),
    "leaky_relu": lambda y, slope, algorithm: F.leaky_relu(y, slope, inplace=True),
    "tanh": lambda y, algorithm: y.tanh_(),
}
"""oneDNN's name of a post-op -> what computes it: the result, its numbers, its algorithm."""

_lock = threading.Lock()


class PackedForRows(OpaqueValue):
    """A weight and its bias as fbgemm packs them, once a model is given a single row.

    Attributes:
        packed: that; None before.
    """

    def __init__(self) -> None:
        self.packed: object = None

    def pack(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> object:
        """Pack, unless another thread did so meanwhile.

        Args:
            weight: as oneDNN packed it.
            scales: float32, (out,) or (1,).
            bias: float32, (out,).
        """
        packs = torch.backends.quantized.engine in ("fbgemm", "x86")  # so that no other is asked
        with _lock, torch.inference_mode(), nullcontext() if packs else engine("fbgemm"):
            if self.packed is None:
                codes = weight.to_dense().t().contiguous()
                each = scales.double().expand(len(codes)).contiguous()
                zeros = torch.zeros(len(codes), dtype=torch.int64)
                self.packed = _prepack(make_per_channel(codes, each, zeros, 0), bias)
            return self.packed


def multiply(
    row: Tensor,
    scale: float,
    zero_point: int,
    packed: object,
    post: str,
    numbers: Sequence[float],
    algorithm: str,
) -> Tensor:
    """A linear layer, and its post-op.

    Args:
        row: float32 (..., in), not rounded yet.
        scale: as measured.
        zero_point: likewise.
        packed: weight and bias, of :class:`PackedForRows`.
        post: oneDNN's name of the post-op.
        numbers: its numbers.
        algorithm: how it is computed.

    Returns:
        float32 (..., out).
    """
    try:
        y: Tensor = _kernel(row, scale, zero_point, packed)
    except RuntimeError:
        if row.dim() > 1:
            raise
        (y,) = _kernel(row[None], scale, zero_point, packed)  # it takes no vectors
    return y if post == "none" else POST_OPS[post](y, *numbers, algorithm)


def pays() -> bool:
    """Whether fbgemm's kernel is there, and as exact as oneDNN's.

    Where fbgemm adds up products in 16 bits, it saturates, and this finds it wrong.
    """
    return not saturates() and _is_exact()


@cache
def _is_exact() -> bool:
    with torch.inference_mode(), torch.device("cpu"):
        try:
            silence_deprecation()
            return all(_is_right(*sizes) for sizes in ((64, 64), (1000, 33)))
        except (RuntimeError, AttributeError):  # absent, or refuses
            return False


def _is_right(inputs: int, outputs: int) -> bool:
    row = torch.full((1, inputs), 252.0, dtype=torch.float32)  # the largest code, over that of 0
    row[0, ::3] = -3.0
    codes = torch.full((outputs, inputs), 127, dtype=torch.int8)
    codes[::2, 1::5] = -128
    packed = torch.ops.onednn.qlinear_prepack(codes, [1, inputs])
    ones = torch.ones(outputs, dtype=torch.float32)
    found = multiply(row, 1.0, 3, PackedForRows().pack(packed, ones, ones), "none", (), "")
    exact = row.double() @ codes.double().t() + 1.0
    return torch.allclose(found.double(), exact, rtol=1e-5, atol=1.0)
