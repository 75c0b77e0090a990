"""ONNX Runtime's CPU provider. A session runs any number of calls at once."""

from __future__ import annotations

from collections.abc import Sequence
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

_NOT_OF_CODES = ["MatMulAddFusion"]
"""What makes a Gemm of MatMul and Add where sizes are known, which is computed in float, of weights
that are dequantized in each run: 28 x 7 x 384 to 1536 and back, 16.4 ms and 5.6 without."""

_WARNINGS_LEFT_OUT = 3  # severity: errors alone


class OnnxRuntime(PieceEngine):
    """Pieces as sessions.

    Sums of two tensors are computed in integers only where they stand between codes, as they do in
    the integer form; sigmoids, products, concatenations and averages, in the full integer form.
    Dynamic LSTMs are operators of its own (:mod:`qfx.export.onnx.contrib`).
    """

    name = "onnxruntime"

    def lacks(self) -> str:
        return lacking("onnxruntime", "onnxruntime", writes="onnx_ir")

    def version(self) -> str:
        return version_of("onnxruntime")

    def problems(self, piece: Piece) -> Sequence[Problem]:
        return writing.problems(piece, contrib=True)

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        return writing.forms(piece, (OnnxForm.FULL, OnnxForm.INTEGER), contrib=True)

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        written = writing.onnx_model(piece, settings.form, settings.shapes, contrib=True)
        return _opened(written, settings)

    def packed(self, built: Built) -> bytes | None:
        assert isinstance(built.program, OnnxRuntimeProgram)
        written = built.program.written
        return writing.packed(written.takes, (written.inputs, written.outputs), written.data)

    def unpacked(self, data: bytes, settings: BuildSettings) -> Built:
        takes, (inputs, outputs), written = writing.unpacked(data)
        return _opened(writing.Model(written, inputs, outputs, takes), settings)


def _opened(written: writing.Model, settings: BuildSettings) -> Built:
    runtime = module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = _WARNINGS_LEFT_OUT
    disabled = _NOT_OF_CODES if written.holds_codes else []
    try:
        session = runtime.InferenceSession(
            written.data,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled,
        )
    except Exception as error:  # its exceptions have no base of their own
        raise CannotRun(str(error).partition("\n")[0]) from error
    return Built(OnnxRuntimeProgram(session, written), written.takes)


class OnnxRuntimeProgram:
    """A session; arrays that it makes are handed out as tensors over the same memory.

    Attributes:
        session: ONNX Runtime's.
        written: what it was made of.
    """

    def __init__(self, session: Any, written: writing.Model) -> None:
        self.session = session
        self.written = written
        self._inputs = written.inputs
        self._outputs = list(written.outputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        feeds = dict(zip(self._inputs, map(array_of, inputs), strict=True))
        return [torch.from_numpy(made) for made in self.session.run(self._outputs, feeds)]
