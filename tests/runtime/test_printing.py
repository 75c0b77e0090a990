"""Every graph module that qfx hands out prints, whatever is left of the layers in it."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import qfx
from tests.cases.flow import BACKENDS, randn

X = randn(2, 3, 8, 8)


def net() -> nn.Module:
    """Layers without a bias, which canonicalization and fusing leave without other things too."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(6, 5, bias=False)
    ).eval()


@pytest.mark.parametrize("backend", BACKENDS)
def test_prepared_and_quantized_models_and_their_reference(backend: str) -> None:
    prepared = qfx.prepare(net(), X, backend=backend)
    assert "def forward(self, input" in str(prepared)
    assert "observer" in str(prepared)
    quantized = qfx.convert(qfx.calibrate(prepared, [X]))
    assert type(prepared).__name__ == "PreparedModel"
    assert repr(prepared).startswith("PreparedModel(")
    assert type(quantized).__name__ == "QuantizedModel"
    for each in (quantized, copy.copy(quantized), copy.deepcopy(quantized)):
        line = (
            rf"QuantizedModel\({backend}: 100\.0% of MACs quantized; operations: \d quantized.*\)"
        )
        assert re.fullmatch(line, str(each))
        assert str(each) == repr(each)
        assert str(each) in str(nn.Sequential(each))
        assert "def forward" in each.code
    assert "def forward" in str(quantized.reference)


@pytest.mark.parametrize("names", [("canonicalize",), ("canonicalize", "fuse-conv-bn")])
def test_what_run_passes_returns(names: tuple[str, ...]) -> None:
    model = net()
    before = str(model)
    graph_module, _ = qfx.run_passes(model, [qfx.get_pass(name) for name in names], X)
    assert "def forward" in str(graph_module)
    assert "(3): Linear(in_features=6, out_features=5, bias=False)" in str(graph_module)
    assert torch.equal(graph_module(X), graph_module(X))
    assert str(model) == before


def test_classes_are_called_what_they_are() -> None:
    x = torch.randn(2, 4)
    qmodel = qfx.quantize(nn.Linear(4, 4).eval(), x, backend="reference", check=False)
    trained = qfx.prepare(nn.Linear(4, 4).train(), x, backend="reference", method="qat")
    prepared = qfx.prepare(nn.Linear(4, 4).eval(), x, backend="reference")
    for made in (qmodel, copy.deepcopy(qmodel), trained, prepared):
        assert type(made).__qualname__ == type(made).__mro__[1].__name__
    assert type(qmodel).__qualname__ == "QuantizedModel"
    schedule = qfx.QATSchedule(trained, freeze_observers=3)
    assert repr(schedule) == "QATSchedule(steps=0, freeze_observers=3, freeze_batchnorm=None)"
