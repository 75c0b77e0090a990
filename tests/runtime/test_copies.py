"""Copies, conversions and pickles of what qfx hands out."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import fx, nn

import qfx

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BACKENDS = sorted({"x86", "fbgemm", "reference"} & set(qfx.backends.available()))


def net() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()


@pytest.mark.parametrize("backend", BACKENDS)
def test_shallow_copies_are_whole(backend: str) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    copied = copy.copy(qmodel)
    assert type(copied).__mro__[1] is qfx.QuantizedModel
    assert copied.report is qmodel.report
    assert copied.history is qmodel.history
    assert copied.backend == backend
    assert torch.equal(copied(X), qmodel(X))
    assert {id(b) for b in copied.buffers()} == {id(b) for b in qmodel.buffers()}


def test_shallow_copies_of_prepared_models_share_observers() -> None:
    prepared = qfx.prepare(net(), X, backend="reference")
    copied = copy.copy(prepared)
    qfx.calibrate(copied, [X])
    assert torch.equal(qfx.convert(prepared)(X), qfx.convert(copied)(X))


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_and_shared_memory(backend: str) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    expected = qmodel(X)
    torch.testing.assert_close(qmodel.to(memory_format=torch.channels_last)(X), expected)
    torch.testing.assert_close(qmodel.share_memory()(X), expected)


class Breaks(qfx.Pass):
    name = "breaks"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        raise ValueError("no")


def test_pass_errors_can_be_pickled() -> None:
    with pytest.raises(qfx.PassError) as raised:
        qfx.run_passes(net(), [Breaks()], X)
    loaded = pickle.loads(pickle.dumps(raised.value))
    assert type(loaded) is qfx.PassError
    assert (str(loaded), loaded.pass_name) == (str(raised.value), "breaks")
    assert loaded.graph_module is None


@torch.fx.wrap
def averaged(kept: torch.Tensor, seen: torch.Tensor) -> None:
    kept.lerp_(seen.mean(0), 0.5)


class Remembers(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.head, self.how = nn.Linear(4, 8), nn.Linear(8, 2), how
        self.register_buffer("kept", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if self.how == "copy":
            self.kept.copy_(y[0])
        if self.how == "setitem":
            self.kept[:4] = y[0, :4]
        if self.how == "wrapped":
            averaged(self.kept, y)
        return self.head(y.relu())


@pytest.mark.parametrize("how", ["copy", "setitem", "wrapped"])
def test_models_that_kept_what_they_computed_in_training(how: str) -> None:
    """Such buffers hang on autograd's record, and torch's deepcopy refuses them."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    prepared = qfx.prepare(Remembers(how).train(), x, method="qat", backend="reference").train()
    prepared(x).sum().backward()
    kept = dict(prepared.named_buffers())["kept"]
    assert not kept.is_leaf
    assert kept.any()
    copied = copy.deepcopy(prepared)
    assert torch.equal(dict(copied.named_buffers())["kept"], kept)
    assert not kept.is_leaf  # the original is as it was
    copied(x).sum().backward()
    expected = prepared.eval()(x)
    assert torch.equal(qfx.convert(prepared)(x), expected)
