"""Batches of nothing: the result has as many dims as the float model's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import qfx
from tests.cases.flow import Branches, randn, seeded, sqnr

CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 8, 3), (2, 4, 7)),
    "strided": (lambda: nn.Conv1d(4, 8, 3, stride=2), (2, 4, 7)),
    "up": (lambda: nn.ConvTranspose1d(4, 8, 3, stride=2), (2, 4, 7)),
    "two": (lambda: nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 8, 3, stride=2), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(4, 8, 2), (2, 4, 3, 3, 3)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_nothing(name: str, method: str) -> None:
    """onednn's conv1d gave four dims."""
    if (name, method) == ("up", "dynamic"):
        pytest.skip("no kernel")
    make, shape = CONVOLUTIONS[name]
    model, x = seeded(make), randn(*shape)
    qmodel = qfx.quantize(model, x, backend="x86", method=method)
    assert qmodel(x[:0]).shape == model(x[:0]).shape
    assert sqnr(model(x), qmodel(x)) > 30


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_compiled_convolutions_in_1d(method: str) -> None:
    """Their packed weights have four dims, which the measured form's shapes did not expect."""
    torch._dynamo.reset()
    makers, shapes = zip(
        *(CONVOLUTIONS[name] for name in ("conv1d", "strided", "two")), strict=True
    )
    x = [randn(*shape) for shape in shapes]
    qmodel = qfx.quantize(Branches(map(seeded, makers)), (x,), backend="x86", method=method)
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    for inputs in (x, [each[:0] for each in x]):
        assert all(map(torch.equal, compiled(inputs), qmodel(inputs)))


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_linear_layers_of_nothing_and_of_a_vector(backend: str, method: str) -> None:
    """oneDNN's of measured inputs gave two dims, and quantized ones take no vector."""
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)))
    qmodel = qfx.quantize(model, randn(2, 3, 16), backend=backend, method=method)
    for shape in ((0, 3, 16), (3, 0, 16), (0, 16), (16,)):
        x = randn(*shape)
        assert qmodel(x).shape == model(x).shape, shape
        assert not x.numel() or sqnr(model(x), qmodel(x)) > 25, shape
