"""Products of codes: of what is measured at run time, by what is stored.

    (s_x (q_x - z_x)) * (s_w q_w) = (s_x s_w) ((q_x - z_x) * q_w)

written as MatMulInteger or ConvInteger, a Cast and a Mul: the form that engines fuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qfx.export.onnx.values import Dequantized, Operand

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

_NARROW = (torch.uint8, torch.int8)


@dataclass(frozen=True, eq=False)
class IntegerProduct:
    """A layer whose operands are codes.

    Attributes:
        w: where it is written.
        input, weight: what the codes mean.
        codes: of the weight.
        bias: added in float.
        dims: spatial dims.
    """

    w: Writer
    input: Dequantized
    weight: Dequantized
    codes: Tensor
    bias: Operand | None
    dims: int

    def conv(self) -> tuple[str, tuple[Operand, ...]]:
        """The operator and its operands."""
        return "ConvInteger", self._operands(self.codes)

    def matmul(self) -> tuple[str, tuple[Operand, ...]]:
        """The operator and its operands."""
        return "MatMulInteger", self._operands(self.codes.mT.contiguous())

    def _operands(self, codes: Tensor) -> tuple[Operand, ...]:
        zero = self.w.cast(self.input.zero_point, self.w.info(self.input.codes).dtype)
        return self.input.codes, self.w.constant(codes, f"{self.weight.name}_codes"), zero

    def scaled(self, sums: ir.Value) -> ir.Value:
        """What sums of products mean, with the bias."""
        w, shape = self.w, (-1, *(1,) * self.dims)
        scale = torch.as_tensor(self.weight.scale, dtype=torch.float32).reshape(shape)
        factor = w.op("Mul", self.input.scale, scale)
        made = w.op("Mul", w.op("Cast", sums, to=int(w.dtype(torch.float32))), factor)
        if self.bias is None:
            return made
        if not self.dims:
            return w.op("Add", made, self.bias)
        if isinstance(self.bias, Tensor):
            return w.op("Add", made, self.bias.reshape(shape))
        return w.op("Add", made, w.op("Reshape", self.bias, w.vector(list(shape))))


def integers(
    w: Writer, input: Operand, weight: Operand, bias: Operand | None, dims: int
) -> IntegerProduct | None:
    """The layer as a product of codes; None if an operand is no codes, or has none that fit."""
    if not (isinstance(input, Dequantized) and isinstance(weight, Dequantized)):
        return None
    if not (input.measured and weight.stored) or weight.group_size is not None:
        return None
    codes = weight.codes
    if not isinstance(codes, Tensor) or codes.dtype not in _NARROW:
        return None
    shifted = bool(torch.as_tensor(weight.zero_point).any())
    if shifted or w.info(input.codes).dtype not in _NARROW or weight.axis not in (None, 0):
        return None
    return IntegerProduct(w, input, weight, codes, bias, dims)
