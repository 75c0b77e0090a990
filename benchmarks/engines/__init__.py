"""Engine adapters: one file an engine, one shape for all.

Each module has ``REQUIRES``, the packages it needs beyond torch, and
``build(workload, variant) -> Built``. Engines are looked up by name in :data:`ENGINES`; a module is
imported only when its engine is built, so a missing package costs one line in a table.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Workload:
    """What an engine is given.

    Attributes:
        model: float model in eval mode; engines work on copies.
        example: one input batch, f32[N, ...], of the shape that will be timed.
        calibration: batches for static quantization.
        threads: number of threads the engine may use.
    """

    model: nn.Module
    example: Tensor
    calibration: Sequence[Tensor]
    threads: int


@dataclass(frozen=True)
class Built:
    """An engine ready to run.

    Attributes:
        run: maps an input batch to the output tensor.
        coverage: fraction of the model's multiply-accumulates in integer kernels; None when the
            engine has no way to tell, or quantizes nothing by intent.
        details: facts worth a line in the results (versions, settings).
    """

    run: Callable[[Tensor], Tensor]
    coverage: float | None = None
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """Where an engine lives: a module of this package and one of its variants."""

    name: str
    module: str
    variant: str
    title: str
    requires: tuple[str, ...] = ()

    def missing(self) -> tuple[str, ...]:
        """The packages it needs that are not installed."""
        return tuple(name for name in self.requires if importlib.util.find_spec(name) is None)

    def build(self, workload: Workload) -> Built:
        """Quantize and compile the workload's model; may take minutes."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        built: Built = module.build(workload, self.variant)
        return built


_TORCH_AO = ("torch.ao.quantization",)

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("eager", "eager", "fp32", "torch eager fp32"),
        Engine("qfx-x86", "qfx_engine", "x86", "qfx, x86 form", ("qfx", "qfx_passes")),
        Engine("qfx-fbgemm", "qfx_engine", "fbgemm", "qfx, fbgemm form", ("qfx", "qfx_passes")),
        Engine("qfx-reference", "qfx_engine", "reference", "qfx, q/dq form", ("qfx", "qfx_passes")),
        Engine("qfx-x86-dynamic", "qfx_engine", "x86-dynamic", "qfx dynamic, x86 form",
               ("qfx", "qfx_passes")),
        Engine("qfx-fbgemm-dynamic", "qfx_engine", "fbgemm-dynamic", "qfx dynamic, fbgemm form",
               ("qfx", "qfx_passes")),
        Engine("qfx-openvino", "qfx_compiled", "openvino", "qfx.compile, OpenVINO",
               ("qfx", "qfx_passes", "openvino", "onnx_ir")),
        Engine("qfx-onnxruntime", "qfx_compiled", "onnxruntime", "qfx.compile, ONNX Runtime",
               ("qfx", "qfx_passes", "onnxruntime", "onnx_ir")),
        Engine("qfx-auto", "qfx_compiled", "auto", "qfx.compile, auto", ("qfx", "qfx_passes")),
        Engine("qfx-auto-dynamic", "qfx_compiled", "auto-dynamic", "qfx.compile, dynamic",
               ("qfx", "qfx_passes")),
        Engine("torch.ao-dynamic", "torch_ao_dynamic", "dynamic", "torch.ao dynamic", _TORCH_AO),
        Engine("torch.ao", "torch_ao", "eager", "torch.ao FX, x86 engine", _TORCH_AO),
        Engine("torch.ao-ts", "torch_ao", "torchscript", "the same, TorchScript", _TORCH_AO),
        Engine("onnxruntime", "onnx_runtime", "qdq", "ONNX Runtime int8 (QDQ)",
               ("onnx", "onnxscript", "onnxruntime")),
        Engine("openvino", "openvino_nncf", "mixed", "OpenVINO + NNCF int8", ("openvino", "nncf")),
    )
}  # fmt: skip
