"""OpenVINO's CPU plugin.

A request works for one call at a time; each compiled model keeps as many as calls ran at once.
Inputs are read, and outputs written, where PyTorch holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qfx.engines import writing
from qfx.engines.arrays import array_of
from qfx.engines.base import Built, CannotRun, PieceEngine, Settings
from qfx.engines.packages import lacking, module, version_of
from qfx.engines.pieces import Piece
from qfx.export.onnx.forms import Form
from qfx.export.problems import Problem

_DTYPES = {
    "f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "boolean": torch.bool,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "u8": torch.uint8, "u16": torch.uint16,
}  # fmt: skip


class OpenVINO(PieceEngine):
    """Pieces as OpenVINO models, in float32 where they are not in integers."""

    name = "openvino"
    family = writing.FAMILY

    def lacks(self) -> str:
        return lacking(("openvino", "onnx_ir"), "openvino")

    def version(self) -> str:
        return version_of("openvino")

    def problems(self, piece: Piece) -> Sequence[Problem]:
        return writing.problems(piece)

    def forms(self, piece: Piece) -> Sequence[Form]:
        return (Form.INTEGER, Form.EXACT) if writing.forms_differ(piece) else (Form.EXACT,)

    def build(self, piece: Piece, settings: Settings) -> Built:
        written = writing.onnx_model(piece, settings.form, settings.shapes)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            compiled = _core().compile_model(_core().read_model(written.data), "CPU", options)
        except Exception as error:  # its exceptions have no base of their own
            raise CannotRun(last_line(error)) from error
        return Built(OpenVINOProgram(compiled), written.takes)


@cache
def _core() -> Any:
    return module("openvino").Core()


class OpenVINOProgram:
    """A compiled model, its idle requests, and the shapes of outputs by those of inputs."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._tensor = module("openvino").Tensor
        self._idle: list[Any] = []
        self._shapes: dict[tuple[torch.Size, ...], tuple[tuple[int, ...], ...]] = {}
        self._dtypes = [
            _DTYPES[port.get_element_type().get_type_name()] for port in compiled.outputs
        ]

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        tensor = self._tensor
        arrays = [array_of(given) for given in inputs]  # held here: tensors over them do not
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, tensor(array, shared_memory=True))
        key = tuple([given.shape for given in inputs])
        shapes = self._shapes.get(key)
        if shapes is None:
            made = self._first(request, key)
        else:
            made = [torch.empty(s, dtype=d) for s, d in zip(shapes, self._dtypes, strict=True)]
            for index, result in enumerate(made):
                request.set_output_tensor(index, tensor(result.numpy(), shared_memory=True))
            request.infer({}, share_outputs=True)
        self._idle.append(request)
        return made

    def _first(self, request: Any, key: tuple[torch.Size, ...]) -> list[Tensor]:
        """Run inputs of new shapes, and learn those of the outputs."""
        fresh = self._compiled.create_infer_request()  # whose outputs are its own
        for index in range(len(key)):
            fresh.set_input_tensor(index, request.get_input_tensor(index))
        fresh.infer({}, share_outputs=True)
        views = [fresh.get_output_tensor(i).data for i in range(len(self._dtypes))]
        made = [torch.from_numpy(view.copy()) for view in views]
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        self._shapes[key] = tuple(tuple(result.shape) for result in made)
        return made


_MOST_SHAPES = 4096


def last_line(error: Exception) -> str:
    """What an error says in the end, where engines say what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
