"""The float model as it is: what every ratio and every SQNR refers to."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from benchmarks.engines import Built, Workload


def build(workload: Workload, variant: str) -> Built:
    """The float model under ``no_grad``; ``variant`` has one value, "fp32"."""
    del variant
    torch.set_num_threads(workload.threads)
    model = copy.deepcopy(workload.model)

    @torch.no_grad()
    def run(batch: Tensor) -> Tensor:
        output: Tensor = model(batch)
        return output

    return Built(run)
