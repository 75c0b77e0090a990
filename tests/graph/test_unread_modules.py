"""Modules whose parameters the graph reads keep their class, for parameter groups."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

import qfx
from qfx.capture.capture import capture
from qfx.graph.attributes import Attributes
from qfx.graph.unread_modules import take_away
from tests.cases.flow import randn, seeded

X = randn(2, 4, 8)


class Scale(nn.Module):
    """A norm of the user's own, as many transformers have one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.options = {"decay": 0.0, "axes": [-1]}

    @property
    def decay(self) -> object:
        return self.options["decay"]

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Stays(Scale):
    """Needs what is gone when it is put in a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def train(self, mode: bool = True) -> Stays:
        self.inner.train(mode)
        return self


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(8, 8), Scale()
        self.norm, self.embedding, self.stays = nn.LayerNorm(8), nn.Embedding(4, 8), Stays()

    def forward(self, x: Tensor) -> Tensor:
        tied = self.embedding.weight.sum(0)
        scaled: Tensor = self.stays(self.norm(self.scale(self.linear(x))))
        return scaled * tied


@pytest.mark.parametrize("made_by", ["capture", "qat", "static"])
def test_classes_stay(made_by: str) -> None:
    model = seeded(Net)
    made: nn.Module
    if made_by == "capture":
        made = capture(model, (X,))
    else:
        made = qfx.prepare(model, X, method=made_by, backend="reference")
    kinds = {name: type(made.get_submodule(name)) for name in ("scale", "norm")}
    assert kinds == {"scale": Scale, "norm": nn.LayerNorm}
    assert type(made.get_submodule("stays")) is nn.Module
    assert "Scale()" in repr(made)
    scale = made.get_submodule("scale")
    assert scale.decay == 0.0
    scale.options["axes"].append(0)  # type: ignore[operator,union-attr]
    assert model.scale.options == {"decay": 0.0, "axes": [-1]}
    copied = copy.deepcopy(made).train().eval()
    assert copied.state_dict().keys() == made.state_dict().keys()
    assert type(copied.get_submodule("scale")) is Scale
    undecayed = [n for n, m in made.named_modules() if isinstance(m, (Scale, nn.LayerNorm))]
    assert undecayed == ["scale", "norm"]


def test_training_by_groups() -> None:
    prepared = qfx.prepare(seeded(Net), X, method="qat", backend="reference").train()
    norms = [m for m in prepared.modules() if isinstance(m, (Scale, nn.LayerNorm))]
    plain = {id(p) for m in norms for p in m.parameters()}
    rest = [p for p in prepared.parameters() if id(p) not in plain]
    groups = [
        {"params": rest, "weight_decay": 0.1},
        {"params": [p for m in norms for p in m.parameters()], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    prepared(X).square().mean().backward()
    optimizer.step()
    assert len(plain) == 3
    qfx.convert(prepared)(X)


def test_what_layers_say_of_themselves_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(2), nn.Linear(36, 5))
    prepared = qfx.prepare(model.eval(), torch.randn(2, 3, 8, 8), backend="reference")
    conv, linear = prepared.get_submodule("0"), prepared.get_submodule("3")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    assert (conv.out_channels, conv.stride, linear.in_features) == (4, (1, 1), 36)
    assert "Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)" in repr(prepared)


def test_a_bias_that_is_gone_is_none() -> None:
    model = nn.Linear(4, 4)
    shell = capture(nn.Sequential(model), (torch.randn(2, 4),)).get_submodule("0")
    take_away(shell, "bias")
    assert isinstance(shell, nn.Linear)
    assert shell.bias is None
    assert "bias=False" in repr(shell)
    assert list(shell.state_dict()) == ["weight"]
    assert model.bias is not None
    free = Attributes(capture(nn.Sequential(model), (torch.randn(2, 4),)))
    assert free.add_tensor("0.bias", torch.zeros(4), trainable=False) == "0.bias_1"


@pytest.mark.parametrize("parametrized", [weight_norm, spectral_norm, orthogonal])
def test_parametrized_layers_are_what_they_were_before(parametrized: Any) -> None:
    model = nn.Sequential(parametrized(nn.Linear(8, 8)).eval()).eval()
    captured = capture(model, (X,))
    layer = captured.get_submodule("0")
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, model[0].weight)
    assert torch.equal(captured(X), model(X))
    assert type(model[0]).__name__ == "ParametrizedLinear"


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.first, self.rnn = nn.Linear(8, 8), kind(8, 8, 2, bidirectional=True)
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.rnn(self.first(x))[0])
        return y


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("method", ["static", "qat"])
def test_recurrent_layers_stay_themselves(kind: type[nn.RNNBase], method: str) -> None:
    model = seeded(Recurrent, kind)
    prepared = qfx.prepare(model, X, method=method, backend="reference")
    layer = prepared.get_submodule("rnn")
    assert type(layer) is kind
    assert set(layer.state_dict()) == set(model.rnn.state_dict())
    for made in (copy.deepcopy(prepared), prepared):
        rnn = made.get_submodule("rnn")
        assert isinstance(rnn, kind)
        assert {id(p) for p in rnn._flat_weights} == {id(p) for p in rnn.parameters()}
        made.cpu()
        made.load_state_dict(copy.deepcopy(prepared.state_dict()))
        with torch.no_grad():
            torch.testing.assert_close(made.get_submodule("rnn")(X)[0], model.rnn(X)[0])
    take_away(layer, "bias_hh_l1")
    assert type(layer) is nn.Module


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_train_in_groups(kind: type[nn.RNNBase]) -> None:
    prepared = qfx.prepare(seeded(Recurrent, kind), X, method="qat", backend="reference").train()
    layer = next(m for m in prepared.modules() if isinstance(m, nn.RNNBase))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    before = {name: p.detach().clone() for name, p in prepared.named_parameters()}
    prepared(X).square().mean().backward()
    optimizer.step()
    moved = {n for n, p in prepared.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {f"rnn.{name}" for name, _ in layer.named_parameters()}
    converted = qfx.convert(prepared.eval())
    with torch.no_grad():
        torch.testing.assert_close(converted(X), prepared(X))
