"""The graph that a stage of quantizing leaves, as text: for passes that need those before."""

from __future__ import annotations

import difflib
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


class Normed(nn.Module):
    """A convolution and the batch-norm that is folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y.relu()


def quantized(**options: Any) -> qfx.QuantizedModel:
    """The net, quantized in the reference form unless told otherwise."""
    return qfx.quantize(seeded(Net), X, **{"backend": "reference", **options})


def text(history: qfx.History, stage: str | int) -> str:
    """The graph after a pass, its measured qparams as letters: they differ by machine."""
    shown = re.sub(" +", " ", history[stage].snapshot.to_text(provenance=False))
    return re.sub(r", \d+\.\d+(e-\d+)?, \d+", ", s, z", shown)


def change(history: qfx.History, stage: str) -> str:
    """What a pass makes of the graph: the lines before with "-", those after with "+".

    What it wrote down of nodes, as figures that it measured, is left out.
    """
    at = next(each.index for each in history if each.name == stage)
    before, after = (text(history, index).splitlines() for index in (at - 1, at))
    rows = [*difflib.unified_diff(before, after, n=0, lineterm="")][2:]
    plain = (row.partition(" # ")[0] for row in rows if not row.startswith("@@"))
    return "".join(f"{row[0]} {row[1:]}\n" for row in plain)
