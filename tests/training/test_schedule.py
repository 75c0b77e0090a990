"""Freezing by hand and by schedule."""

from __future__ import annotations

import pytest
from torch import nn

import qfx
from tests.cases.flow import randn, seeded
from tests.cases.test_case_qat import Net, prepared


def frozen(model: qfx.PreparedModel) -> tuple[bool, bool]:
    """Whether observers and batch-norm are frozen."""
    observers = {f.observer_enabled for f in model.fake_quants.values()}
    (enabled,) = observers
    return not enabled, not model.bn1.training


def test_a_schedule_freezes_at_its_steps() -> None:
    model = prepared(seeded(Net).train())
    schedule = qfx.QATSchedule(model, freeze_observers=2, freeze_batchnorm=3)
    seen = []
    for _ in range(4):
        seen.append(frozen(model))
        schedule.step()
    assert seen == [(False, False), (False, False), (True, False), (True, True)]
    again = qfx.QATSchedule(prepared(seeded(Net).train()), freeze_observers=5)
    again.load_state_dict(schedule.state_dict())
    assert again.steps == 4
    again.step()
    assert frozen(again._prepared) == (True, False)


def test_a_schedule_may_start_frozen_or_never() -> None:
    model = prepared(seeded(Net).train())
    qfx.QATSchedule(model, freeze_observers=0)
    assert frozen(model) == (True, False)


@pytest.mark.parametrize("wrap", [nn.Sequential, nn.DataParallel])
def test_wrapped_models_are_found(wrap: type[nn.Module]) -> None:
    model = prepared(seeded(Net).train())
    qfx.freeze_observers(wrap(model))
    qfx.freeze_batchnorm(wrap(model))
    assert frozen(model) == (True, True)


def test_what_is_not_in_training_is_refused() -> None:
    x = randn(2, 4)
    static = qfx.prepare(nn.Linear(4, 4).eval(), (x,), backend="reference")
    with pytest.raises(qfx.ConfigError, match="not a model prepared for calibration"):
        qfx.freeze_observers(static)
    with pytest.raises(qfx.ConfigError, match="not a Linear"):
        qfx.freeze_batchnorm(nn.Linear(4, 4))
    with pytest.raises(qfx.ConfigError, match="freeze_observers=-1: give a number of steps"):
        qfx.QATSchedule(prepared(seeded(Net)), freeze_observers=-1)
