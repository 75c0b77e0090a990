"""The training flag of a prepared model: calibrating or not; its layers run in inference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Noisy(nn.Linear):
    """Keeps its dropout, being a module with a hook."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def prepared_and_model() -> tuple[qfx.PreparedModel, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Noisy(4, 4), nn.Linear(4, 4)).eval()
    model[2].register_forward_hook(lambda *_: None)
    return qfx.prepare(model, X, backend="reference"), model


def result(prepared: qfx.PreparedModel) -> Tensor:
    return qfx.convert(prepared)(X)


def test_eval_stops_recording_and_train_resumes() -> None:
    prepared, _ = prepared_and_model()
    assert prepared.training
    prepared(X)
    before = result(prepared)
    assert prepared.eval() is prepared
    prepared(X * 100)
    assert torch.equal(result(prepared), before)
    prepared.train()
    prepared(X * 100)
    assert not torch.equal(result(prepared), before)


def test_layers_run_in_inference_in_either_mode() -> None:
    prepared, model = prepared_and_model()
    for mode in (True, False):
        torch.testing.assert_close(prepared.train(mode)(X), model(X))


def test_calibrate_records_in_either_mode_and_leaves_it() -> None:
    for mode in (True, False):
        prepared, model = prepared_and_model()
        prepared.train(mode)
        qfx.calibrate(prepared, [X])
        assert prepared.training is mode
        torch.testing.assert_close(result(prepared), model(X), rtol=0.05, atol=0.05)


def test_copies_keep_the_mode_and_what_was_seen() -> None:
    prepared, _ = prepared_and_model()
    prepared(X)
    before = result(prepared)
    copied = copy.deepcopy(prepared.eval())
    assert not copied.training
    copied(X * 100)
    assert torch.equal(result(copied), before)
    other, _ = prepared_and_model()
    other.load_state_dict(prepared.state_dict())
    assert torch.equal(result(other), before)


def test_a_model_that_saw_data_in_eval_mode_only_says_what_to_do() -> None:
    prepared, _ = prepared_and_model()
    prepared.eval()(X)
    with pytest.raises(qfx.CalibrationError, match=r"again after prepared\.train\(\)"):
        qfx.convert(prepared)


def test_quantized_models_are_in_eval_mode() -> None:
    prepared, _ = prepared_and_model()
    qmodel = qfx.convert(qfx.calibrate(prepared, [X]))
    assert not qmodel.training
    assert not qmodel.reference.training
