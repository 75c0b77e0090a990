"""qfx, lowered for the backend that the variant names."""

from __future__ import annotations

import torch
from torch import Tensor

import qfx
from benchmarks.engines import Built, Workload


def build(workload: Workload, variant: str) -> Built:
    """Quantize with the defaults of backend ``variant`` ("x86" or "fbgemm")."""
    torch.set_num_threads(workload.threads)
    model = qfx.quantize(
        workload.model,
        workload.example,
        calibration_data=workload.calibration,
        backend=variant,
        progress=False,
    )

    @torch.no_grad()
    def run(batch: Tensor) -> Tensor:
        output: Tensor = model(batch)
        return output

    return Built(run, model.report.coverage, {"qfx": qfx.__version__})
