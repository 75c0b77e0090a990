"""A model of several regions leaves region by region; the whole is an error that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Sequential(nn.Linear(8, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if x.sum() > 1e6:  # Python decides
            return x
        made: Tensor = self.head(x)
        return made


@pytest.fixture(scope="module")
def qmodel() -> Any:
    return qfx.quantize(Branching().eval(), X)


def test_the_whole_is_refused(qmodel: Any, tmp_path: Path) -> None:
    takers = {
        "export_onnx": lambda: qfx.export_onnx(qmodel, tmp_path / "m.onnx"),
        "export_pt2e": lambda: qfx.export_pt2e(qmodel, X),
        "check_onnx": lambda: qfx.check_onnx(qmodel, tmp_path / "m.onnx", X),
    }
    for name, taker in takers.items():
        with pytest.raises(qfx.ConfigError) as caught:
            taker()
        said = str(caught.value)
        assert f"{name} takes a quantized model, not Branching" in said
        assert f"qfx.{name}(qmodel.regions['body'], ...); the regions are 'body', 'head'" in said
    assert not (tmp_path / "m.onnx").exists()


def test_a_prepared_model_of_regions_is_converted_first(tmp_path: Path) -> None:
    prepared = qfx.prepare(Branching().eval(), X)
    with pytest.raises(qfx.ConfigError, match=r"call qfx.convert\(prepared\) first"):
        qfx.export_onnx(prepared, tmp_path / "m.onnx")


def test_a_region_is_exported(qmodel: Any, tmp_path: Path) -> None:
    body = qmodel.regions["body"]
    file = qfx.export_onnx(body, tmp_path / "body.onnx", form="exact")
    assert qfx.check_onnx(body, file, X).sqnr > 35
    program = qfx.export_pt2e(body, X)
    torch.testing.assert_close(program.module()(X), body.reference(X), atol=0.05, rtol=0)
