"""The network and the inputs that tests of the one call share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from tests.cases.flow import randn, seeded

UINT8 = qfx.QuantSpec(torch.uint8)


class Net(nn.Module):
    """A bit of everything: batch norm, dropout, a shape that depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.drop = nn.GELU(), nn.Dropout()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = self.drop(self.act(x))
        return self.fc(x.mean((2, 3)).view(x.shape[0], -1))


X = randn(2, 3, 8, 8)


def net() -> nn.Module:
    return seeded(Net)


def scales(qmodel: qfx.QuantizedModel) -> list[object]:
    """The activation scales of the reference form: what calibration decided."""
    return [n.args[1:3] for n in qmodel.reference.graph.nodes if n.target is vocab.QUANTIZE]
