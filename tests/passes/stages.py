"""The graph that a stage of quantizing leaves, as text: for passes that need those before."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded

X = randn(2, 3, 6, 6)


class Net(nn.Module):
    """A convolution with a ReLU, a mean that hands on its qparams, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def quantized(**options: Any) -> qfx.QuantizedModel:
    """The net, quantized in the reference form unless told otherwise."""
    return qfx.quantize(seeded(Net), X, **{"backend": "reference", **options})


def text(history: qfx.History, stage: str) -> str:
    """The graph after a pass, its measured qparams as letters: they differ by machine."""
    shown = re.sub(" +", " ", history[stage].snapshot.to_text(provenance=False))
    return re.sub(r", \d+\.\d+(e-\d+)?, \d+", ", s, z", shown)
