"""torch.ao's dynamic quantization (deprecated) of linear layers, engine "x86"."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import macs
from benchmarks.engines import Built, Workload


def build(workload: Workload, variant: str) -> Built:
    """``quantize_dynamic`` of every ``nn.Linear``; ``variant`` has one value, "dynamic"."""
    del variant
    from torch.ao.quantization import quantize_dynamic

    torch.set_num_threads(workload.threads)
    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        quantize: Any = quantize_dynamic
        model = quantize(copy.deepcopy(workload.model), {nn.Linear}, torch.qint8)
    counts = macs.count(workload.model, workload.example)
    linear = (n for n, m in workload.model.named_modules() if isinstance(m, nn.Linear))
    coverage = sum(counts.by_module.get(name, 0) for name in linear) / counts.total

    @torch.no_grad()
    def run(batch: Tensor) -> Tensor:
        output: Tensor = model(batch)
        return output

    return Built(run, coverage, {"torch": torch.__version__})
