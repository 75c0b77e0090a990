"""What stands for the value of a node while a graph is written.

A tensor that is computed is a value of the ONNX graph; a constant is a tensor of torch until
something reads it; a number is Python's, or a :class:`Number` if only a run can tell it. What
``dequantize`` yields is kept as :class:`Dequantized`, so that its reader may take the codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

Dim: TypeAlias = "int | str"
"""A size, or the name of one that differs from run to run."""


@dataclass(frozen=True)
class Info:
    """Shape and dtype of a tensor.

    Attributes:
        shape: a name stands for a size that differs from run to run; equal names for equal sizes.
        example: the shape with the example inputs.
        dtype: of its elements.
    """

    shape: tuple[Dim, ...]
    example: tuple[int, ...]
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def fixed(self) -> bool:
        """Whether every size is known."""
        return all(isinstance(d, int) for d in self.shape)


@dataclass(frozen=True, eq=False)
class Number:
    """A number that only a run can tell: a tensor of one dimension and one element.

    Attributes:
        value: int64, float32 or bool.
        kind: int, float or bool.
    """

    value: ir.Value
    kind: type


@dataclass(frozen=True, eq=False)
class Dequantized:
    """``(codes - zero_point) * scale``, not yet written.

    Attributes:
        codes: constants as tensors of torch.
        scale, zero_point: numbers, constant tensors, or what a run measures.
        info: of the float tensor.
        axis, group_size: as :func:`qfx.ops.dequantize` takes them.
        name: of the node.
        written: what was written of it, by form, so that each is written once.
    """

    codes: Operand
    scale: Operand
    zero_point: Operand
    info: Info
    axis: int | None
    group_size: int | None
    name: str
    written: dict[str, ir.Value] = field(default_factory=dict)

    @property
    def stored(self) -> bool:
        """Whether the codes, and what they mean, are constants: a weight."""
        numbers = (self.scale, self.zero_point)
        return isinstance(self.codes, Tensor) and all(
            isinstance(n, (Tensor, int, float)) for n in numbers
        )

    @property
    def measured(self) -> bool:
        """Whether the scale is measured as the model runs."""
        return not isinstance(self.scale, (Tensor, int, float))


Operand: TypeAlias = "ir.Value | Tensor | Number | Dequantized | int | float | bool"
