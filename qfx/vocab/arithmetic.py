"""Arithmetic and activations, and what normalizes."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import nn

from qfx.semantics import activations, layers, shapes
from qfx.vocab.definition import Kind, define

# -- arithmetic ----------------------------------------------------------------------------------
ADD = define(
    activations.add,
    Kind.ARITHMETIC,
    (),
    (torch.add, operator.add, operator.iadd),
    ("add", "add_"),
    commutative=True,
    affine=True,
)
SUB = define(
    activations.sub,
    Kind.ARITHMETIC,
    (),
    (torch.sub, torch.subtract, operator.sub, operator.isub),
    ("sub", "sub_", "subtract", "subtract_"),
    affine=True,
)
MUL = define(
    activations.mul,
    Kind.ARITHMETIC,
    (),
    (torch.mul, torch.multiply, operator.mul, operator.imul),
    ("mul", "mul_", "multiply"),
    commutative=True,
    affine=True,
)
DIV = define(
    activations.div,
    Kind.ARITHMETIC,
    (),
    (
        *(torch.div, torch.true_divide, torch.divide, operator.truediv, operator.itruediv),
        *(torch.floor_divide, operator.floordiv, operator.ifloordiv),
    ),
    ("div", "div_", "divide", "true_divide", "floor_divide"),
    affine=True,
)

GRID_SAMPLE = define(layers.grid_sample, Kind.ARITHMETIC, (), (F.grid_sample,))
AFFINE_GRID = define(shapes.affine_grid, Kind.ARITHMETIC, (), (F.affine_grid,))
CAST = define(activations.cast, Kind.ARITHMETIC, affine=True)

# -- activations ---------------------------------------------------------------------------------
RELU = define(
    activations.relu,
    Kind.ACTIVATION,
    (nn.ReLU,),
    (torch.relu, torch.relu_, F.relu, F.relu_),
    ("relu", "relu_"),
    elementwise=True,
)
CLAMP = define(
    activations.clamp,
    Kind.ACTIVATION,
    (nn.ReLU6, nn.Hardtanh),
    (
        *(torch.clamp, torch.clip, torch.clamp_min, torch.clamp_max),
        *(F.relu6, F.hardtanh, F.hardtanh_),
    ),
    ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_max"),
    elementwise=True,
)
LEAKY_RELU = define(
    activations.leaky_relu,
    Kind.ACTIVATION,
    (nn.LeakyReLU,),
    (F.leaky_relu, F.leaky_relu_),
    elementwise=True,
)
ELU = define(activations.elu, Kind.ACTIVATION, (nn.ELU,), (F.elu, F.elu_), elementwise=True)
HARDSWISH = define(
    activations.hardswish, Kind.ACTIVATION, (nn.Hardswish,), (F.hardswish,), elementwise=True
)
SILU = define(activations.silu, Kind.ACTIVATION, (nn.SiLU,), (F.silu,), elementwise=True)
GELU = define(activations.gelu, Kind.ACTIVATION, (nn.GELU,), (F.gelu,), elementwise=True)
PRELU = define(activations.prelu, Kind.ACTIVATION, (nn.PReLU,), (F.prelu,), ("prelu",))
SIGMOID = define(
    activations.sigmoid,
    Kind.ACTIVATION,
    (nn.Sigmoid,),
    (torch.sigmoid, torch.sigmoid_, F.sigmoid, torch.special.expit),
    ("sigmoid", "sigmoid_"),
    elementwise=True,
    bounds=(0.0, 1.0),
)
HARDSIGMOID = define(
    activations.hardsigmoid,
    Kind.ACTIVATION,
    (nn.Hardsigmoid,),
    (F.hardsigmoid,),
    elementwise=True,
    bounds=(0.0, 1.0),
)
TANH = define(
    activations.tanh,
    Kind.ACTIVATION,
    (nn.Tanh,),
    (torch.tanh, torch.tanh_, F.tanh),
    ("tanh", "tanh_"),
    elementwise=True,
    bounds=(-1.0, 1.0),
)
MISH = define(activations.mish, Kind.ACTIVATION, (nn.Mish,), (F.mish,), elementwise=True)
SELU = define(
    activations.selu,
    Kind.ACTIVATION,
    (nn.SELU,),
    (torch.selu, F.selu),
    elementwise=True,
)
CELU = define(
    activations.celu,
    Kind.ACTIVATION,
    (nn.CELU,),
    (torch.celu, F.celu),
    elementwise=True,
)
SOFTPLUS = define(
    activations.softplus, Kind.ACTIVATION, (nn.Softplus,), (F.softplus,), elementwise=True
)
SOFTSIGN = define(
    activations.softsign, Kind.ACTIVATION, (nn.Softsign,), (F.softsign,), elementwise=True
)
LOGSIGMOID = define(
    activations.logsigmoid, Kind.ACTIVATION, (nn.LogSigmoid,), (F.logsigmoid,), elementwise=True
)
HARDSHRINK = define(
    activations.hardshrink,
    Kind.ACTIVATION,
    (nn.Hardshrink,),
    (F.hardshrink,),
    ("hardshrink",),
    elementwise=True,
)
SOFTSHRINK = define(
    activations.softshrink, Kind.ACTIVATION, (nn.Softshrink,), (F.softshrink,), elementwise=True
)
TANHSHRINK = define(
    activations.tanhshrink, Kind.ACTIVATION, (nn.Tanhshrink,), (F.tanhshrink,), elementwise=True
)
THRESHOLD = define(
    activations.threshold,
    Kind.ACTIVATION,
    (nn.Threshold,),
    (F.threshold, torch.threshold),
    elementwise=True,
)
GLU = define(activations.glu, Kind.ACTIVATION, (nn.GLU,), (F.glu,))
SOFTMAX = define(
    activations.softmax,
    Kind.ACTIVATION,
    (nn.Softmax,),
    (torch.softmax, F.softmax, torch.special.softmax),
    ("softmax",),
    reads_scores=True,
    bounds=(0.0, 1.0),
)
LOG_SOFTMAX = define(
    activations.log_softmax,
    Kind.ACTIVATION,
    (nn.LogSoftmax,),
    (torch.log_softmax, F.log_softmax, torch.special.log_softmax),
    ("log_softmax",),
)

# -- normalization (inference) -------------------------------------------------------------------
BATCH_NORM = define(
    layers.batch_norm,
    Kind.NORM,
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    (F.batch_norm, torch.batch_norm),
)
LAYER_NORM = define(
    layers.layer_norm,
    Kind.NORM,
    (nn.LayerNorm,),
    (F.layer_norm, torch.layer_norm),
    normalizes_last=True,
)
GROUP_NORM = define(layers.group_norm, Kind.NORM, (nn.GroupNorm,), (F.group_norm, torch.group_norm))
INSTANCE_NORM = define(
    layers.instance_norm,
    Kind.NORM,
    (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    (F.instance_norm, torch.instance_norm),
)
RMS_NORM = define(
    layers.rms_norm,
    Kind.NORM,
    (nn.RMSNorm,),
    (F.rms_norm, torch.rms_norm),
    normalizes_last=True,
)
LOCAL_RESPONSE_NORM = define(
    layers.local_response_norm, Kind.NORM, (nn.LocalResponseNorm,), (F.local_response_norm,)
)
NORMALIZE = define(layers.normalize, Kind.NORM, (), (F.normalize,))
