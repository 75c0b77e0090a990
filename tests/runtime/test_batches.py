"""Batches bind to the parameters of forward as a call would."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self, a: Tensor, b: Tensor | None = None, *, k: float, flag: bool = False
    ) -> Tensor:
        y = self.linear(a) * k
        y = y if b is None else y + b
        return -y if flag else y


def quantize(batch: Any, inputs: Any = (), **kwargs: Any) -> qfx.QuantizedModel:
    return qfx.quantize(
        Model().eval(),
        inputs,
        example_kwargs=kwargs,
        calibration_data=[batch],
        backend="reference",
    )


@pytest.mark.sweep
@pytest.mark.parametrize("batch", [X, (X,), [X], {"a": X}, {"a": X, "k": 3.0}])
@pytest.mark.parametrize("by_position", [True, False])
def test_settings_of_the_examples_need_not_be_in_a_batch(batch: Any, by_position: bool) -> None:
    inputs, kwargs = (X, {}) if by_position else ((), {"a": X})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qmodel = quantize(batch, inputs, k=2.0, flag=True, **kwargs)
    assert qmodel.report.coverage == 1


def test_labels_are_dropped_where_all_examples_are_keywords() -> None:
    with pytest.warns(qfx.QfxWarning, match="2 elements and the model takes 1"):
        assert quantize((X, torch.arange(8)), a=X, k=2.0).report.coverage == 1


def test_two_inputs_by_keyword_are_two_by_position() -> None:
    assert quantize((X, X), a=X, b=X, k=2.0).report.coverage == 1


def test_data_that_a_batch_lacks_is_asked_for() -> None:
    with pytest.raises(qfx.ConfigError, match=r"It lacks a: make each batch a dict") as raised:
        quantize({"b": X}, a=X, b=X, k=2.0)
    assert "{'a': ..., 'b': ..., 'k': ...}" in str(raised.value)
