"""torch.ao's FX flow (deprecated): default x86 qconfig mapping, engine "x86"."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks import macs
from benchmarks.engines import Built, Workload


def quantize(model: nn.Module, example: Tensor, calibration: Sequence[Tensor]) -> nn.Module:
    """Static quantization with torch.ao's defaults for x86."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (example,))
        for batch in calibration:
            prepared(batch)
        converted: nn.Module = convert_fx(prepared)
    return converted


def build(workload: Workload, variant: str) -> Built:
    """``variant`` "eager" runs the converted modules, "torchscript" a frozen trace of them."""
    torch.set_num_threads(workload.threads)
    converted = quantize(workload.model, workload.example, workload.calibration)
    coverage = _coverage(workload, converted)
    model: torch.nn.Module = converted
    if variant == "torchscript":
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(converted, workload.example)  # type: ignore[no-untyped-call]
            model = torch.jit.freeze(traced)

    @torch.no_grad()
    def run(batch: Tensor) -> Tensor:
        output: Tensor = model(batch)
        return output

    return Built(run, coverage, {"torch": torch.__version__})


def _coverage(workload: Workload, converted: nn.Module) -> float:
    """MACs of the modules that became quantized modules, over those of the whole model."""
    quantized = {
        name
        for name, module in converted.named_modules()
        if ".nn.quantized." in type(module).__module__
        or ".nn.intrinsic.quantized." in type(module).__module__
    }
    counts = macs.count(workload.model, workload.example)
    return sum(counts.by_module.get(name, 0) for name in quantized) / counts.total
