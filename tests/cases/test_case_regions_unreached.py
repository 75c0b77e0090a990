"""What example inputs don't reach: layers, calls of ``generate``; and models in wrappers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr
from tests.cases.regions import Decoder


class Conv1D(nn.Module):
    """The linear layer of GPT-2, as transformers writes it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], self.nf)


class Branches(nn.Module):
    """Has layers for positive inputs, and others for negative ones."""

    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative = nn.Linear(8, 8), nn.Linear(8, 8)
        self.turned, self.conv = Conv1D(8, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.embed = nn.Embedding(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return self.positive(x)
        x = self.conv(self.turned(self.negative(x)).transpose(1, 2)).transpose(1, 2)
        return x + self.embed(torch.ones(x.shape[:2], dtype=torch.long))


@torch.no_grad()
def test_layers_that_nothing_calls_are_quantized_where_no_data_is_needed() -> None:
    torch.manual_seed(0)
    model, x = Branches().eval(), torch.rand(2, 5, 8)
    quantized = qfx.quantize(model, x, method="dynamic")
    assert list(quantized.regions) == ["positive", "negative", "turned", "conv", "embed"]
    assert sqnr(model(-x), quantized(-x)) > 30
    assert "ran layer by layer" not in str(quantized.regions)
    assert quantized.report.coverage == 1.0
    before, after = quantized.report.size_bytes
    assert after < 0.55 * before
    assert next(quantized.parameters()).dtype == torch.float32


def test_layers_that_nothing_calls_stay_float_where_ranges_come_from_data() -> None:
    model, x = Branches().eval(), torch.rand(2, 5, 8)
    static = qfx.get_default_qconfig("x86", "static")
    with pytest.warns(qfx.QfxWarning, match="static specs"):
        mixed = qfx.quantize(model, x, method="dynamic", qconfig=static)
    for quantized in (qfx.quantize(model, x), mixed):
        assert {"negative", "turned", "conv"}.isdisjoint(quantized.regions)
        left = {s.module_path: s for s in quantized.report.sites if s.decision == "float"}
        assert set(left) == {"negative", "turned", "conv", "embed"}
        assert left["negative"].reason == "outside-regions"
        assert "not called" in left["negative"].message


class Signs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.to(next(self.parameters()).dtype))
        return y if x.sum() > 0 else -y


def test_a_model_without_weights_left_tells_its_dtype() -> None:
    model, x = Signs().eval(), torch.randn(4, 8)
    quantized = qfx.quantize(model, x, method="weight_only")
    assert sqnr(model(x), quantized(x)) > 30
    (told,) = quantized.parameters()
    assert (told.dtype, told.numel()) == (torch.float32, 0)


class Refuses(Decoder):
    def generate(self, *args: object, **kwargs: object) -> Tensor:
        raise ValueError("no prompt")


def test_that_generating_failed_is_said() -> None:
    quantized = qfx.quantize(Refuses().eval(), torch.randint(0, 50, (2, 7)), method="dynamic")
    (said,) = [w for w in quantized.report.warnings if "generate()" in w]
    assert "ValueError: no prompt" in said


class Experts(nn.Module):
    """Weights of all experts in one tensor, of which each token takes a part."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act = nn.Parameter(torch.randn(3, 8, 8)), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in x.argmax(-1).remainder(3).unique():
            rows = x.argmax(-1).remainder(3) == expert
            out[rows] = self.act(x[rows] @ self.up[expert])
        return out


def test_experts_in_one_tensor_have_a_reason() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Experts()).eval()
    quantized = qfx.quantize(model, torch.randn(5, 8), method="dynamic")
    (site,) = [s for s in quantized.report.sites if s.module_path == "1"]
    assert (site.decision, site.reason, site.op) == ("float", "outside-regions", "Experts")
    assert site.macs == 5 * 8 * 8


WRAPPERS = {
    "torch.compile": partial(torch.compile, backend="eager"),
    "DataParallel": nn.DataParallel,
    "ExportedProgram": lambda model: torch.export.export(model, (torch.randn(3, 8),)),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_in_wrappers(name: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(3, 8)
    quantized = qfx.quantize(WRAPPERS[name](model), x)  # type: ignore[operator]
    assert quantized.report.coverage == 1.0
    assert sqnr(model(x), quantized(x)) > 30
    (said,) = quantized.report.warnings
    assert name in said
