"""Networks of random weights that amplify noise (visformer) came out poor; bisect named a place.

The place was a copy of a residual, made ready for the kernel that adds to it and taken for its
result. In such a network each operation is as exact as in any other, and what the rounding of one
does to the output, noise of that size in the float model does too.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qfx
from qfx import vocab
from qfx.numerics.measures import sqnr
from qfx_passes.accuracy.gptq import Gptq
from tests.cases.flow import less_a_bit, randn, seeded
from tests.support.planted import with_fault

X = randn(4, 3, 32, 32)


class Block(nn.Module):
    """Attention whose softmax picks, and a residual branch of pointwise convolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.fc1, self.fc2 = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, 3, 2, c // 2, h * w).permute(1, 0, 2, 4, 3)
        taken = (16 * q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.proj(taken.permute(0, 1, 3, 2).reshape(b, c, h, w))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(16, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@torch.no_grad()
def shaken(model: nn.Module) -> float:
    """SQNR of the float model against itself with noise of 40 dB in each weight."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for weight in other.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.add_(noise * weight.square().mean().sqrt() / 100)
    return sqnr(model(X), other(X))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "x86", "fbgemm"])
def test_nobody_is_accused_of_what_the_model_amplifies(backend: str) -> None:
    model = seeded(Net)
    made = qfx.quantize(model, X, backend=backend)
    float_noise = shaken(model)
    assert float_noise < 20  # of 40: it amplifies
    with torch.no_grad():
        assert sqnr(model(X), made(X)) > less_a_bit(float_noise, backend) - 3
    found = qfx.bisect(model, made, [X])
    assert not found.stands_out, str(found)
    assert found.sqnr > less_a_bit(32, backend)
    assert str(found).startswith("No operation stands out")


@pytest.mark.slow
def test_gptq_leaves_alone_what_it_would_move_that_far() -> None:
    """Its ridge step takes off what arrives as noise, which bisect would name, and rightly."""
    model = seeded(Net)
    pipeline = qfx.pipelines.static(effort="high").replace("gptq", Gptq(sweeps=0, windows=32))
    made = qfx.quantize(model, X, backend="reference", pipeline=pipeline)
    reasons = [each.reason for each in made.history["gptq"].near_misses]
    assert any("further from the weight than their bits explain" in each for each in reasons)
    found = qfx.bisect(model, made, [X])
    assert not found.stands_out, str(found)


def test_a_kernel_that_is_wrong_there_is_named() -> None:
    model = seeded(Net)
    wrong = with_fault("x86", vocab.LINEAR, torch.neg)
    made = qfx.quantize(model, X, backend=wrong, check=False)
    found = qfx.bisect(model, made, [X])
    assert found.site is not None
    assert (found.site.node, found.pass_name, found.stands_out) == ("head", "lower", True)
    assert found.kernel == "onednn.qlinear"


class Difference(nn.Module):
    """A small difference of what is large, so that the reference form is off by a fifth already."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        self.second.load_state_dict(self.first.state_dict())
        with torch.no_grad():
            self.second.weight += 0.003 * torch.randn(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(50 * (self.first(x) - self.second(x)))


class Quotient(nn.Module):
    """Divided by what may be nearly nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x) / (self.second(x).abs() + 0.02))


def a_tenth_more(x: Tensor) -> Tensor:
    return x * 1.1


@pytest.mark.parametrize("kind", [Difference, Quotient])
def test_a_kernel_that_is_a_little_wrong_is_named_where_all_else_is_far_off(
    kind: type[nn.Module],
) -> None:
    model, x = seeded(kind), randn(8, 5, 16)
    sound = qfx.bisect(model, qfx.quantize(model, x, backend="x86"), [x])
    assert not sound.stands_out
    wrong = with_fault("x86", vocab.LINEAR, a_tenth_more)
    found = qfx.bisect(model, qfx.quantize(model, x, backend=wrong, check=False), [x])
    assert found.site is not None
    assert (found.site.node, found.pass_name, found.stands_out) == ("first", "lower", True)
    assert found.sqnr == pytest.approx(20, abs=0.5)
