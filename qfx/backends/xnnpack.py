"""xnnpack: what ExecuTorch's XNNPACK delegate runs in integers, on phones and ARM boards.

A target of exports: XNNPACK's kernels are in ExecuTorch, not in PyTorch. So a model for it runs
here in its reference form, which has the codes that the delegate computes with. The delegate takes
int8 activations, and runs a layer or a sum in integers only where its result is quantized, too:

    dequantize -> conv2d -> relu | hardtanh -> quantize

so every row hands out integers, and a residual is an addition of its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from qfx import vocab
from qfx.backends.base import (
    Backend,
    Chain,
    Emit,
    KernelRule,
    WeightRule,
    follows,
    pulls,
)
from qfx.backends.defaults import defaults
from qfx.graph import meta
from qfx.quant.spec import QConfig
from qfx.rewrite.pattern import Mismatch
from qfx.vocab import bound

_KERNEL = "XNNPACK"
_POST: tuple[Chain, ...] = (("relu",), ("clamp",))
_MOVED = (vocab.PERMUTE, vocab.TRANSPOSE, vocab.RESHAPE, vocab.FLATTEN)
_METHODS: dict[str, Emit | None] = {"static": None, "dynamic": None}


def backend() -> Backend:
    """The xnnpack backend."""
    return Backend("xnnpack", (*_layers(), *_sums(), *_shared()), _defaults(), cpu_only=False)


def _defaults() -> dict[str, QConfig]:
    """The defaults of every backend, with activations in int8."""
    return {method: _signed(qconfig) for method, qconfig in defaults(reduce_range=False).items()}


def _signed(qconfig: QConfig) -> QConfig:
    if qconfig.activation is None:
        return qconfig
    codes = {"dtype": torch.int8, "quant_min": None, "quant_max": None}
    return replace(qconfig, activation=replace(qconfig.activation, **codes))  # type: ignore[arg-type]


def _layers() -> tuple[KernelRule, ...]:
    return (
        KernelRule(vocab.CONV1D, _KERNEL, weight=WeightRule(), post=_POST),
        KernelRule(vocab.CONV2D, _KERNEL, weight=WeightRule(), post=_POST),
        *KernelRule(vocab.LINEAR, _KERNEL, weight=WeightRule(), post=_POST).for_methods(_METHODS),
    )


def _sums() -> tuple[KernelRule, ...]:
    both = ("input", "other")
    return (
        KernelRule(vocab.ADD, _KERNEL, operands=both, post=(("relu",),), supports=_of_two_tensors),
        KernelRule(vocab.MUL, _KERNEL, operands=both, supports=_of_two_tensors),
    )


def _shared() -> tuple[KernelRule, ...]:
    return (
        pulls(vocab.MAX_POOL2D, _KERNEL),
        follows(vocab.ADAPTIVE_AVG_POOL2D, _KERNEL, supports=_global),
        follows(vocab.MEAN, _KERNEL, supports=_of_images),
        *(pulls(op, _KERNEL) for op in _MOVED),
        pulls(vocab.CAT, _KERNEL, operands=("tensors",)),
    )


# -- what the delegate takes ----------------------------------------------------------------------
def _of_two_tensors(node: fx.Node) -> Mismatch | None:
    if node.kwargs.get("alpha", 1) != 1:
        return Mismatch("alpha={0} is not 1", node.kwargs["alpha"])
    if all(isinstance(o, fx.Node) and meta.is_float_tensor(o) for o in node.args[:2]):
        return None
    return Mismatch("an operand is no float tensor")


def _global(node: fx.Node) -> Mismatch | None:
    size = bound(node)["output_size"]
    if size == (1, 1):
        return None
    return Mismatch("XNNPACK averages over whole images, not to {0}", size)


def _of_images(node: fx.Node) -> Mismatch | None:
    arguments, info = bound(node), meta.tensor_info(node.args[0])  # type: ignore[arg-type]
    dims, rank = arguments["dim"], len(info.shape) if info else 0
    named = dims if isinstance(dims, (tuple, list)) else [dims]
    whole = rank == 4 and {d % 4 for d in named if isinstance(d, int)} == {2, 3}
    if whole and arguments["keepdim"]:
        return None
    return Mismatch("XNNPACK averages over the last two of four dims, and keeps them")
