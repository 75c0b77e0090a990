"""Of a batch that is larger than all that is kept, the first rows are kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import qfx
from qfx.quant.observers import Observer
from qfx.runtime.prepared import PreparedModel
from tests.cases.flow import randn

LARGE = randn(40, 3, 160, 160)  # 12 MiB


class Pooled(nn.Module):
    """A layer over images; with ``rows`` of so many only."""

    def __init__(self, rows: int = -1) -> None:
        super().__init__()
        self.fc, self.rows = nn.Linear(3, 4), rows

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x.mean((2, 3)).reshape(self.rows, 3))
        return y


def _calibrated(rows: int = -1, data: Tensor = LARGE) -> PreparedModel:
    pipeline = qfx.pipelines.static().without("match-means").without("gptq")  # they keep more
    prepared = qfx.prepare(Pooled(rows).eval(), data, backend="x86", pipeline=pipeline)
    return qfx.calibrate(prepared, [data, data])


def _counts(prepared: PreparedModel) -> list[int]:
    return [int(m.batches) for m in prepared.modules() if isinstance(m, Observer)]


def test_the_first_rows_are_kept() -> None:
    prepared = _calibrated()
    ((kept,),) = [sample.args for sample in prepared.samples]
    assert len(kept) == 2**23 // LARGE[0].nbytes
    assert torch.equal(kept, LARGE[: len(kept)])
    assert _counts(prepared) == _counts(_calibrated(data=LARGE[:2]))  # rows are not recorded
    assert prepared.training


def test_rows_that_the_model_does_not_take_are_not_kept() -> None:
    prepared = _calibrated(rows=40)
    assert not len(prepared.samples)
    assert not prepared.samples.divisible  # it is not asked again
