"""Models that hand out floats of 8 bits, which hardly any operator takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x).to(torch.float8_e4m3fn)
        return self.head(y.float()), y


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_floats_of_eight_bits_are_returned_and_compared(method: str, backend: str) -> None:
    torch.manual_seed(0)
    model, x = Narrow().eval(), torch.randn(8, 16)
    qmodel = qfx.quantize(model, x, method=method, backend=backend)
    checked = qmodel.report.checked
    assert checked is not None
    assert checked.float_graph > 60
    made, narrow = qmodel(x)
    assert narrow.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(made, model(x)[0], atol=0.1, rtol=0.1)
