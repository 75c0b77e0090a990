"""Faults planted in kernels that take and hand out float: dynamic and weight-only ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.backends import Backend
from qfx.errors import CoverageError
from qfx.verification.allowances import off_in_part, recurrent_detail
from tests.support.planted import with_fault

BACKENDS = ["x86", "fbgemm", "qnnpack"]


def channel(y: Tensor) -> Tensor:
    y = y.clone()
    y[..., 3] *= 1.03
    return y


def one_row(y: Tensor) -> Tensor:
    y = y.clone()
    y.flatten(0, -2)[0] *= 1.05
    return y


def a_little(y: Tensor) -> Tensor:
    return y * 1.005


def output(y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (y[0] * 1.03, *y[1:])


def put_back(model: nn.Module, x: Tensor, backend: Backend, method: str) -> str:
    """What the report says of what was put back; all is, so that nothing is quantized."""
    with pytest.raises(CoverageError, match="kernel-failed-check") as raised:
        qfx.quantize(model, x, backend=backend, method=method)
    return str(raised.value)


@pytest.mark.sweep
@pytest.mark.parametrize("corrupt", [channel, one_row, a_little])
@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_linear_is_put_back(
    backend: str, method: str, corrupt: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    x = torch.randn(64, 64)
    said = put_back(model, x, with_fault(backend, vocab.LINEAR, corrupt, method=method), method)
    assert "row or channel" in said


@pytest.mark.parametrize("corrupt", [channel, a_little])
def test_a_wrong_embedding_is_put_back(corrupt: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randint(50, (4, 6))
    backend = with_fault("x86", vocab.EMBEDDING, corrupt, method="weight_only")
    said = put_back(nn.Embedding(50, 16).eval(), x, backend, "weight_only")
    assert "row or channel" in said


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_recurrent_layer_is_put_back(backend: str) -> None:
    torch.manual_seed(0)
    faulty = with_fault(backend, vocab.LSTM, output, method="dynamic")
    said = put_back(nn.LSTM(8, 8).eval(), torch.randn(5, 2, 8), faulty, "dynamic")
    assert "off by a factor of 1.03" in said


@pytest.mark.parametrize("backend", BACKENDS)
def test_either_code_is_right_midway_between_two(backend: str) -> None:
    """Half of the inputs lie midway, or a bit beside it, where kernels round as they like."""
    torch.manual_seed(0)
    codes = torch.randint(-120, 120, (64, 16)) + 0.5 * torch.randint(2, (64, 16))
    x = codes * (2.0 / 255) * 1.0000001
    x[0, :2] = torch.tensor([-1.0, 1.0])
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    qmodel = qfx.quantize(model, x, backend=backend, method="dynamic")
    assert [site.decision for site in qmodel.report.sites] == ["quantized"]


def test_errors_are_measured_by_row_and_channel() -> None:
    exact = torch.ones(4, 8)
    exact[:, 3] = 0.1
    wrong = exact.clone()
    wrong[2, 3] += 0.01
    assert off_in_part(wrong, exact) == pytest.approx(0.1)
    assert off_in_part(wrong, exact, allowed=torch.full((4, 8), 0.02)) == 0.0
    assert off_in_part(wrong, exact[:3]) == torch.inf
    wrong[0, 0] = torch.nan
    assert off_in_part(wrong, exact) == torch.inf


def test_roundings_favour_no_direction() -> None:
    torch.manual_seed(0)
    exact = torch.randn(40, 16)
    rounded = exact + 0.01 * torch.randn(40, 16)
    assert recurrent_detail(rounded, exact) == ""
    assert "factor" in recurrent_detail(rounded * 1.02, exact)
    assert "factor" in recurrent_detail(channel(rounded), exact)
    assert "dB" in recurrent_detail(-rounded, exact)
