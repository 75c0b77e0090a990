"""reference: every operation that can be quantized, in float arithmetic between q and dq.

It has no kernels. It is what the other backends are held against, and it runs on any device.
"""

from __future__ import annotations

import torch

from qfx import vocab
from qfx.backends.base import (
    METHODS,
    MOVES,
    RUN_TIME,
    Backend,
    Chain,
    Demand,
    KernelRule,
    Output,
    WeightRule,
    follows,
    pulls,
)
from qfx.backends.defaults import defaults
from qfx.quant.qparams import QParams

_PROBABILITY = QParams(1 / 256, 0, torch.uint8, 0, 255)
_SIGNED_UNIT = QParams(2 / 256, 128, torch.uint8, 0, 255)

_ACTIVATIONS: tuple[Chain, ...] = tuple(
    (name,)
    for name in (
        "relu",
        "clamp",
        "hardswish",
        "silu",
        "gelu",
        "leaky_relu",
        "tanh",
        "sigmoid",
        "hardsigmoid",
    )
)
_POST: tuple[Chain, ...] = (*_ACTIVATIONS, ("add",), ("add", "relu"))


def backend() -> Backend:
    """The reference backend."""
    return Backend(
        "reference",
        (*_matmuls(), *_lookups(), *_elementwise(), *_fixed(), *_shared()),
        defaults(reduce_range=False),
        cpu_only=False,
    )


def _matmuls() -> tuple[KernelRule, ...]:
    plain = (vocab.CONV1D, vocab.CONV2D, vocab.CONV3D, vocab.LINEAR)
    transposed = (vocab.CONV_TRANSPOSE1D, vocab.CONV_TRANSPOSE2D, vocab.CONV_TRANSPOSE3D)
    return (
        *(
            KernelRule(op, "reference", weight=_weight(), post=_POST, methods=METHODS)
            for op in plain
        ),
        *(
            KernelRule(op, "reference", weight=_weight(axis=1), post=_POST, methods=METHODS)
            for op in transposed
        ),
        KernelRule(vocab.MATMUL, "reference", operands=("input", "other")),
        *(
            KernelRule(op, "reference", weight=_weight(), methods=RUN_TIME)
            for op in vocab.RECURRENT
        ),
    )


def _weight(axis: int = 0) -> WeightRule:
    return WeightRule(axis, halves=True)


def _lookups() -> tuple[KernelRule, ...]:
    return tuple(
        KernelRule(op, "reference", operands=(), weight=_weight(), methods=RUN_TIME)
        for op in (vocab.EMBEDDING, vocab.EMBEDDING_BAG)
    )


def _elementwise() -> tuple[KernelRule, ...]:
    both = ("input", "other")
    relu: tuple[Chain, ...] = (("relu",),)
    single = (
        vocab.HARDSWISH, vocab.SILU, vocab.GELU, vocab.ELU, vocab.LEAKY_RELU, vocab.PRELU,
        vocab.MISH, vocab.LAYER_NORM, vocab.GROUP_NORM, vocab.INSTANCE_NORM,
    )  # fmt: skip
    return (
        KernelRule(vocab.ADD, "reference", operands=both, post=relu),
        KernelRule(vocab.MUL, "reference", operands=both, post=relu),
        KernelRule(vocab.BATCH_NORM, "reference", post=relu),
        *(KernelRule(op, "reference") for op in single),
    )


def _fixed() -> tuple[KernelRule, ...]:
    unit = (vocab.SIGMOID, vocab.HARDSIGMOID)
    return (
        *(KernelRule(op, "reference", output=Output.FIXED, fixed=_PROBABILITY) for op in unit),
        KernelRule(  # what feeds it may hold the -inf of a mask
            vocab.SOFTMAX, "reference", Demand.FOLLOWS, Output.FIXED, fixed=_PROBABILITY
        ),
        KernelRule(vocab.TANH, "reference", output=Output.FIXED, fixed=_SIGNED_UNIT),
    )


def _shared() -> tuple[KernelRule, ...]:
    within = (
        vocab.RELU, vocab.CLAMP, vocab.INTERPOLATE, vocab.MEAN,
        vocab.AVG_POOL1D, vocab.AVG_POOL2D, vocab.AVG_POOL3D,
        vocab.ADAPTIVE_AVG_POOL1D, vocab.ADAPTIVE_AVG_POOL2D, vocab.ADAPTIVE_AVG_POOL3D,
    )  # fmt: skip
    moved = (
        vocab.MAX_POOL1D, vocab.MAX_POOL2D, vocab.MAX_POOL3D, vocab.ADAPTIVE_MAX_POOL1D,
        vocab.ADAPTIVE_MAX_POOL2D, vocab.ADAPTIVE_MAX_POOL3D, vocab.PAD, *MOVES,
    )  # fmt: skip
    return (
        *(follows(op, "reference") for op in within),
        *(pulls(op, "reference") for op in moved),
        *(pulls(op, "reference", operands=("tensors",)) for op in (vocab.CAT, vocab.STACK)),
    )
