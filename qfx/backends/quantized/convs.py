"""Convolutions on PyTorch's quantized dtypes, and which engine packs which of them."""

from __future__ import annotations

from torch import fx

from qfx import vocab
from qfx.backends.base import KernelRule, Supports, WeightRule
from qfx.backends.hardware import hardware
from qfx.backends.quantized import dtypes as q
from qfx.backends.quantized.saturation import reduces
from qfx.backends.quantized.transposed_convs import takes_phases, woven
from qfx.rewrite.pattern import Mismatch

RELU_CLAMP = (("relu",), ("clamp",))


def convolutions(engine: str) -> tuple[KernelRule, ...]:
    """The rows of convolutions for a packing engine."""
    depthwise = _depthwise_engine(engine)
    return tuple(
        KernelRule(
            op,
            f"quantized.{op.name}",
            weight=WeightRule(),
            post=RELU_CLAMP,
            supports=_convolves(depthwise),
            emit=q.packed_kernel(op.name, engine, spatial=dims, depthwise=depthwise),
        )
        for dims, op in enumerate(vocab.CONVOLUTIONS, start=1)
    )


def _depthwise_engine(engine: str) -> str:
    """The engine for convolutions of one channel a group.

    fbgemm's kernels, which "x86" takes for more than 100 groups, add pairs of products in a
    saturating int16 even where the CPU has VNNI: with 8-bit activations they are wrong by up to 100
    steps (torch 2.13). oneDNN's are exact there, and faster.
    """
    return "onednn" if engine == "x86" and not reduces(engine) else engine


def transposed(engine: str, per_channel: bool) -> tuple[KernelRule, ...]:
    """The rows of transposed convolutions; ``per_channel``: whether they take such scales."""
    return tuple(
        KernelRule(
            op,
            f"quantized.conv{dims}d",
            weight=WeightRule(axis=1, per_channel=per_channel),
            post=RELU_CLAMP,
            supports=takes_phases,
            emit=woven(engine, dims),
        )
        for dims, op in enumerate(vocab.TRANSPOSED, start=1)
    )


def _convolves(depthwise: str) -> Supports:
    """What convolutions take, if ``depthwise`` is the engine for those of one channel a group."""

    def supports(node: fx.Node) -> Mismatch | None:
        if depthwise not in hardware().engines and q.is_depthwise(node):
            return Mismatch("depthwise convolutions need engine {0}, absent here", depthwise)
        return _zero_padded(node)

    return supports


def _zero_padded(node: fx.Node) -> Mismatch | None:
    padding = node.kwargs.get("padding")
    if isinstance(padding, str):
        return Mismatch("padding={0!r} is not a number", padding)
    if node.kwargs.get("padding_mode", "zeros") != "zeros":
        return Mismatch("padding_mode={0!r} is not zeros", node.kwargs["padding_mode"])
    return None
