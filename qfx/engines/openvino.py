"""OpenVINO's CPU plugin.

A request works for one call at a time; each compiled model keeps as many as calls ran at once.
Large inputs are read, and large outputs written, where PyTorch holds them.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qfx import vocab
from qfx.engines import writing
from qfx.engines.arrays import array_of
from qfx.engines.base import BuildSettings, Built, CannotRun, PieceEngine
from qfx.engines.packages import lacking, module, version_of
from qfx.engines.pieces import Piece
from qfx.export.onnx.forms import OnnxForm
from qfx.export.problems import Problem
from qfx.vocab import is_op
from qfx.vocab.sizes import SCALARS

_Shapes: TypeAlias = "tuple[torch.Size, ...]"
_Outputs: TypeAlias = "list[tuple[torch.Size, torch.dtype]]"


class OpenVINO(PieceEngine):
    """Pieces as OpenVINO models, in float32 or bfloat16 where they are not in integers."""

    name = "openvino"

    def lacks(self) -> str:
        return lacking("openvino", "openvino", writes="onnx_ir")

    def version(self) -> str:
        return version_of("openvino")

    def problems(self, piece: Piece) -> Sequence[Problem]:
        return writing.problems(piece)

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        in_codes = (OnnxForm.ATTENTION, OnnxForm.SCORES)
        if not _multiplies_bfloat16():
            return writing.forms(piece, (OnnxForm.INTEGER, *in_codes))
        by_hand = any(is_op(node, vocab.MATMUL) for node in piece.graph_module.graph.nodes)
        rounding = (OnnxForm.INTEGER, *(in_codes if by_hand else ()), OnnxForm.BFLOAT16)
        return writing.forms(piece, rounding)

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        if settings.shapes is None and _takes_remainders(piece):
            raise CannotRun("one program for all sizes may crash where sizes are taken modulo")
        written = writing.onnx_model(piece, settings.form, settings.shapes, apart=True)
        try:
            read = _core().read_model(written.data)
            _put_in(read, written.weights)
            compiled = _core().compile_model(read, "CPU", _options(settings))
        except Exception as error:  # its exceptions have no base of their own
            raise CannotRun(last_line(error)) from error
        return Built(OpenVINOProgram(compiled), written.takes)

    def packed(self, built: Built) -> bytes | None:
        assert isinstance(built.program, OpenVINOProgram)
        assert isinstance(built.takes, writing.Takes)
        return writing.packed(built.takes, (), built.program.exported())

    def unpacked(self, data: bytes, settings: BuildSettings) -> Built:
        takes, _, blob = writing.unpacked(data)
        try:
            compiled = _core().import_model(io.BytesIO(blob), "CPU", _options(settings))
        except Exception as error:  # its exceptions have no base of their own
            raise CannotRun(last_line(error)) from error
        return Built(OpenVINOProgram(compiled), takes)


def _put_in(read: Any, weights: Mapping[str, Any]) -> None:
    """Put arrays, which are not copied, in place of the inputs of their names."""
    for name, array in weights.items():
        given = read.input(name)
        constant = _constant_type()(array, shared_memory=True)
        constant.set_friendly_name(name)
        (made,) = constant.outputs()
        for reader in given.get_target_inputs():
            reader.replace_source_output(made)
        read.remove_parameter(given.get_node())
    read.validate_nodes_and_infer_types()


@cache
def _constant_type() -> Any:
    return module("openvino.op").Constant


@cache
def _multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for it; elsewhere OpenVINO multiplies floats."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _takes_remainders(piece: Piece) -> bool:
    """Whether sizes are filled up, as those of images that are cut into windows.

    OpenVINO (2026.4.1) mixes up the sizes of a program for all of them then (swin_t): it reshapes
    to some that are too large, writes past the memory of tensors, and ends the process.
    """
    return any(is_op(node, _MODULO) for node in piece.graph_module.graph.nodes)


_MODULO = SCALARS[operator.mod]


def _options(settings: BuildSettings) -> dict[str, Any]:
    """On CPUs with AMX it would compute floats in bf16, if it were not told."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": settings.threads,
        "INFERENCE_PRECISION_HINT": "bf16" if settings.float_dtype == torch.bfloat16 else "f32",
    }


@cache
def _core() -> Any:
    return module("openvino").Core()


class OpenVINOProgram:
    """A compiled model, and its idle requests.

    Attributes:
        compiled: OpenVINO's compiled model.
    """

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._idle: list[_Request] = []
        self._outputs: dict[_Shapes, _Outputs] = {}

    def exported(self) -> bytes:
        """The compiled model as OpenVINO writes it."""
        blob = self.compiled.export_model()
        return bytes(blob.getvalue())

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        shapes = tuple([given.shape for given in inputs])
        outputs = self._outputs.get(shapes)
        if outputs is None:
            return self._first(shapes, inputs)
        try:
            request = self._idle.pop()  # not asked first: other threads take from it, too
        except IndexError:
            request = _Request(self.compiled)
        if request.shapes != shapes:
            request.tell(shapes, inputs, outputs)
        made = request.run(inputs)
        self._idle.append(request)
        return made

    def _first(self, shapes: _Shapes, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The first call with these shapes, which tells those of the outputs."""
        request = self.compiled.create_infer_request()
        arrays = [array_of(given) for given in inputs]  # held here: tensors over them do not
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, _over(array))
        request.infer(share_outputs=True)
        views = [tensor.data for tensor in request.output_tensors]
        made = [torch.from_numpy(view.copy()) for view in views]
        if len(self._outputs) >= _MOST_SHAPES:
            self._outputs.clear()
        self._outputs[shapes] = [(result.shape, result.dtype) for result in made]
        return made


class _Request:
    """A request, and the memory that it was told to read and to write.

    Small tensors have memory of their own, which they are copied to and from: that takes less than
    telling a request. Large ones are read and written where PyTorch holds them, and it is told so
    in each call.

    Attributes:
        shapes: of the inputs that it was told of.
    """

    def __init__(self, compiled: Any) -> None:
        self.shapes: _Shapes | None = None
        self._request = compiled.create_infer_request()
        self._read: list[Any] = []  # of each input its memory; None: the caller's
        self._written: list[Any] | None = None  # of the outputs; None: made anew for each call
        self._outputs: _Outputs = []

    def tell(self, shapes: _Shapes, inputs: Sequence[Tensor], outputs: _Outputs) -> None:
        """Prepare for calls with these shapes."""
        self._read = [_memory(x.shape, x.dtype) if x.nbytes <= _SMALL else None for x in inputs]
        for index, array in enumerate(self._read):
            if array is not None:
                self._request.set_input_tensor(index, _over(array))
        size = sum(shape.numel() * dtype.itemsize for shape, dtype in outputs)
        self._written = [_memory(*output) for output in outputs] if size <= _SMALL else None
        for index, array in enumerate(self._written or ()):
            self._request.set_output_tensor(index, _over(array))
        self._outputs = outputs
        self.shapes = shapes

    def run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs, in memory of the caller's."""
        arrays = [array_of(given) for given in inputs]  # held here: tensors over them do not
        for index, array in enumerate(arrays):
            own = self._read[index]
            if own is None:
                self._request.set_input_tensor(index, _over(array))
            else:
                own[...] = array
        if self._written is not None:
            self._request.infer(share_outputs=True)
            return [torch.from_numpy(array.copy()) for array in self._written]
        made = [torch.empty(shape, dtype=dtype) for shape, dtype in self._outputs]
        for index, result in enumerate(made):
            self._request.set_output_tensor(index, _over(result.numpy()))
        self._request.infer(share_outputs=True)
        return made


def _memory(shape: torch.Size, dtype: torch.dtype) -> Any:
    return torch.empty(shape, dtype=dtype).numpy()


def _over(array: object) -> Any:
    """OpenVINO's tensor over the memory of an array, which it does not hold."""
    return _tensor_type()(array, shared_memory=True)


@cache
def _tensor_type() -> Any:
    return module("openvino").Tensor


_SMALL = 2**16
"""Bytes of an input, or of all outputs, that are rather copied."""

_MOST_SHAPES = 4096


def last_line(error: Exception) -> str:
    """What an error says in the end, where engines say what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
