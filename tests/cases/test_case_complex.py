"""Complex numbers: what reads them stays float and says so; what is real is quantized."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr


class Spectral(nn.Module):
    """A filter of frequencies, and a signal taken apart and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)
        self.filter = nn.Parameter(torch.randn(9, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        filtered = torch.fft.irfft(torch.fft.rfft(y) * torch.view_as_complex(self.filter), n=16)
        window = torch.hann_window(8)
        parts = torch.stft(y, 8, window=window, return_complex=True)
        whole = torch.istft(parts, 8, window=window, length=16)
        return self.last(filtered + whole + parts.abs().mean() + parts.real.mean())


@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_complex_numbers_stay_float(backend: str) -> None:
    model, x = seeded(Spectral), randn(2, 16)
    quantized = qfx.quantize(model, x, backend=backend)
    sites = {site.op.rpartition(".")[2]: site.reason for site in quantized.report.sites}
    names = ("fft_irfft", "istft", "abs", "getattr")
    assert {name: sites[name] for name in names} == dict.fromkeys(names, "complex")
    assert [s.decision for s in quantized.report.sites if s.op == "Linear"] == ["quantized"] * 2
    assert "unknown-op" not in sites.values()
    assert sqnr(model(x), quantized(x)) > 25
