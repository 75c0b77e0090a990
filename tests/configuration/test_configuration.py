"""QConfigs, mappings, types and stubs decide what is quantized, and how."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.backends import resolve_backend
from tests.cases.flow import BACKENDS, quantized, randn, seeded
from tests.support.nets import UINT8, X, net, scales

INT8 = qfx.QuantSpec(torch.int8, symmetric=True)


def decisions(qmodel: qfx.QuantizedModel) -> dict[str, str]:
    return {s.node: s.reason or "quantized" for s in qmodel.report.sites}


def test_types_restrict() -> None:
    qmodel = qfx.quantize(net(), X, backend="x86", types={nn.Linear})
    assert decisions(qmodel)["conv"] == "not-in-types"
    assert decisions(qmodel)["fc"] == "quantized"


def test_types_take_functional_twins() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.conv(x.unsqueeze(-1)).squeeze(-1), self.weight)

    qmodel = qfx.quantize(seeded(Functional), randn(8, 4), backend="fbgemm", types=[nn.Linear])
    assert decisions(qmodel)["linear"] == "quantized"
    assert decisions(qmodel)["conv"] == "not-in-types"


def test_mapping_precedence() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.last = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.block(x))

    default = qfx.get_default_qconfig("fbgemm")
    mapping = (
        qfx.QConfigMapping()
        .set_global(default)
        .set_object_type(nn.Linear, None)
        .set_module_name_regex(r"block\.\d", default)
        .set_module_name("block.1", None)
    )
    qmodel = qfx.quantize(seeded(Three), randn(8, 4), backend="fbgemm", qconfig=mapping)
    assert decisions(qmodel) == {
        "block_0": "quantized",
        "block_1": "qconfig-none",
        "last": "qconfig-none",
    }
    assert "set_object_type" in qmodel.report.sites[2].message


def test_a_module_own_qconfig_attribute() -> None:
    model = net()
    model.conv.qconfig = None
    assert decisions(qfx.quantize(model, X, backend="x86"))["conv"] == "qconfig-none"
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name(
        "conv", qfx.get_default_qconfig("x86")
    )
    assert decisions(qfx.quantize(model, X, backend="x86", qconfig=mapping))["conv"] == "quantized"


def test_rules_that_match_nothing_are_named() -> None:
    mapping = (
        qfx.get_default_qconfig_mapping("x86")
        .set_module_name("convv", None)
        .set_object_type(nn.Conv3d, None)
    )
    with pytest.warns(qfx.QfxWarning) as caught:
        qmodel = qfx.quantize(net(), X, backend="x86", qconfig=mapping)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 2
    assert any("set_module_name('convv')" in t for t in texts)
    assert any("Conv3d" in t for t in texts)
    assert {w.filename for w in caught} == {__file__}
    assert tuple(texts) == qmodel.report.warnings
    assert all(t in str(qmodel.report) for t in texts)


def test_attributes_that_are_no_qconfig_are_named() -> None:
    model = net()
    model.conv.qconfig = "int8"
    with pytest.warns(qfx.QfxWarning, match="'conv' has a qconfig attribute of type str") as caught:
        qmodel = qfx.quantize(model, X, backend="x86")
    assert tuple(str(w.message) for w in caught) == qmodel.report.warnings
    assert {w.filename for w in caught} == {__file__}


def test_rules_that_the_backend_cannot_honour_are_named() -> None:
    signed = qfx.QConfig(qfx.QuantSpec(torch.int8), INT8)
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("conv", signed)
    with pytest.warns(qfx.QfxWarning, match=r"set_module_name\('conv'\)") as caught:
        qmodel = qfx.quantize(net(), X, backend="x86", qconfig=mapping)
    assert decisions(qmodel)["conv"] not in ("quantized", "qconfig-none")
    assert str(caught[0].message) in qmodel.report.warnings


def test_one_qconfig_for_everything() -> None:
    qconfig = qfx.QConfig(qfx.QuantSpec(torch.uint8, observer="minmax"), INT8)
    qmodel = qfx.quantize(net(), X, backend="fbgemm", qconfig=qconfig)
    low, high = float(X.min()), float(X.max())
    ((scale, _), *_) = scales(qmodel)
    codes = 127 if resolve_backend("fbgemm").saturates else 255
    assert scale == pytest.approx((high - low) / codes, rel=1e-5)


@pytest.mark.parametrize("backend", [*BACKENDS, "qnnpack"])
def test_one_scale_for_the_whole_weight(backend: str) -> None:
    qconfig = qfx.QConfig(UINT8, INT8)
    qmodel = quantized(net(), X, backend, bound=25, qconfig=qconfig)
    assert qmodel.report.coverage == 1.0


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_weight_scales_along_another_axis(backend: str) -> None:
    across = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, axis=1)
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name(
        "conv", qfx.QConfig(UINT8, across)
    )
    with pytest.warns(qfx.QfxWarning, match=r"set_module_name\('conv'\).*axis 0.*not axis 1"):
        qmodel = qfx.quantize(net(), X, backend=backend, qconfig=mapping)
    assert decisions(qmodel)["conv"] == "config-unfit"
    assert decisions(qmodel)["fc"] == "quantized"


def test_a_rule_that_fits_nothing_of_a_backend_is_told_once() -> None:
    signed = qfx.QConfig(qfx.QuantSpec(torch.int8), INT8)
    with (
        pytest.warns(
            qfx.QfxWarning, match=r"QConfig given as qconfig=.*codes are uint8, not"
        ) as caught,
        pytest.raises(qfx.CoverageError, match="config-unfit"),
    ):
        qfx.quantize(net(), X, backend="x86", qconfig=signed)
    assert len(caught) == 1
    quantized(net(), X, "reference", bound=25, qconfig=signed)


def test_qconfig_without_sides_leaves_float() -> None:
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("conv", qfx.QConfig())
    assert decisions(qfx.quantize(net(), X, backend="x86", qconfig=mapping))["conv"] == (
        "qconfig-none"
    )


class Stubbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.inside, self.after = (nn.Linear(4, 4) for _ in range(3))
        self.quant, self.dequant = qfx.QuantStub(), qfx.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(self.before(x))
        x = self.dequant(self.inside(x))
        return self.after(x)


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (2, 2))]
)
def test_stubs_delimit_the_region(backend: str, counts: tuple[int, int]) -> None:
    qmodel = quantized(
        seeded(Stubbed), randn(8, 4), backend, quantize=counts[0], dequantize=counts[1]
    )
    found = decisions(qmodel)
    assert (found["before"], found["inside"], found["after"]) == (
        "outside-stubs",
        "quantized",
        "outside-stubs",
    )
