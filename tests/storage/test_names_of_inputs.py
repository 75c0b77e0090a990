"""Inputs are called as the model's forward calls them: whatever Python takes as a name is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.storage.files import load_buffer
from tests.storage.test_hostile import data, nodes, told  # noqa: F401  # a fixture


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 4)

    def called(self, x: Tensor, bias: Tensor | None) -> Tensor:
        made: Tensor = self.layer(torch.relu(x))
        return made if bias is None else made + bias


class German(Plain):
    def forward(self, größe: Tensor, *, höhe: Tensor | None = None) -> Tensor:
        return self.called(größe, höhe)


class Russian(Plain):
    def forward(self, вход: Tensor, *, сдвиг: Tensor | None = None) -> Tensor:
        return self.called(вход, сдвиг)


class Operators(Plain):
    def forward(self, operator: Tensor, *, math: Tensor | None = None) -> Tensor:
        return self.called(operator[..., :8], math)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (German(), ("größe", "höhe")),
        (Russian(), ("вход", "сдвиг")),
        (Operators(), ("operator", "math")),
    ],
)
def test_a_name_comes_back(model: nn.Module, names: tuple[str, str], tmp_path: Path) -> None:
    x, bias = torch.randn(2, 8), torch.randn(4)
    kwargs = {names[1]: bias}
    qmodel = qfx.quantize(model.eval(), x, example_kwargs=kwargs)
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    assert torch.equal(loaded(x, **kwargs), qmodel(x, **kwargs))
    assert torch.equal(loaded(**{names[0]: x}, **kwargs), qmodel(x, **kwargs))


@pytest.mark.parametrize("name", ["self", "torch", "\uff3f\uff3finit", "ﬁnal", "a b", "class", "ª"])
def test_what_python_reads_otherwise_is_refused(data: bytes, name: str) -> None:  # noqa: F811
    def renamed(content: Any) -> None:
        record = next(n for n in nodes(content) if n["op"] == "input")
        record["target"] = name

    with pytest.raises(qfx.FormatError):
        load_buffer(told(data, renamed))
