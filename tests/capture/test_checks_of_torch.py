"""``torch._check(x.shape[0] > 0)`` was refused: a condition that is no bool.

By sizes such a check is guarded; by the contents of tensors the graph asserts it in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded

Check = Callable[[Tensor], object]

TORCH: Any = torch  # which declares no types for these


class Checks(nn.Module):
    def __init__(self, check: Check) -> None:
        super().__init__()
        self.linear, self.check = nn.Linear(8, 8), check

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        result: Tensor = self.linear(x)
        return result


BY_SIZES: dict[str, Check] = {
    "check": lambda x: TORCH._check(x.shape[0] < 5),
    "with a message": lambda x: TORCH._check(x.shape[0] < 5, lambda: f"{x.shape[0]} rows"),
    "value": lambda x: TORCH._check_value(x.shape[0] < 5),
    "index": lambda x: TORCH._check_index(x.size(0) < 5, lambda: "too many"),
    "type": lambda x: TORCH._check_type(x.size(0) < 5),
    "size": lambda x: TORCH._check(x.shape[0] >= 0) or TORCH._check(len(x) != 6),
}


@pytest.mark.parametrize("how", BY_SIZES)
def test_checks_of_sizes_are_guards(how: str) -> None:
    model = seeded(lambda: Checks(BY_SIZES[how]))
    quantized = qfx.quantize(model, randn(2, 8))
    for rows in (2, 1, 4):
        x = randn(rows, 8) / 4
        assert (quantized(x) - model(x)).abs().max() < 0.1
    with pytest.raises(qfx.ConfigError, match=r"test_checks_of_torch.py:\d+ = True"):
        quantized(randn(6, 8))


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed")
def test_a_check_that_always_holds_does_no_harm() -> None:
    model = seeded(lambda: Checks(lambda x: TORCH._check_is_size(x.shape[0])))
    quantized = qfx.quantize(model, randn(2, 8))
    for rows in (1, 7):
        x = randn(rows, 8) / 4
        assert (quantized(x) - model(x)).abs().max() < 0.1


@pytest.mark.parametrize(
    "check",
    [
        lambda x: TORCH._check(x.max().item() < 100),
        lambda x: TORCH._check_tensor_all(x < 100),
    ],
)
def test_checks_of_contents_are_asserted(check: Check) -> None:
    captured, _ = qfx.run_passes(seeded(lambda: Checks(check)), [], randn(2, 8))
    captured(randn(5, 8))
    with pytest.raises(AssertionError, match="a check of the model fails"):
        captured(torch.full((2, 8), 200.0))
    quantized = qfx.quantize(seeded(lambda: Checks(check)), randn(2, 8))
    with pytest.raises(
        qfx.ConfigError, match=r"asserts what these inputs do not hold: a check of the model fails"
    ):
        quantized(torch.full((2, 8), 200.0))


def test_a_check_that_fails_is_an_error_of_the_model() -> None:
    model = seeded(lambda: Checks(lambda x: TORCH._check(x.shape[0] > 5, lambda: "too few rows")))
    with pytest.raises(qfx.ConfigError, match="too few rows"):
        qfx.quantize(model, randn(2, 8))
    assert TORCH._check_with.__module__ == "torch"
