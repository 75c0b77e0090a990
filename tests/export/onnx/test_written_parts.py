"""Writing into parts of a tensor: slices, numbers, places, masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn

PLACES = torch.tensor([2, 0])

Write = Callable[[Tensor, Tensor], Any]


def written(y: Tensor, index: Any, value: Any) -> Tensor:
    y = y * 1.0
    y[index] = value
    return y


def added(y: Tensor, x: Tensor) -> Tensor:
    y = y * 1.0
    y[:, 1] += x[:, 0]
    y[1:] *= 2
    y[0, 0] -= 1
    return y


WAYS: dict[str, Write] = {
    "a number": lambda y, x: written(y, 0, 0),
    "a column": lambda y, x: written(y, (slice(None), 1), x[:, 1] * 2),
    "a slice": lambda y, x: written(y, (slice(1, None), slice(None, -3)), 1.5),
    "steps": lambda y, x: written(y, (Ellipsis, slice(None, None, 2)), x[..., 1::2]),
    "half": lambda y, x: written(y, slice(x.shape[0] // 2, None), -x[:1]),
    "places": lambda y, x: written(y, PLACES, 3),
    "a mask": lambda y, x: written(y, x > 0.5, float("-inf")),
    "a mask of rows": lambda y, x: written(y, x[:, 0] > 0, 0),
    "sums": added,
    "integers": lambda y, x: written((y * 9).long(), (slice(None), -1), x[:, 0] * 5),
}


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(8, 6), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.layer(x)
        return {name.replace(" ", "_"): way(y, x[:, :6]) for name, way in WAYS.items()}


@pytest.mark.parametrize("dynamic_shapes", [None, {}])
def test_parts(dynamic_shapes: Any, tmp_path: Path) -> None:
    x = randn(4, 8)
    qmodel = qfx.quantize(Writes().eval(), x, backend="reference")
    options = {"form": "exact", "dynamic_shapes": dynamic_shapes}
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", **options)
    assert file.inputs["x"][0] == (4 if dynamic_shapes == {} else "batch")
    for given in (x,) if dynamic_shapes == {} else (x, randn(7, 8, seed=1)):
        rows = qfx.check_onnx(qmodel, file, given).outputs
        assert [(row.name, row.sqnr) for row in rows if not row.sqnr > 90] == []


def test_several_numbers_where_a_mask_holds_are_refused(tmp_path: Path) -> None:
    class Several(Writes):
        def forward(self, x: Tensor) -> Any:
            return written(self.layer(x), (slice(None), x[0, :6] > 0), 1.0)

    qmodel = qfx.quantize(Several().eval(), randn(4, 8), backend="reference")
    with pytest.raises(qfx.ExportError, match=r"a mask beside other indices.*torch\.where"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")


def test_a_part_that_is_written_to_otherwise_is_refused(tmp_path: Path) -> None:
    class Apart(Writes):
        def forward(self, x: Tensor) -> Any:
            y = self.layer(x)
            part = y[:, 1]
            part += 1
            return y, part

    qmodel = qfx.quantize(Apart().eval(), randn(4, 8), backend="reference")
    with pytest.raises(qfx.ExportError, match="in place"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")
