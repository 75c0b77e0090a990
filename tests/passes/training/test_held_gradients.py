"""Gradients that forward holds back, with ``torch.no_grad()`` or ``detach``: training does, too."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import vocab
from tests.cases.flow import randn, seeded, sqnr

X = randn(16, 8)


class Net(nn.Module):
    def __init__(self, middle: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.level = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("mean", torch.ones(8))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self, self.first(x)))


def normalized(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        most = y.abs().amax(1, keepdim=True)
    return y / most


def frozen(net: Net, y: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        z = net.last(y).relu()
    return y + z


def rounded(net: Net, y: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        change = y.round() - y
    return y + change


@torch.no_grad()
def _spread(y: Tensor) -> tuple[Tensor, Tensor]:
    return y.mean(1, keepdim=True), y.std(1, keepdim=True)


def decorated(net: Net, y: Tensor) -> Tensor:
    mean, spread = _spread(y)
    return (y - mean) / spread


def named_parts(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        most = y.abs().max(1, keepdim=True)
    return y / most.values


def enabled_again(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        mean = y.mean()
        with torch.enable_grad():
            z = y * 2
    return z - mean


def averaged(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        net.mean.mul_(0.9).add_(y.abs().mean(0), alpha=0.1)
    return y / net.mean


def set_in_part(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        net.mean[:4] = y.abs().mean(0)[:4]
    return y / net.mean


def clamped(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        net.level.clamp_(0, 1)
    return y * net.level


def of_weights(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        size = net.last.weight.norm()
    return y / size


def detached(net: Net, y: Tensor) -> Tensor:
    return y - y.detach().mean() + y.data.amax()


def checkpointed(net: Net, y: Tensor) -> Tensor:
    def run(y: Tensor) -> Tensor:
        with torch.no_grad():
            mean = y.mean()
        return torch.relu(y - mean)

    return checkpoint(run, y, use_reentrant=True)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, y: Tensor) -> Tensor:
        return y * y

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        raise NotImplementedError


def of_a_function(net: Net, y: Tensor) -> Tensor:
    return Square.apply(y)


HELD = [
    *(normalized, frozen, rounded, decorated, named_parts, enabled_again, averaged, set_in_part),
    *(clamped, of_weights, detached, checkpointed),
]


def grads(model: nn.Module) -> dict[str, Tensor | None]:
    """After three steps that change nothing, so that what holds on to an earlier one is found."""
    for _ in range(3):
        model.zero_grad()
        model(X).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def trained(middle: Callable[[Net, Tensor], Tensor]) -> qfx.PreparedModel:
    model = seeded(Net, middle)
    return qfx.prepare(model, X, method="qat", backend="x86").train()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of checkpoints
@pytest.mark.parametrize("middle", HELD)
def test_gradients_are_those_of_the_model(middle: Callable[[Net, Tensor], Tensor]) -> None:
    expected = grads(seeded(Net, middle))
    with warnings.catch_warnings():
        warnings.simplefilter("error", qfx.QfxWarning)
        model = trained(middle)
    found = grads(model)
    for name, grad in expected.items():
        if grad is None:
            assert found.get(name) is None, name
        elif grad.norm() > 1e-3:
            assert sqnr(grad, found[name]) > 9, name
    quantized = qfx.convert(model.eval())
    with torch.no_grad():
        assert sqnr(seeded(Net, middle)(X), quantized(X)) > 20 or middle is averaged


def test_a_function_that_defines_its_backward_is_differentiated() -> None:
    found = grads(trained(of_a_function))["first.weight"]
    expected = grads(seeded(Net, lambda net, y: y * y))["first.weight"]
    assert expected is not None
    assert sqnr(expected, found) > 9


def test_nothing_is_left_of_it_in_integers() -> None:
    model = trained(lambda net, y: F.relu(y.detach()[:, :8]))
    assert vocab.DETACH in {node.target for node in model.graph.nodes}
    model(X)
    quantized = qfx.convert(model.eval())
    assert vocab.DETACH not in {node.target for node in quantized.reference.graph.nodes}
    (site,) = [s for s in quantized.report.sites if s.node == "detach"]
    assert site.reason == "removed"
    assert quantized.report.coverage == 1.0


def _unless_training(net: nn.Module) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if net.training else torch.no_grad()


def by_a_helper(net: Net, y: Tensor) -> Tensor:
    with _unless_training(net):
        return y * 2


def by_its_flag(net: Net, y: Tensor) -> Tensor:
    with contextlib.nullcontext() if net.training else torch.no_grad():
        return y * 2


def by_gradients(net: Net, y: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    mean = y.mean()
    torch.set_grad_enabled(before)
    return y - mean


def written(net: Net, y: Tensor) -> Tensor:
    y = y * 1
    with torch.no_grad():
        y.clamp_(-1, 1)
    return y


@pytest.mark.parametrize("middle", [by_a_helper, by_its_flag, by_gradients, written])
def test_gradients_pass_where_training_may_want_them(
    middle: Callable[[Net, Tensor], Tensor],
) -> None:
    with pytest.warns(qfx.QfxWarning) as caught:
        model = trained(middle)
    (told,) = [str(w.message) for w in caught if "holds gradients back" in str(w.message)]
    first = middle.__code__.co_firstlineno
    assert any(f"test_held_gradients.py:{first + n}" in told for n in range(5)), told
    assert "x.detach()" in told
    assert grads(model)["first.weight"] is not None


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    kinds = torch.no_grad, torch.enable_grad, torch.inference_mode, torch.set_grad_enabled
    before = [dict(vars(kind)) for kind in kinds]
    yield
    assert [dict(vars(kind)) for kind in kinds] == before


def test_torch_is_as_it_was() -> None:
    with _unchanged():
        trained(normalized)
        with pytest.raises((qfx.ConfigError, qfx.CaptureError)):
            trained(lambda net, y: y.reshape(3, 1))


def test_other_methods_have_no_use_for_it() -> None:
    quantized = qfx.quantize(seeded(Net, normalized), X)
    assert not [s for s in quantized.report.sites if "detach" in s.node]
