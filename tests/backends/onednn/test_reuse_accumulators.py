"""Residuals that lie in memory otherwise than the result: "sum" kernels took them as they were."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr
from tests.passes.stages import change

X = randn(2, 4, 8, 8)
Forward = Callable[[nn.Module, Tensor], Tensor]


class Residual(nn.Module):
    def __init__(self, forward: Forward, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2)
        self.last_conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2)
        self.linear, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.how = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def conv_result_float(m: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = m.conv(x)
    return m.linear(y) + y


def conv_result(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(conv_result_float(m, x))


def linear_read_twice(m: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = m.last(x)
    return m.last(m.linear(y) + y) * y


def permuted_input(m: nn.Module, x: Tensor) -> Tensor:
    return m.linear(x) + x.permute(0, 1, 3, 2)


def linear_result(m: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = m.linear(x)
    return m.conv(y) + y


def linear_result_integer(m: nn.Module, x: Tensor) -> Tensor:
    return m.last_conv(linear_result(m, x))


def conv_after_shuffle(m: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = m.conv(x)
    shuffled = y.view(y.shape[0], 2, 2, 8, 8).transpose(1, 2).flatten(1, 2)
    return m.last_conv(m.conv(shuffled) + y)


@pytest.mark.sweep
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    "forward",
    [
        *(conv_result_float, conv_result, linear_read_twice, permuted_input),
        *(linear_result, linear_result_integer, conv_after_shuffle),
    ],
)
def test_residual_of_another_layout(forward: Forward, kernel: int) -> None:
    model = seeded(Residual, forward, kernel)
    qmodel = qfx.quantize(model, X, backend="x86")
    for x in (X, X.to(memory_format=torch.channels_last), X[:1]):
        assert sqnr(model(x), qmodel(x)) > 25


class TwoBranches(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.last = first, second, last

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total: Tensor = self.last(self.first(x) + self.second(y))
        return total


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (seeded(lambda: TwoBranches(*(nn.Linear(8, 8) for _ in range(3)))), (1, 8)),
        (seeded(lambda: TwoBranches(*(nn.Conv2d(4, 4, 1) for _ in range(3)))), (1, 4, 8, 8)),
    ],
)
def test_batches_that_broadcast_only_later(model: nn.Module, shape: tuple[int, ...]) -> None:
    data = [tuple(randn(*shape, seed=2 * i + j) for j in (0, 1)) for i in range(4)]
    qmodel = qfx.quantize(model, data[0], backend="x86", calibration_data=data)
    many, one = torch.cat([x for x, _ in data]), data[0][1]
    for pair in ((many, one), (one, many), (many, many)):
        expected = model(*pair)
        assert qmodel(*pair).shape == expected.shape
        assert sqnr(expected, qmodel(*pair)) > 15


AFTER = """\
- %conv_add_1 : f32[2,4,8,8] = clone_channels_last(%floats)
- %conv_add : f32[2,4,8,8] = conv2d_add(%codes, %conv_add_1)
+ %conv_add : f32[2,4,8,8] = conv2d_add(%codes, %floats)
"""


def test_the_graph_before_and_after() -> None:
    model = seeded(lambda: Residual(linear_result, 3))
    stages = qfx.quantize(model, X, backend="x86").history
    shown = re.sub(r"qfx\.backends\.onednn\.\w+\.", "", change(stages, "reuse-accumulators"))
    read = re.sub(r"conv2d_add\((%\w+), .*(%\w+), @conv\.bias.*", r"conv2d_add(\1, \2)", shown)
    codes, floats = re.findall(r"%linear_\d+", read.splitlines()[-1])  # a clamp more for 7 bits
    assert read.replace(codes, "%codes").replace(floats, "%floats") == AFTER
