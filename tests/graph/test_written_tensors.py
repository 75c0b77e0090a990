"""Which tensors running a graph may write to: not those of layers of PyTorch at inference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx.capture.capture import capture
from qfx.graph.state import written_tensors
from qfx.verification import floats

NAMES = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def test_norms_write_in_training_only() -> None:
    x = torch.randn(2, 3, 8, 8)
    captured = capture(net().eval(), (x,))
    assert not written_tensors(captured)
    captured.get_submodule("1").train()
    assert set(written_tensors(captured)) == NAMES


def test_norms_with_hooks_may_write_at_any_time() -> None:
    captured = capture(net().eval(), (torch.randn(2, 3, 8, 8),))
    norm = captured.get_submodule("1")
    norm.register_forward_hook(lambda module, args, y: module.running_mean.add_(1.0))
    assert set(written_tensors(captured)) == NAMES


def test_a_norm_is_compared_with_the_float_model_in_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The captured graph is run again only where state could make a second run differ."""
    runs, once = [], floats.outcome
    monkeypatch.setattr(floats, "outcome", lambda *a, **k: runs.append(a[0]) or once(*a, **k))
    x = torch.randn(2, 3, 8, 8)
    qmodel = qfx.quantize(net().eval(), x)
    assert len(runs) == 1
    assert qmodel.report.checked is not None
    assert qmodel.report.checked.float_graph > 100
