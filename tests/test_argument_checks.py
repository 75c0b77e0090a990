"""Arguments of quantize that contradict each other, or that nothing needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU())


def test_static_specs_under_another_method_want_data() -> None:
    model, x, static = seeded(_net), randn(2, 8), qfx.get_default_qconfig("x86", "static")
    with pytest.warns(qfx.QfxWarning, match=r"get_default_qconfig\('x86', 'dynamic'\)"):
        qmodel = qfx.quantize(model, x, method="dynamic", qconfig=static, backend="x86")
    assert "get_default_qconfig" in qmodel.report.warnings[0]
    assert qmodel.report.sites[0].method == "static"
    # Warnings are errors here:
    qfx.quantize(model, x, method="dynamic", qconfig=static, calibration_data=[x], backend="x86")


def test_data_that_nothing_needs_is_not_read() -> None:
    def data() -> Iterator[Tensor]:
        raise AssertionError("read")
        yield randn(2, 8)

    with pytest.warns(qfx.QfxWarning, match="calibration_data is not used"):
        qfx.quantize(
            seeded(_net), randn(2, 8), method="dynamic", effort="fast", calibration_data=data()
        )


def test_the_report_says_what_is_dynamic() -> None:
    model, x = seeded(_net), randn(2, 8)
    dynamic = qfx.quantize(model, x, method="dynamic", backend="x86").report
    static = qfx.quantize(model, x, backend="x86").report
    assert [site.method for site in dynamic.sites] == ["dynamic", "dynamic"]
    assert [site.method for site in static.sites] == ["static", "static"]
    assert {site.kernel for site in (*dynamic.sites, *static.sites)} == {"onednn.qlinear"}
    assert "onednn.qlinear, dynamic" in str(dynamic)
    assert "dynamic" not in str(static)


def test_quantized_modules_inside_are_named() -> None:
    x = randn(2, 8)
    inner = qfx.quantize(seeded(_net), x)
    outer = nn.Sequential(nn.Linear(8, 8), nn.Sequential(inner)).eval()
    with pytest.raises(qfx.ConfigError, match=r"module '1\.0' is quantized already"):
        qfx.quantize(outer, x)
    with pytest.raises(qfx.ConfigError, match=r"module '0' is prepared already"):
        qfx.quantize(nn.Sequential(qfx.prepare(seeded(_net), x)).eval(), x)


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.linear(ids if mask is None else ids * mask)
        return y


class OneDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.linear(batch["ids"])
        return y


def test_a_dict_of_keywords_is_told_where_to_go() -> None:
    inputs = {"ids": randn(2, 8), "mask": randn(2, 8)}
    with pytest.raises(qfx.ConfigError, match=r"\(ids, mask\); give it as example_kwargs="):
        qfx.quantize(seeded(Keywords), inputs)
    qfx.quantize(seeded(Keywords), None, example_kwargs=inputs)
    qfx.quantize(seeded(OneDict), inputs)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(100, 16), nn.Linear(16, 100, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.embedding(x))
        return y


def test_larger_is_not_called_smaller() -> None:
    report = qfx.quantize(seeded(Tied), torch.tensor([[1, 2]]), backend="x86").report
    before, after = report.size_bytes
    assert after > before
    assert f"({after / before:.1f} times larger)" in str(report)


@pytest.mark.parametrize("call", [qfx.convert, lambda model: qfx.calibrate(model, [])])
def test_what_is_quantized_is_no_model_to_convert(call: Callable[[Any], object]) -> None:
    with pytest.raises(qfx.ConfigError, match="this model is quantized already: use it as it is"):
        call(qfx.quantize(nn.Linear(8, 8).eval(), torch.ones(2, 8)))


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not on a Saturday")


def test_what_has_no_forward_or_raises_by_itself_is_no_fault_of_the_inputs() -> None:
    parts = nn.ModuleDict({"a": nn.Linear(8, 8)}).eval()
    with pytest.raises(qfx.ConfigError, match=r"ModuleDict, which has no forward .* one by one"):
        qfx.quantize(parts, randn(2, 8))
    with pytest.raises(qfx.ConfigError, match=r"raises (?s:.)*Saturday(?s:.)*or mend the model"):
        qfx.quantize(Refuses().eval(), randn(2, 8))


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (nn.Flatten, r"the class Flatten; give an instance, as Flatten\(\.\.\.\) makes"),
        (nn.Linear(8, 8).state_dict(), "OrderedDict, .* load it into the model, and give that"),
        (torch.relu, "wrap a function in a module"),
    ],
)
def test_what_is_no_module(given: Any, advice: str) -> None:
    with pytest.raises(qfx.ConfigError, match=advice):
        qfx.quantize(given, randn(2, 8))


class Adds(nn.Module):
    def __init__(self, layers: nn.Module, adds: Any) -> None:
        super().__init__()
        self.layers, self.adds = layers, adds

    def forward(self, x: Tensor) -> Any:
        return self.adds.add(self.layers(x), x)


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated
def test_what_torch_ao_quantized_is_refused_and_its_float_modules_are_taken() -> None:
    ao: Any = importlib.import_module("torch.ao.quantization")
    dynamic = ao.quantize_dynamic(nn.Sequential(nn.Linear(8, 8)))
    for each, which in ((dynamic, "module '0' is"), (dynamic[0], "the model is")):
        with pytest.raises(qfx.ConfigError, match=rf"{which} a torch\.ao.*torch\.ao quantized it"):
            qfx.quantize(each.eval(), randn(2, 8))
    fused = ao.fuse_modules(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), [["0", "1"]])
    assert type(fused[0]).__name__ == "LinearReLU"
    adds: Any = importlib.import_module("torch.ao.nn.quantized").FloatFunctional()
    assert qfx.quantize(Adds(fused, adds).eval(), randn(2, 8)).report.coverage == 1.0


def test_the_qconfig_given_is_called_so() -> None:
    eight = qfx.QuantSpec(torch.int8)
    qconfig = qfx.QConfig(activation=eight, weight=eight)
    both = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("1", qconfig)
    with pytest.warns(qfx.QfxWarning, match=r"set_module_name\('1'\) has no effect on _1 \(1\)"):
        qfx.quantize(both, randn(2, 8), backend="x86", qconfig=mapping)
    given = "the QConfig given as qconfig= has no effect on _0"
    with (
        pytest.warns(qfx.QfxWarning, match=given),
        pytest.raises(qfx.CoverageError, match=r"config-unfit .*\(the QConfig given as qconfig=\)"),
    ):
        qfx.quantize(both, randn(2, 8), backend="x86", qconfig=qconfig)
