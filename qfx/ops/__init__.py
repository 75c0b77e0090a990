"""Tensor operations on plain integer tensors and their qparams: the arithmetic, without a graph.

A quantized tensor is two things, held apart: an integer tensor of codes, and the qparams that give
it a meaning, either :class:`qfx.QParams` or a pair ``(scale, zero_point)`` whose codes may be all
that their dtype holds. Every operation computes

    y  = f((a - zero_point_a) * scale_a, (b - zero_point_b) * scale_b, ...)
    qy = clamp(round(y * (1 / scale) + zero_point), quant_min, quant_max)

with ``y`` in float64: codes, their products and sums are exact in it, no accumulator overflows, and
``y`` is rounded once, ties to the even code (Jacob et al. 2018, arXiv:1712.05877). Operands
broadcast as in PyTorch, empty tensors give empty tensors, and without ``out_qparams`` the result is
``y`` in float32. Kernels of backends agree to one step.
"""

from qfx.ops.activations import (
    clamp,
    elu,
    gelu,
    hardswish,
    leaky_relu,
    relu,
    relu6,
    sigmoid,
    softmax,
    tanh,
)
from qfx.ops.arithmetic import (
    add,
    add_relu,
    add_scalar,
    cat,
    cat_relu,
    matmul,
    mul,
    mul_relu,
    mul_scalar,
    requantize,
    sub,
)
from qfx.ops.layers import (
    conv1d,
    conv1d_relu,
    conv2d,
    conv2d_relu,
    conv3d,
    conv3d_relu,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    embedding,
    linear,
    linear_dynamic,
    linear_relu,
)
from qfx.ops.pools import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    mean,
)
from qfx.ops.tensors import dequantize, quantize, quantize_dynamic, quantize_per_channel
from qfx.semantics.affine import (
    choose_qparams,
    dynamic_qparams,
    fake_quantize,
    learned_fake_quantize,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "add",
    "add_relu",
    "add_scalar",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "cat",
    "cat_relu",
    "choose_qparams",
    "clamp",
    "conv1d",
    "conv1d_relu",
    "conv2d",
    "conv2d_relu",
    "conv3d",
    "conv3d_relu",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "dequantize",
    "dynamic_qparams",
    "elu",
    "embedding",
    "fake_quantize",
    "gelu",
    "hardswish",
    "leaky_relu",
    "learned_fake_quantize",
    "linear",
    "linear_dynamic",
    "linear_relu",
    "matmul",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mean",
    "mul",
    "mul_relu",
    "mul_scalar",
    "quantize",
    "quantize_dynamic",
    "quantize_per_channel",
    "relu",
    "relu6",
    "requantize",
    "sigmoid",
    "softmax",
    "sub",
    "tanh",
]
