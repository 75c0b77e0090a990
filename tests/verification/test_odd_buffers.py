"""State that is not plain numbers is no difference: NaN, none, halves, views, counters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx


class OddBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("missing", torch.tensor([math.nan, 1.0]))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("f16", torch.randn(4).half())
        self.register_buffer("bf16", torch.randn(4).bfloat16())
        self.register_buffer("complex", torch.tensor([complex(math.nan, 1.0)]))
        self.register_buffer("view", torch.full((1, 4), math.nan).expand(3, 4))

    def forward(self, x: Tensor) -> dict[str, Any]:
        self.calls.add_(1)
        return {
            "y": self.fc(x) + self.calls,
            "state": (self.empty, self.flag, self.missing, self.complex),
            "halves": (self.f16 + 1, self.bf16 * 2),
            "numbers": (torch.nan_to_num(self.view), torch.nan_to_num(self.missing)),
        }


@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_odd_buffers_are_kept(backend: str, method: str) -> None:
    model, x = OddBuffers().eval(), torch.linspace(-1, 1, 12).reshape(3, 4)
    qmodel = qfx.quantize(model, x, backend=backend, method=method)
    with torch.no_grad():
        expected, actual = model(x), qmodel(x)
    y, exact = actual.pop("y"), expected.pop("y")
    assert float((y - exact).abs().max()) < 0.02
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert int(qmodel.get_buffer("calls")) == 1


def test_arguments_with_nan_are_not_taken_for_overwritten() -> None:
    model, x = OddBuffers().eval(), torch.linspace(-1, 1, 12).reshape(3, 4)
    x[0, 0] = math.nan
    passes = [qfx.get_pass("canonicalize")(), qfx.get_pass("fold-constants")()]
    graph_module, _ = qfx.run_passes(model, passes, x)
    torch.testing.assert_close(graph_module(x), model(x), equal_nan=True)
