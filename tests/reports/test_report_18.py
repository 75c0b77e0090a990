"""A branch on data, a decoding loop that breaks, and ``generate`` were CaptureErrors.

torchvision's ssdlite and fasterrcnn, of the same row, stand in tests/examples.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.regions import Decoder


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x) if x.sum() > 0 else -self.one(x))


class Greedy(nn.Module):
    """Words one by one, until one says that it is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(20, 16), nn.GRUCell(16, 16)
        self.words = nn.Linear(16, 20)

    def forward(self, word: Tensor) -> Tensor:
        state = torch.zeros(word.shape[0], 16)
        logits = []
        for _ in range(8):
            state = self.cell(self.embed(word), state)
            logits.append(self.words(state))
            word = logits[-1].argmax(-1)
            if bool((word == 3).any()):
                break
        return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_branch_on_data(method: str) -> None:
    torch.manual_seed(0)
    model, x = Branch().eval(), torch.randn(16, 8)
    data = [x, -x] if method == "static" else None
    quantized = qfx.quantize(model, x, method=method, calibration_data=data)
    assert quantized.report.coverage == 1.0
    assert all(sqnr(model(given), quantized(given)) > 25 for given in (x, -x))
    with pytest.raises(qfx.CaptureError, match="contents of a tensor"):
        qfx.quantize(model, x, method=method, regions="whole")


@torch.no_grad()
def test_a_loop_that_breaks() -> None:
    torch.manual_seed(0)
    model, words = Greedy().eval(), torch.tensor([1, 2])
    quantized = qfx.quantize(model, words, method="dynamic")
    assert {"cell", "words"} <= set(quantized.regions)
    expected, found = model(words), quantized(words)
    assert len(expected) == len(found)
    assert sqnr(expected[0], found[0]) > 25


def test_generate() -> None:
    torch.manual_seed(1)
    model, ids = Decoder().eval(), torch.randint(0, 50, (2, 7))
    quantized = qfx.quantize(model, ids, method="weight_only")
    assert torch.equal(quantized.generate(ids), model.generate(ids))
