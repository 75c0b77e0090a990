"""reference: every operation that can be quantized, in float arithmetic between q and dq.

It has no kernels. It is what the other backends are held against, and it runs on any device.
"""

from __future__ import annotations

from collections.abc import Iterator

from qfx import vocab
from qfx.backends.base import (
    MOVES,
    RUN_TIME,
    Backend,
    Chain,
    Demand,
    Emit,
    KernelRule,
    Output,
    WeightRule,
    follows,
    pulls,
)
from qfx.backends.defaults import FIXED, defaults
from qfx.backends.table_checks import METHODS
from qfx.semantics.post import POST_OPS
from qfx.vocab import OpDef

_ACTIVATIONS: tuple[Chain, ...] = tuple(
    (op.name,) for op in vocab.ops() if op.elementwise and op.name in POST_OPS
)
_WITHIN = (
    *(vocab.RELU, vocab.CLAMP, vocab.INTERPOLATE, vocab.MEAN),
    *(*vocab.AVG_POOLS, *vocab.ADAPTIVE_AVG_POOLS),
)
"""Whose results lie within the range of their input."""

_POST: tuple[Chain, ...] = (*_ACTIVATIONS, ("add",), ("add", "relu"))

_ALL: dict[str, Emit | None] = dict.fromkeys(METHODS)
_RUN_TIME: dict[str, Emit | None] = dict.fromkeys(RUN_TIME)
"""Methods, without anything to write a call: the reference form is what runs."""


def backend() -> Backend:
    """The reference backend."""
    return Backend(
        "reference",
        (*_matmuls(), *_lookups(), *_elementwise(), *_fixed(), *_shared()),
        defaults(reduce_range=False),
        cpu_only=False,
    )


def _matmuls() -> tuple[KernelRule, ...]:
    plain = (*vocab.CONVOLUTIONS, vocab.LINEAR)
    return (
        *(
            row
            for op in plain
            for row in KernelRule(op, "reference", weight=_weight(), post=_POST).for_methods(_ALL)
        ),
        *(
            row
            for op in vocab.TRANSPOSED
            for row in KernelRule(op, "reference", weight=_weight(axis=1), post=_POST).for_methods(
                _ALL
            )
        ),
        KernelRule(vocab.MATMUL, "reference", operands=("input", "other")),
        *(
            row
            for op in vocab.RECURRENT
            for row in KernelRule(op, "reference", weight=_weight()).for_methods(_RUN_TIME)
        ),
    )


def _weight(axis: int = 0) -> WeightRule:
    return WeightRule(axis, halves=True)


def _lookups() -> tuple[KernelRule, ...]:
    return tuple(
        row
        for op in (vocab.EMBEDDING, vocab.EMBEDDING_BAG)
        for row in KernelRule(op, "reference", operands=(), weight=_weight()).for_methods(_RUN_TIME)
    )


def _bounded() -> Iterator[OpDef]:
    """What computes each element, and yields no range for which codes of 8 bits are too few."""
    return (op for op in vocab.ops() if op.elementwise and op.kind is vocab.Kind.ACTIVATION)


def _elementwise() -> tuple[KernelRule, ...]:
    both = ("input", "other")
    relu: tuple[Chain, ...] = (("relu",),)
    single = (
        *(op for op in _bounded() if op.bounds is None and op not in _WITHIN),
        *(vocab.PRELU, vocab.LAYER_NORM, vocab.GROUP_NORM, vocab.INSTANCE_NORM),
    )
    return (
        KernelRule(vocab.ADD, "reference", operands=both, post=relu),
        KernelRule(vocab.MUL, "reference", operands=both, post=relu),
        KernelRule(vocab.BATCH_NORM, "reference", post=relu),
        *(KernelRule(op, "reference") for op in single),
    )


def _fixed() -> tuple[KernelRule, ...]:
    """What yields values between bounds; what feeds scores of attention may hold -inf."""
    return tuple(
        KernelRule(
            op,
            "reference",
            Demand.FOLLOWS if op.reads_scores else Demand.ASKS,
            Output.FIXED,
            fixed=FIXED[op.bounds],
        )
        for op in vocab.ops()
        if op.bounds is not None
    )


def _shared() -> tuple[KernelRule, ...]:
    moved = (
        *vocab.MAX_POOLS, vocab.ADAPTIVE_MAX_POOL1D,
        vocab.ADAPTIVE_MAX_POOL2D, vocab.ADAPTIVE_MAX_POOL3D, vocab.PAD, *MOVES,
        vocab.AMAX, vocab.AMIN,
    )  # fmt: skip
    return (
        *(follows(op, "reference") for op in _WITHIN),
        *(pulls(op, "reference") for op in moved),
        *(pulls(op, "reference", operands=("tensors",)) for op in (vocab.CAT, vocab.STACK)),
        *(pulls(op, "reference", operands=("input", "other")) for op in vocab.EXTREMES),
    )
