"""Linear layers as 1x1 convolutions: faster, where products of codes saturate.

    y[m] = W x[m]        x (rows, in) as an image (1, in, 1, rows), channels last: the same memory

CPUs without VNNI have no instruction for such products. oneDNN's linear kernel falls back to a
general product of matrices there, which spends most of its time on packing where rows are few; its
convolutions have kernels of their own, down to AVX2. The sums are the same to the bit. Time of the
linear kernel / of the convolution on one core of a Zen 3 (AVX2):

    1 x 1280 x 1000   7.9        1 x 512 x 2048   2.6        128 x 768 x 3072   1.1
    1 x 1024 x 1000   7.2        24 x 1536 x 384  1.4        24 x 384 x 384     1.1
    1 x 1024 x 4096   3.8        49 x 512 x 2048  1.4        16 x 100 x 10      0.8

(rows x inputs x outputs). A call costs some 15 us more, so that small layers stay as they are.

A packed weight tells by its dims how it is multiplied: four, as a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from qfx.backends.onednn import kernels, packing
from qfx.backends.onednn.arguments import Conv, Geometry, Linear, LinearAdd
from qfx.backends.onednn.saturation import saturates

LARGE = 1 << 17
"""Elements of a weight from where on it pays."""

POINTWISE = Geometry([1, 1], [0, 0], [1, 1], 1)


def pays(weights: Sequence[Tensor], post: str) -> bool:
    """Whether linear weights that read one input are multiplied as a convolution."""
    size = sum(weight.numel() for weight in weights)
    return size >= LARGE and post in kernels.CONV_POST_OPS[2] and saturates()


def pack(
    weights: Sequence[Tensor], x_shape: Sequence[int], x_zero_point: object, post: str = "none"
) -> Tensor:
    """Pack linear weights that read one input, for the kernel that is faster here.

    Args:
        weights: int8, (out, in) each; their outputs stand in this order.
        x_shape: shape of a typical input, (..., in).
        x_zero_point: zero point of the input; anything but a number, if it is measured.
        post: oneDNN's name of the post-op.

    Returns:
        An opaque tensor, for :func:`multiply` or ``onednn.qlinear_pointwise``.
    """
    if not pays(weights, post):
        return packing.pack_joined(weights, x_shape)
    shifted = not isinstance(x_zero_point, int) or x_zero_point != 0
    return packing.pack_as_convolution(weights, prod(x_shape[:-1]), shifted=shifted)


def is_convolution(packed: Tensor) -> bool:
    """Whether a packed linear weight is multiplied as a convolution."""
    return packed.dim() == 4


def widths(packed: Tensor) -> tuple[int, int]:
    """Inputs and outputs of a packed linear weight."""
    inputs, outputs = packed.shape[:2]
    return (outputs, inputs) if is_convolution(packed) else (inputs, outputs)


def multiply(given: Linear) -> Tensor:
    """What ``onednn.qlinear_pointwise`` computes, with a weight that is packed either way."""
    if not is_convolution(given.weight):
        plain: Tensor = torch.ops.onednn.qlinear_pointwise.default(*given)
        return plain
    head, tail = given._replace(x=_image(given.x))[:7], given[7:]
    y = torch.ops.onednn.qconv2d_pointwise.default(*Conv(*head, *POINTWISE, *tail))
    rows: Tensor = y.permute(0, 2, 3, 1)
    return rows.reshape(*given.x.shape[:-1], rows.shape[-1])


def add_in_place(given: LinearAdd) -> None:
    """Add a product to a contiguous float tensor; ``how`` is "sum", without post-op.

    The convolution's own sum hands out a copy of what it has overwritten.
    """
    if not is_convolution(given.weight):
        torch.ops.onednn.qlinear_pointwise.binary(*given)
        return
    given.other.add_(multiply(Linear(*given[:6], *given[7:11], "none", [], "")))


def _image(rows: Tensor) -> Tensor:
    """Rows (..., features) as pixels, in the same memory."""
    return rows.reshape(1, 1, -1, rows.shape[-1]).permute(0, 3, 1, 2)
