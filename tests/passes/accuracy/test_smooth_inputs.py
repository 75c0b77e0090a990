"""smooth-inputs: a product before a linear layer evens out the channels that it reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.history.events import NearMiss
from tests.cases.flow import randn, seeded
from tests.passes.stages import change

DATA = [randn(4, 5, 16, seed=i) for i in range(4)]

AFTER = """\
- %observer_1 : f32[4,5,24] = HistogramObserver[@observer_1](%up_gelu)
- %input_mean_1 : f32[4,5,24] = ChannelMean[@input_mean_1](%observer_1)
- %down : f32[4,5,16] = linear(%input_mean_1, @down.weight, @down.bias)
+ %up_gelu_1 : f32[4,5,24] = mul(%up_gelu, @up_gelu_scale)
+ %observer_1_1 : f32[4,5,24] = MinMaxObserver[@observer_1_1](%up_gelu_1)
+ %input_mean_1 : f32[4,5,24] = ChannelMean[@input_mean_1](%observer_1_1)
+ %down : f32[4,5,16] = linear(%input_mean_1, @down.weight_1, @down.bias)
"""


class Widened(nn.Module):
    """A GELU of which some channels are ``spread`` times as large, and a layer that reads it."""

    def __init__(self, spread: float, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.up, self.down, self.activation = nn.Linear(16, 24), nn.Linear(24, 16), activation
        with torch.no_grad():
            self.up.weight[::8] *= spread

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class ReadTwice(Widened):
    """The same, where something else reads the GELU, too."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(x))
        z: Tensor = self.down(y) + y.sum()
        return z


def history(make: Callable[[], nn.Module]) -> qfx.History:
    options = {"calibration_data": DATA, "backend": "reference"}
    return qfx.quantize(seeded(make), DATA[0], **options).history  # type: ignore[arg-type]


def misses(stages: qfx.History) -> list[NearMiss]:
    return list(stages["smooth-inputs"].near_misses)


def test_the_graph_before_and_after() -> None:
    stages = history(lambda: Widened(30.0))
    assert change(stages, "smooth-inputs") == AFTER
    assert misses(stages) == []
    rules = {event.rule.partition(",")[0] for event in stages["smooth-inputs"].events}
    assert all(rule.startswith("smooth-inputs/") for rule in rules)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Widened(1.0), "no scale halves the error of what reads it"),
        (lambda: ReadTwice(30.0), "others read it, too"),
    ],
    ids=["channels are alike", "read twice"],
)
def test_what_stays_says_why(make: Callable[[], nn.Module], reason: str) -> None:
    stages = history(make)
    assert change(stages, "smooth-inputs") == ""
    (miss,) = misses(stages)
    assert miss.rule == "smooth-inputs/input"
    assert miss.reason.partition(" (x ")[0] == reason


def test_other_activations_are_not_looked_at() -> None:
    stages = history(lambda: Widened(30.0, F.relu))
    assert change(stages, "smooth-inputs") == ""
    assert misses(stages) == []
