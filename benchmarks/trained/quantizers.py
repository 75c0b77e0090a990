"""Quantizers, each from a float model and batches to a function that runs the result.

What is compared is what the quantized models mean, not the integer kernels of this machine, some of
which saturate sums on CPUs without VNNI: qfx's reference form, OpenVINO with its low-precision
transformations off, ONNX Runtime without graph optimizations, all 8 bits. torch.ao has no such
form; its kernels run, with its default 7 bits.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import qfx
from benchmarks.engines import Workload, onnx_runtime, torch_ao
from benchmarks.trained.subjects import Sample

Run: TypeAlias = "Callable[[Sample], Tensor]"


@dataclass(frozen=True)
class Quantizer:
    """One column of the table."""

    title: str
    build: Callable[[nn.Module, Sequence[Sample]], Run]
    packages: tuple[str, ...] = ()

    def missing(self) -> tuple[str, ...]:
        """The packages it needs that are not installed."""
        return tuple(name for name in self.packages if importlib.util.find_spec(name) is None)


@dataclass(frozen=True)
class Ours:
    """qfx, by the placement of a backend with 8 bits: ``options`` are those of ``qfx.quantize``."""

    weight_bits: int = 8
    backend: str = "x86"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batches: Sequence[Sample]) -> Run:
        """Quantize, and hand out the reference form."""
        made = self.quantized(model, batches)
        return lambda sample: made.reference(*sample)

    def quantized(self, model: nn.Module, batches: Sequence[Sample]) -> qfx.QuantizedModel:
        """What qfx makes of the model, with 8 bits whatever the CPU."""
        options = {"qconfig": self._qconfig(), "calibration_data": batches, **self.options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return qfx.quantize(
                model, batches[0], backend=_of_8_bits(self.backend), check=False, progress=False,
                **options,
            )  # fmt: skip

    def _qconfig(self) -> qfx.QConfig:
        method = self.options.get("method")
        if method == "weight_only":
            return _in_groups(self.weight_bits)
        top = 2 ** (self.weight_bits - 1) - 1
        observer = "per_channel_minmax" if self.weight_bits == 8 else "per_channel_mse"
        weight = qfx.QuantSpec(
            torch.int8, symmetric=True, per_channel=True, quant_min=-top, quant_max=top,
            observer=observer,
        )  # fmt: skip
        if method == "dynamic":
            return qfx.QConfig(qfx.QuantSpec(torch.uint8, dynamic=True), weight)
        return qfx.QConfig(qfx.QuantSpec(torch.uint8, observer="histogram"), weight)


def _in_groups(bits: int) -> qfx.QConfig:
    """Weights alone, in groups of 32; rows of tables in 8 bits."""
    half = 2 ** (bits - 1)
    weight = qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, group_size=32, quant_min=-half,
        quant_max=half - 1, observer="per_channel_mse",
    )  # fmt: skip
    return qfx.QConfig(weight=weight, rows=qfx.QuantSpec(torch.uint8, per_channel=True))


def _of_8_bits(backend: str) -> qfx.Backend:
    """The backend as on CPUs whose kernels don't saturate: elsewhere it would leave out a bit."""
    return replace(qfx.backends.resolve_backend(backend), saturates=False)


def _nncf(advanced: bool) -> Callable[[nn.Module, Sequence[Sample]], Run]:
    """NNCF's post-training quantization, mixed preset."""

    def build(model: nn.Module, batches: Sequence[Sample]) -> Run:
        import nncf
        import openvino

        logging.getLogger("nncf").setLevel(logging.ERROR)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            floating = openvino.convert_model(model, example_input=batches[0])
        options: dict[str, Any] = {}
        if any(isinstance(module, nn.LayerNorm) for module in model.modules()):
            options["model_type"] = nncf.ModelType.TRANSFORMER
        quantized = nncf.quantize(
            floating,
            nncf.Dataset([tuple(x.numpy() for x in batch) for batch in batches]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            fast_bias_correction=not advanced,
            **options,
        )
        settings = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
        compiled = openvino.Core().compile_model(quantized, "CPU", settings)

        def run(sample: Sample) -> Tensor:
            results = compiled([x.numpy() for x in sample])
            return torch.from_numpy(results[0].copy())

        return run

    return build


def _onnxruntime(model: nn.Module, batches: Sequence[Sample]) -> Run:
    """ONNX Runtime's static quantizer, its defaults (min-max), per channel."""
    import onnxruntime

    inputs = [x for (x,) in batches]
    workload = Workload(model, inputs[0], inputs, 1)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = onnx_runtime.quantized_file(workload, Path(folder))
        session = onnxruntime.InferenceSession(str(path), options)
    name, batch = session.get_inputs()[0].name, len(inputs[0])

    def run(sample: Sample) -> Tensor:
        repeated = sample[0].expand(batch, *sample[0].shape[1:])
        return torch.from_numpy(session.run(None, {name: repeated.numpy()})[0][:1])

    return run


def _torch_ao(model: nn.Module, batches: Sequence[Sample]) -> Run:
    inputs = [x for (x,) in batches]
    made = torch_ao.quantize(model, inputs[0], inputs)
    return lambda sample: made(*sample)


def _torch_ao_dynamic(model: nn.Module, batches: Sequence[Sample]) -> Run:
    del batches
    from torch.ao.quantization import quantize_dynamic

    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = quantize_dynamic(model)  # type: ignore[no-untyped-call]
    return lambda sample: made(*sample)


_NNCF = ("nncf", "openvino")
_ORT = ("onnxruntime", "onnx", "onnxscript")
_AO = ("torch.ao.quantization",)

QUANTIZERS: dict[str, Quantizer] = {
    "qfx": Quantizer("qfx", Ours()),
    "qfx-fast": Quantizer("qfx, effort fast", Ours(options={"effort": "fast"})),
    "qfx-high": Quantizer("qfx, effort high", Ours(options={"effort": "high"})),
    "qfx-fbgemm": Quantizer("qfx, fbgemm", Ours(backend="fbgemm")),
    "qfx-dynamic": Quantizer("qfx, dynamic", Ours(options={"method": "dynamic"})),
    "qfx-w4": Quantizer("qfx, weights of 4 bits", Ours(weight_bits=4)),
    "qfx-w4-high": Quantizer(
        "qfx, weights of 4 bits, effort high", Ours(weight_bits=4, options={"effort": "high"})
    ),
    "qfx-weights-high": Quantizer(
        "qfx, 4 bits weight-only in groups, effort high",
        Ours(weight_bits=4, options={"method": "weight_only", "effort": "high"}),
    ),
    "nncf": Quantizer("NNCF", _nncf(advanced=False), _NNCF),
    "nncf-advanced": Quantizer("NNCF, full bias correction", _nncf(advanced=True), _NNCF),
    "onnxruntime": Quantizer("ONNX Runtime", _onnxruntime, _ORT),
    "torch.ao": Quantizer("torch.ao", _torch_ao, _AO),
    "torch.ao-dynamic": Quantizer("torch.ao, dynamic", _torch_ao_dynamic, _AO),
}
