"""Writes the nodes of an ONNX graph; emitters call it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, fx

from qfx.export.onnx import windows
from qfx.export.onnx.dtypes import DTYPES, NUMBERS, as_number, symbol
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.packages import require
from qfx.export.onnx.seen import SeenRanges
from qfx.export.onnx.values import Dequantized, Info, Number, Operand
from qfx.export.problems import CannotWrite
from qfx.graph import meta
from qfx.quant.qparams import QParams

if TYPE_CHECKING:
    import onnx_ir as ir

Attribute: TypeAlias = "int | float | str | Sequence[int] | Sequence[str] | ir.Graph"

_LARGEST = 2**31


class Writer:
    """The graph being written.

    Attributes:
        opset: version of the standard operators.
        node: the node of the reference graph that is being written.
        bounds: between which codes the values of a tensor lie, where that is known.
        measured: of which tensor a scale was measured, and its codes where they were written.
        results: what the node being written yields.
        form: how much more may be rounded than the reference rounds, for engines.
        seen: the ranges that it is rounded by.
        coded: of which codes a tensor was written that is rounded beyond the reference.
        rounded: of codes that were written the tensor that they are of.
        parts: of what layers for each part yield, these; who takes it apart reads them.
        sizes: of tensors, by their id and the dim, where they are written.
        contrib: whether operators of ONNX Runtime's own may be written.
    """

    def __init__(
        self, opset: int, form: OnnxForm, seen: SeenRanges, *, contrib: bool = False
    ) -> None:
        self._ir = require("onnx_ir")
        self.opset, self.contrib = opset, contrib
        self.node: fx.Node | None = None
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.bounds: dict[int, QParams] = {}
        self.measured: dict[int, tuple[Operand, ir.Value | None]] = {}
        self.results: Any = None
        self.form, self.seen = form, seen
        self.coded: dict[int, tuple[ir.Value, QParams]] = {}
        self.rounded: dict[int, Operand] = {}
        self.parts: dict[int, tuple[ir.Value, ...]] = {}
        self.sizes: dict[tuple[int, int], Number] = {}
        self._info: dict[int, Info] = {}
        self._constants: dict[object, ir.Value] = {}
        self._kept: list[object] = []  # what _constants knows by its id must not go
        self._names: set[str] = set()

    # -- what is known --------------------------------------------------------------------------
    def info(self, operand: Operand) -> Info:
        """Shape and dtype of what the reference graph computes, or of a constant."""
        if isinstance(operand, Dequantized):
            return operand.info
        if isinstance(operand, Tensor):
            shape = tuple(operand.shape)
            return Info(shape, shape, operand.dtype)
        if isinstance(operand, Number):
            return Info((), (), NUMBERS[operand.kind])
        if isinstance(operand, (bool, int, float)):
            return Info((), (), NUMBERS[type(operand)])
        return self._info[id(operand)]

    def knows(self, value: ir.Value) -> bool:
        """Whether it was told what ``value`` is."""
        return id(value) in self._info

    def tell(self, value: ir.Value, info: Info) -> None:
        """Write down what ``value`` is."""
        self._info[id(value)] = info
        value.dtype = self.dtype(info.dtype)
        value.shape = self._ir.Shape([d if isinstance(d, int) else symbol(d) for d in info.shape])

    def has(self, dtype: torch.dtype) -> bool:
        """Whether ONNX has a dtype."""
        return dtype in DTYPES

    def dtype(self, dtype: torch.dtype) -> ir.DataType:
        """The dtype of ONNX."""
        if not self.has(dtype):
            parts = "Compute with real and imaginary parts, or outside of the model."
            remedy = parts if dtype.is_complex else "Convert the model to float32."
            raise CannotWrite(f"tensors of {dtype} can't be written to ONNX", remedy)
        found: ir.DataType = self._ir.DataType[DTYPES[dtype]]
        return found

    def new_value(self, name: str) -> ir.Value:
        """A value that no node makes: an input of the graph."""
        made: ir.Value = self._ir.Value(name=name)
        return made

    def is_value(self, made: object) -> TypeGuard[ir.Value]:
        """Whether ``made`` is a value of the ONNX graph."""
        return isinstance(made, self._ir.Value)

    # -- nodes ------------------------------------------------------------------------------------
    def op(
        self,
        kind: str,
        *inputs: Operand | None,
        domain: str = "",
        like: Operand | None = None,
        **attributes: Attribute | None,
    ) -> ir.Value:
        """Write a node of one result.

        Args:
            kind: the operator.
            inputs: None leaves one out.
            domain: of the operator.
            like: the result has the shape and dtype of this.
            attributes: None leaves one out.
        """
        (made,) = self.ops(kind, *inputs, domain=domain, results=1, **attributes)
        if like is not None:
            self.tell(made, self.info(like))
        return made

    def ops(
        self,
        kind: str,
        *inputs: Operand | None,
        results: int,
        domain: str = "",
        **attributes: Attribute | None,
    ) -> tuple[ir.Value, ...]:
        """Write a node of several results."""
        given = {name: value for name, value in attributes.items() if value is not None}
        node = self._ir.node(
            kind,
            [None if i is None else self.value(i) for i in inputs],
            {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()},
            domain=domain,
            num_outputs=results,
            metadata_props=self._where(),
        )
        self.nodes.append(node)
        for output in node.outputs:
            output.name = self.name()
        node.name = f"{node.outputs[0].name}_{kind}"
        return tuple(node.outputs)

    def _where(self) -> dict[str, str]:
        if self.node is None:
            return {}
        parts = {
            "qfx.node": self.node.name,
            "qfx.module": meta.module_path(self.node),
            "qfx.source": meta.source(self.node),
        }
        return {key: text for key, text in parts.items() if text}

    def name(self, wanted: str = "") -> str:
        """A free name, that of the node being written if none is wanted."""
        base = wanted or (self.node.name if self.node is not None else "value")
        name, number = base, 0
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        return name

    def claim(self, name: str) -> str:
        """Take a name for good; it must be free."""
        self._names.add(name)
        return name

    # -- values -----------------------------------------------------------------------------------
    def value(self, operand: Operand) -> ir.Value:
        """The value of the ONNX graph that an operand is; constants are written."""
        if isinstance(operand, Dequantized):
            from qfx.export.onnx.quantization import dequantized

            return dequantized(self, operand)
        if isinstance(operand, Tensor):
            return self.constant(operand)
        if isinstance(operand, Number):
            return operand.value
        if isinstance(operand, (bool, int, float)):
            return self.scalar(operand, NUMBERS[type(operand)])
        return operand

    def constant(self, tensor: Tensor, name: str = "", dtype: str = "") -> ir.Value:
        """A constant; the same tensor gives the same one.

        Args:
            tensor: its values.
            name: of the constant.
            dtype: of ONNX, where torch has none: "INT4", "UINT4".
        """
        key = (id(tensor), dtype)
        if key not in self._constants:
            self._kept.append(tensor)
            self._constants[key] = self._initializer(tensor, name, dtype)
        return self._constants[key]

    def _initializer(self, tensor: Tensor, name: str, dtype: str) -> ir.Value:
        name = self.name(name or (f"{self.node.name}_constant" if self.node else "constant"))
        data = tensor.detach().cpu().contiguous()
        if dtype:
            kind = self._ir.DataType[dtype]
            made = self._ir.tensor(data.numpy().astype(kind.numpy()), dtype=kind, name=name)
        else:
            self.dtype(data.dtype)
            made = require("onnx_ir.tensor_adapters").TorchTensor(data, name=name)
        value: ir.Value = self._ir.Value(name=name, const_value=made)
        value.dtype, value.shape = made.dtype, self._ir.Shape(list(tensor.shape))
        if not dtype:
            self._info[id(value)] = self.info(data)
        self.initializers.append(value)
        return value

    def scalar(self, number: float, dtype: torch.dtype) -> ir.Value:
        """A constant without dims."""
        key = (dtype, type(number), number if number == number else "nan")
        if key not in self._constants:
            self._constants[key] = self._initializer(torch.tensor(number, dtype=dtype), "", "")
        return self._constants[key]

    def number(self, operand: Number | float) -> ir.Value:
        """A number as a tensor of one dimension and one element, int64 or float32."""
        if isinstance(operand, Number):
            return operand.value
        return self.vector([operand])

    def vector(self, values: Iterable[Number | float]) -> ir.Value:
        """Numbers as a tensor of one dimension."""
        items = list(values)
        if not any(isinstance(item, Number) for item in items):
            return self._ints(tuple(items))  # type: ignore[arg-type]
        return self.op("Concat", *(self.number(item) for item in items), axis=0)

    def _ints(self, values: tuple[float, ...]) -> ir.Value:
        dtype = torch.float32 if any(isinstance(v, float) for v in values) else torch.int64
        key = (dtype, values)
        if key not in self._constants:
            held = [max(-_LARGEST, min(v, _LARGEST)) if abs(v) > _LARGEST else v for v in values]
            self._constants[key] = self._initializer(torch.tensor(held, dtype=dtype), "", "")
        return self._constants[key]

    def cast(self, operand: Operand, dtype: torch.dtype) -> Operand:
        """``operand`` in another dtype; itself if it has that."""
        if isinstance(operand, Tensor):
            return operand if operand.dtype == dtype else operand.to(dtype)
        if isinstance(operand, (bool, int, float)):
            return self.scalar(as_number(operand, dtype), dtype)
        if isinstance(operand, Number):
            flat = self.op("Squeeze", operand.value, self.vector([0]))
            made = self.op("Cast", flat, to=int(self.dtype(dtype)))
            self.tell(made, Info((), (), dtype))
            return made
        info = self.info(operand)
        if info.dtype == dtype:
            return operand
        made = self.op("Cast", operand, to=int(self.dtype(dtype)))
        self.tell(made, Info(info.shape, info.example, dtype))
        return made

    def size(self, operand: Operand, dim: int) -> Number | int:
        """A size of a tensor: a number if it is known."""
        info = self.info(operand)
        known = info.shape[dim]
        if isinstance(known, int):
            return known
        dim %= info.rank
        if not self.is_value(operand):
            operand = operand.codes if isinstance(operand, Dequantized) else operand
        value = self.value(operand)
        return windows.size_of(self, value, dim) or windows.asked(self, value, dim)

    def reshape(self, operand: Operand, info: Info, sizes: Sequence[Number | int] = ()) -> ir.Value:
        """``operand`` in the shape of ``info``.

        Args:
            operand: what is reshaped.
            info: of the result.
            sizes: of the result, where the caller has them at hand.
        """
        have = self.info(operand).shape
        target = [
            d if isinstance(d, int) else 0 if i < len(have) and have[i] == d else -1
            for i, d in enumerate(info.shape)
        ]
        if 0 in info.example or target.count(-1) > 1:
            if len(sizes) != len(target):
                raise CannotWrite(
                    "more than one size of a reshaped tensor depends on those of the inputs",
                    "Export with fewer dynamic_shapes.",
                    by_size=True,
                )
            copied = 0 not in info.example
            target = [
                0 if d == 0 and copied else size  # type: ignore[misc]
                for d, size in zip(target, sizes, strict=True)
            ]
        made = self.op("Reshape", operand, self.vector(target))
        self.tell(made, info)
        for dim, size in enumerate(sizes):
            if isinstance(size, Number):
                self.sizes[id(made), dim] = size
        return made
