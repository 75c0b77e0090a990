"""What the float model returns contiguous, the quantized one does: callers view it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, targets
from tests.passes.stages import change


class Two(nn.Module):
    """Of a dict, one tensor is contiguous and one is not; and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor], int]:
        y = self.conv(x)
        return {"y": y, "last": y.permute(0, 2, 3, 1)}, [y, x], y.shape[0]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 8, 3), (2, 4, 8)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()), (2, 4, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(4, 8, 3), (2, 4, 8, 8, 8)),
    "up": (lambda: nn.ConvTranspose2d(4, 8, 3, stride=2), (2, 4, 8, 8)),
    "pool": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.MaxPool2d(2)), (2, 4, 8, 8)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", MODELS)
def test_results_can_be_viewed(name: str, backend: str) -> None:
    make, shape = MODELS[name]
    model, x = seeded(make), randn(*shape)
    methods = ["static"] if backend != "x86" or name == "up" else ["static", "dynamic"]
    for method in methods:
        qmodel = qfx.quantize(model, x, backend=backend, method=method)
        for inputs in (x, x[:1], torch.cat([x, x])):
            assert torch.equal(qmodel(inputs).view(-1), qmodel(inputs).reshape(-1))


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_only_what_was_contiguous_is_made_so(backend: str) -> None:
    model, x = seeded(Two), randn(2, 4, 8, 8)
    qmodel = qfx.quantize(model, x, backend=backend)
    named, listed, count = qmodel(x)
    assert named["y"].is_contiguous()
    assert named["y"] is listed[0]
    assert listed[1] is x
    assert count == 2
    assert named["last"].permute(0, 3, 1, 2).shape == named["y"].shape
    assert targets(qmodel).count("contiguous") == 1


def test_a_model_that_returns_channels_last_keeps_it() -> None:
    model = seeded(lambda: nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last))
    x = randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert model(x).is_contiguous(memory_format=torch.channels_last)
    qmodel = qfx.quantize(model, x, backend="x86")
    assert qmodel(x).is_contiguous(memory_format=torch.channels_last)
    assert "contiguous" not in targets(qmodel)


AFTER = """\
- return ({'y': %conv, 'last': %permute}, [%conv, %x], %getitem)
+ %conv_2 : f32[2,8,6,6] = .contiguous(%conv)
+ return ({'y': %conv_2, 'last': %permute}, [%conv_2, %x], %getitem)
"""


@pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")
def test_the_graph_before_and_after() -> None:
    stages = qfx.quantize(seeded(Two), randn(2, 4, 8, 8), backend="x86").history
    assert change(stages, "keep-contiguous") == AFTER
