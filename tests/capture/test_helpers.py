"""Type checks in the user's other files: ``from utils import scale`` beside the model's own."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from tests.cases.flow import randn, sqnr

SCALE = """
import torch
def scale(x, by=2.0):
    return x * by if isinstance(x, torch.Tensor) else x
class Tool:
    def run(self, x):
        return scale(x, 0.5) if torch.is_tensor(x) else x
def made():
    return lambda x: x + 1 if isinstance(x, torch.Tensor) else x
"""
MODELS = {
    "function": ("from {h} import scale", "None", "scale(x)"),
    "module": ("import {h}", "None", "{h}.scale(x)"),
    "object": ("import {h}", "{h}.Tool()", "self.held.run(x)"),
    "function held": ("from {h} import made", "made()", "self.held(x)"),
    "two files away": ("import {h}_more", "None", "{h}_more.again(x)"),
}


@pytest.mark.parametrize("name", MODELS)
def test_they_see_tensors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = f"helper_{list(MODELS).index(name)}"
    line, held, call = (text.format(h=helper) for text in MODELS[name])
    (tmp_path / f"{helper}.py").write_text(SCALE)
    (tmp_path / f"{helper}_more.py").write_text(
        f"from {helper} import scale\ndef again(x):\n    return scale(x)\n"
    )
    (tmp_path / f"{helper}_model.py").write_text(
        f"from torch import nn\n{line}\n"
        "class Model(nn.Module):\n"
        "    def __init__(self):\n"
        f"        super().__init__(); self.fc = nn.Linear(4, 4); self.held = {held}\n"
        "    def forward(self, x):\n"
        f"        return self.fc({call})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model: nn.Module = importlib.import_module(f"{helper}_model").Model().eval()
    x = randn(8, 4)
    made = qfx.quantize(model, x, backend="reference")
    with torch.no_grad():
        assert sqnr(model(x), made(x)) > 30
    module = importlib.import_module(helper)
    assert "isinstance" not in vars(module)  # as it was
