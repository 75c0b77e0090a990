"""Models are exported, checked and compiled as they are called: by keyword, defaults skipped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded

AGREES = 60.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)


class Skipped(Net):
    def forward(
        self, x: Tensor, mask: Any = None, flag: bool = True, other: Tensor | None = None
    ) -> Tensor:
        y = self.layer(x) * (2 if flag else 3)
        return y if other is None else y - self.layer(other)


class KeywordOnly(Net):
    def forward(self, x: Tensor, *, a: Tensor | None = None, b: Tensor, scale: float = 2) -> Tensor:
        return self.layer(x) * scale - self.layer(b) * (0 if a is None else 1)


class Several(Net):
    def forward(self, x: Tensor, *more: Tensor, k: Tensor, **named: Tensor) -> Tensor:
        return self.layer(x) + self.layer(more[0]) * 2 - self.layer(k) * named["z"].mean()


class Call(NamedTuple):
    model: type[Net]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = {}
    named: Mapping[str, Any] = {}  # as check_onnx takes them, if otherwise


X, Y, Z, K = (randn(3, 8, seed=seed) for seed in range(4))
CALLS = {
    "a flag that is given": Call(Skipped, (X, None, False, Y)),
    "defaults that are skipped": Call(Skipped, (X,), {"other": Y}),
    "a flag by keyword": Call(Skipped, (X,), {"other": Y, "flag": False}),
    "keywords in another order": Call(KeywordOnly, (X,), {"b": Y, "a": Z, "scale": 3.0}),
    "any number": Call(
        Several, (X, Y), {"k": K, "z": Z}, {"x": X, "more": (Y,), "k": K, "named": {"z": Z}}
    ),
}
BY_POSITION = [name for name, call in CALLS.items() if not call.named]


def quantized(call: Call) -> qfx.QuantizedModel:
    model, kwargs = seeded(call.model).eval(), dict(call.kwargs) or None
    return qfx.quantize(model, call.args, example_kwargs=kwargs)


def inputs(call: Call) -> Any:
    return dict(call.named or {"x": X, **call.kwargs}) if call.kwargs else call.args


def sqnr(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.parametrize("name", CALLS)
def test_files(name: str, tmp_path: Path) -> None:
    qmodel, given = quantized(CALLS[name]), inputs(CALLS[name])
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", example_inputs=given, form="exact")
    assert qfx.check_onnx(qmodel, file, given, by_site=True).sqnr > AGREES
    assert not any("*" in name for name in file.inputs)


@pytest.mark.parametrize("name", CALLS)
def test_programs(name: str) -> None:
    call = CALLS[name]
    qmodel, given = quantized(call), inputs(call)
    program = qfx.export_pt2e(qmodel, given).module()
    args, kwargs = (given, {}) if isinstance(given, tuple) else ((), given)
    args, kwargs = (call.args, call.kwargs) if call.named else (args, kwargs)
    assert sqnr(qmodel.reference(*call.args, **call.kwargs), program(*args, **kwargs)) > AGREES


@pytest.mark.parametrize("name", CALLS)
def test_compiled_models(name: str) -> None:
    call = CALLS[name]
    qmodel = quantized(call)
    fast = qfx.compile(qmodel, inputs(call), engine="onnxruntime", threads=1)
    found = fast(*call.args, **call.kwargs)
    assert sqnr(qmodel.reference(*call.args, **call.kwargs), found) > AGREES


@pytest.mark.parametrize("which", ["itself", "its reference", "a copy", "loaded"])
@pytest.mark.parametrize("name", BY_POSITION)
def test_torch_export(name: str, which: str, tmp_path: Path) -> None:
    """It reads the graph instead of calling the model, and leaves the names of arguments behind."""
    call = CALLS[name]
    qmodel = quantized(call)
    model: nn.Module = qmodel.reference if which == "its reference" else qmodel
    if which == "a copy":
        model = qmodel.__copy__()
    if which == "loaded":
        model = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    with torch.no_grad():
        program = torch.export.export(model, call.args, dict(call.kwargs)).module()
        assert torch.equal(program(*call.args, **call.kwargs), model(*call.args, **call.kwargs))


def test_torch_export_of_any_number_by_keyword_says_what_to_do() -> None:
    call = CALLS["any number"]
    with pytest.raises(qfx.ConfigError, match="export a module whose forward calls the model"):
        torch.export.export(quantized(call), call.args, dict(call.kwargs))


class Scaled(Net):
    def forward(self, x: Tensor, scale: float, plus: float = 1.0) -> Tensor:
        return self.layer(x) * scale + plus


def test_numbers_are_constants_in_files(tmp_path: Path) -> None:
    qmodel = qfx.quantize(seeded(Scaled).eval(), (X, 3.0, 0.5))
    file = qfx.export_onnx(qmodel, tmp_path / "m.onnx", example_inputs=(X, 3.0, 0.5))
    assert qfx.check_onnx(qmodel, file, (X, 3.0, 0.5)).sqnr > AGREES
    assert "constant in the file: scale=3.0, plus=0.5" in str(file)
    with pytest.raises(qfx.ConfigError, match="scale is a number that callers give"):
        qfx.export_onnx(qmodel, tmp_path / "m.onnx")
