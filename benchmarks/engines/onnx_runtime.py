"""ONNX Runtime's CPU provider with static QDQ quantization (u8 activations, s8 weights)."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.engines import Built, Workload


def build(workload: Workload, variant: str) -> Built:
    """Export, pre-process, quantize per channel and open a session; one ``variant``, "qdq"."""
    del variant
    import onnxruntime

    torch.set_num_threads(workload.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = quantized_file(workload, Path(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = workload.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: batch.numpy()})[0])

    return Built(run, details={"onnxruntime": onnxruntime.__version__})


def quantized_file(workload: Workload, folder: Path) -> Path:
    """Write the file of ONNX Runtime's own quantizer."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)
    floating, prepared, quantized = (folder / f"{stage}.onnx" for stage in ("f", "p", "q"))
    _export(workload.model, workload.example, floating)
    quant_pre_process(floating, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        quantized,
        _reader(torch.cat(list(workload.calibration)), len(workload.example)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized


def _export(model: nn.Module, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=["input"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _reader(samples: Tensor, batch: int) -> object:
    """Reads all samples in batches of the exported size; the last one wraps around."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Yields each batch once."""

        def __init__(self) -> None:
            starts = range(0, len(samples), batch)
            self._batches = iter([(torch.arange(batch) + i) % len(samples) for i in starts])

        def get_next(self) -> dict[str, object] | None:
            indices = next(self._batches, None)
            return None if indices is None else {"input": samples[indices].numpy()}

    return Reader()
