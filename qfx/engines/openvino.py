"""OpenVINO's CPU plugin.

A request works for one call at a time; each compiled model keeps as many as calls ran at once.
Inputs are read, and outputs written, where PyTorch holds them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qfx.engines import writing
from qfx.engines.arrays import array_of
from qfx.engines.base import BuildSettings, Built, CannotRun, PieceEngine
from qfx.engines.packages import lacking, module, version_of
from qfx.engines.pieces import Piece
from qfx.export.onnx.forms import OnnxForm
from qfx.export.problems import Problem


class OpenVINO(PieceEngine):
    """Pieces as OpenVINO models, in float32 or bfloat16 where they are not in integers."""

    name = "openvino"
    family = writing.FAMILY

    def lacks(self) -> str:
        return lacking(("openvino", "onnx_ir"), "openvino")

    def version(self) -> str:
        return version_of("openvino")

    def problems(self, piece: Piece) -> Sequence[Problem]:
        return writing.problems(piece)

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        return writing.forms(piece, (OnnxForm.INTEGER,))

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        written = writing.onnx_model(piece, settings.form, settings.shapes)
        try:
            read = _core().read_model(written.data)
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

    Large outputs are written where they are handed out, small ones are copied, which takes less
    than telling the request. A request does one or the other: what it was told stays in it.

    Attributes:
        compiled: OpenVINO's compiled model.
    """

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._tensor = module("openvino").Tensor
        self._copying: list[Any] = []
        self._writing: list[Any] = []
        self._large: dict[tuple[torch.Size, ...], list[tuple[torch.Size, torch.dtype]]] = {}
        self._outputs = range(len(compiled.outputs))

    def exported(self) -> bytes:
        """The compiled model as OpenVINO writes it."""
        blob = self.compiled.export_model()
        return bytes(blob.getvalue())

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        arrays = [array_of(given) for given in inputs]  # held here: tensors over them do not
        large = self._large and self._large.get(tuple([given.shape for given in inputs]))
        if large:
            return self._written(arrays, large)
        request = self._request(self._copying)
        self._infer(request, arrays)
        views = [request.get_output_tensor(index).data for index in self._outputs]
        made = [torch.from_numpy(view.copy()) for view in views]
        if sum(view.nbytes for view in views) > _SMALL:
            if len(self._large) >= _MOST_SHAPES:
                self._large.clear()
            key = tuple([given.shape for given in inputs])
            self._large[key] = [(result.shape, result.dtype) for result in made]
        self._copying.append(request)
        return made

    def _written(
        self, arrays: list[Any], outputs: list[tuple[torch.Size, torch.dtype]]
    ) -> Sequence[Tensor]:
        """The outputs, in memory that the request is told to write to."""
        request = self._request(self._writing)
        made = [torch.empty(shape, dtype=dtype) for shape, dtype in outputs]
        for index, result in enumerate(made):
            request.set_output_tensor(index, self._tensor(result.numpy(), shared_memory=True))
        self._infer(request, arrays)
        self._writing.append(request)
        return made

    def _request(self, idle: list[Any]) -> Any:
        try:
            return idle.pop()  # not asked first: other threads take from it, too
        except IndexError:
            return self.compiled.create_infer_request()

    def _infer(self, request: Any, arrays: list[Any]) -> None:
        if len(arrays) == 1:
            request.infer(self._tensor(arrays[0], shared_memory=True), share_outputs=True)
            return
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, self._tensor(array, shared_memory=True))
        request.infer({}, share_outputs=True)


_SMALL = 2**16
"""Bytes of outputs that are rather copied."""

_MOST_SHAPES = 4096


def last_line(error: Exception) -> str:
    """What an error says in the end, where engines say what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
