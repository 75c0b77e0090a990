"""Trying a form: what ONNX Runtime makes of it, and how far that is from the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qfx import vocab
from qfx.export.onnx import model
from qfx.export.onnx.check import compare, open_session
from qfx.export.onnx.sizes import input_value
from qfx.graph.meta import TensorInfo
from qfx.quant.reference_form import Measured, qparams_of
from qfx.runtime.quantized import QuantizedModel
from qfx.vocab import is_op

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Trial:
    """One form, as ONNX Runtime runs it.

    Attributes:
        form: its name.
        integer_kernels: how many operators of its optimized graph compute with integers.
        sqnr: against the reference graph, in dB.
    """

    form: str
    integer_kernels: int
    sqnr: float

    def __str__(self) -> str:
        return f"  {self.form}: {self.integer_kernels} integer kernels, {self.sqnr:.1f} dB"


def trial(
    qmodel: QuantizedModel, form: str, written: ir.Model, arguments: Mapping[str, object]
) -> Trial:
    """Run one form on inputs by name."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        model.save(written, path)
        session, kernels = open_session(str(path))
    checked = compare(qmodel, session, arguments, kernels)
    return Trial(form, checked.integer_kernels, checked.sqnr)


def example_arguments(reference: fx.GraphModule) -> dict[str, Any]:
    """Random inputs of the sizes of the examples; within their range, where they are quantized."""
    generator = torch.Generator().manual_seed(0)
    return {
        str(node.target).lstrip("*"): pytree.tree_map(
            lambda leaf, node=node: _made(node, leaf, generator),
            input_value(node),
            is_leaf=lambda leaf: isinstance(leaf, TensorInfo),
        )
        for node in reference.graph.find_nodes(op="placeholder")
    }


def _made(node: fx.Node, leaf: object, generator: torch.Generator) -> Any:
    if not isinstance(leaf, TensorInfo):
        return leaf
    if not leaf.dtype.is_floating_point:
        return torch.ones(leaf.shape, dtype=leaf.dtype)  # a token, a mask of all
    middle, deviation = _spread(node)
    return torch.randn(leaf.shape, generator=generator).mul_(deviation).add_(middle).to(leaf.dtype)


def _spread(node: fx.Node) -> tuple[float, float]:
    """Mean and deviation of numbers that fill the range of an input's codes."""
    module = node.graph.owning_module
    for user in node.users:
        if not is_op(user, vocab.QUANTIZE) or module is None:
            continue
        qparams = qparams_of(user, module)
        if isinstance(qparams, Measured) or isinstance(qparams.scale, Tensor):
            continue
        zero = int(qparams.zero_point)
        low, high = ((end - zero) * qparams.scale for end in (qparams.quant_min, qparams.quant_max))
        return (low + high) / 2, (high - low) / 6
    return 0.0, 1.0
