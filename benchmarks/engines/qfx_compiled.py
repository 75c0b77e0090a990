"""qfx.compile: the engine that the variant names, "auto" for the fastest that agrees."""

from __future__ import annotations

import torch
from torch import Tensor

import qfx
from benchmarks.engines import Built, Workload


def build(workload: Workload, variant: str) -> Built:
    """Quantize with the defaults and compile; ``variant`` is an engine, and perhaps "-dynamic"."""
    torch.set_num_threads(workload.threads)
    engine, _, method = variant.partition("-")
    model = qfx.quantize(
        workload.model,
        workload.example,
        method=method or "static",
        calibration_data=None if method else workload.calibration,
        progress=False,
    )
    fast = qfx.compile(
        model, workload.example, engine=engine, threads=workload.threads, progress=False
    )
    (trial,) = [trial for trial in fast.trials if trial.name == fast.engine]
    details = {"qfx": qfx.__version__, fast.engine: trial.version, "form": trial.form}

    def run(batch: Tensor) -> Tensor:
        output: Tensor = fast(batch)
        return output

    return Built(run, model.report.coverage, details)
