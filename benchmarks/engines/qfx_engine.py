"""qfx, lowered for the backend that the variant names."""

from __future__ import annotations

import torch
from torch import Tensor

import qfx
from benchmarks.engines import Built, Workload


def build(workload: Workload, variant: str) -> Built:
    """Quantize with the defaults of ``variant``: a backend, and perhaps "-dynamic"."""
    torch.set_num_threads(workload.threads)
    backend, _, method = variant.partition("-")
    model = qfx.quantize(
        workload.model,
        workload.example,
        method=method or "static",
        calibration_data=None if method else workload.calibration,
        backend=backend,
        progress=False,
    )

    @torch.no_grad()
    def run(batch: Tensor) -> Tensor:
        output: Tensor = model(batch)
        return output

    return Built(run, model.report.coverage, {"qfx": qfx.__version__})
