"""What users hold after quantizing: state, copies and constants."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import qfx


def _quantized(backend: str) -> tuple[qfx.QuantizedModel, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    return qfx.quantize(model, x, backend=backend), x


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_load_state_dict_is_refused(backend: str) -> None:
    model, _ = _quantized(backend)
    state = {name: tensor for name, tensor in model.named_buffers()}
    with pytest.raises(qfx.BackendError, match=r"qfx\.load reads"):
        model.load_state_dict(state)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_state_dict_says_that_it_does_not_hold_the_model(backend: str) -> None:
    model, _ = _quantized(backend)
    for each in (model, copy.deepcopy(model), nn.Sequential(nn.Linear(2, 2), model)):
        with pytest.warns(qfx.QfxWarning, match="lacks what is a part of its graph") as caught:
            each.state_dict()
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_who_would_train_it_is_told_how_and_a_parent_that_trains_is_not() -> None:
    """Warnings are errors here."""
    model, x = _quantized("x86")
    with pytest.warns(qfx.QfxWarning, match=r'nothing to train.* method="qat"') as caught:
        assert model.train() is model
    assert caught[0].filename == __file__
    assert not model.eval().training
    parent = nn.Sequential(model, nn.Linear(5, 2)).train()
    parent(x).sum().backward()
    assert model.training


@pytest.mark.slow
def test_what_pytorch_asks_of_the_state_is_no_call_of_the_user() -> None:
    """Warnings are errors here."""
    model, x = _quantized("x86")
    expected = model(x)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert torch.equal(averaged(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert torch.equal(torch.compile(model, backend="eager")(x), expected)


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_load_state_dict_of_a_parent_is_refused(backend: str) -> None:
    model, _ = _quantized(backend)
    parent = nn.Sequential(nn.Linear(2, 2), nn.Sequential(model))
    state = {"0.weight": parent[0].weight, "0.bias": parent[0].bias, "1.0.3.weight": torch.ones(5)}
    with pytest.raises(qfx.BackendError, match=r"at '1\.0'.*leave out what begins with '1\.0\.'"):
        parent.load_state_dict(state)
    own = {name: torch.zeros_like(value) for name, value in state.items() if name[0] == "0"}
    parent.load_state_dict(own, strict=False)
    assert not parent[0].weight.any()


def test_constants_are_read_without_getattr() -> None:
    model, _ = _quantized("x86")
    read = {str(n.target) for n in model.graph.nodes if n.op == "get_attr"}
    assert read
    assert read <= set(vars(model))
    assert all("." not in name for name in read)


def test_nothing_requires_grad() -> None:
    model, x = _quantized("x86")
    assert not any(p.requires_grad for p in (*model.parameters(), *model.reference.parameters()))
    assert not model(x).requires_grad


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_a_copy_shares_no_plain_tensor(backend: str) -> None:
    model, x = _quantized(backend)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), model(x))
    mine = {t.data_ptr() for t in model.reference.state_dict().values()}
    assert not mine & {t.data_ptr() for t in copied.reference.state_dict().values()}
