"""Specs that no kernel takes: they run in the reference form, and elsewhere they are a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import QConfig, QuantSpec
from qfx.numerics import measures

INT8 = QConfig(
    QuantSpec(torch.uint8, observer="histogram"),
    QuantSpec(torch.int8, symmetric=True, per_channel=True),
)
INT16 = QConfig(
    QuantSpec(torch.int16, symmetric=True),
    QuantSpec(torch.int16, symmetric=True, per_channel=True),
)
INT4_WEIGHT = QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-8, quant_max=7)
INT4 = QConfig(QuantSpec(torch.uint8, quant_max=15, observer="histogram"), INT4_WEIGHT)
INT4_GROUPS = QConfig(
    INT8.activation,
    QuantSpec(
        torch.int8, symmetric=True, per_channel=True, group_size=16, quant_min=-8, quant_max=7
    ),
)
POWER_OF_TWO = QConfig(
    QuantSpec(torch.uint8, observer="histogram", power_of_two=True),
    QuantSpec(torch.int8, symmetric=True, per_channel=True, power_of_two=True),
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).sigmoid()
        y: Tensor = self.head(x.movedim(1, -1))
        return y


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 16, 12, 12, generator=torch.Generator().manual_seed(1))


def sqnr(net: Net, x: Tensor, qconfig: QConfig) -> float:
    qmodel = qfx.quantize(net, x, backend="reference", qconfig=qconfig)
    assert qmodel.report.coverage == 1.0
    with torch.no_grad():
        output, made = net(x), qmodel(x)
    easy = output.mean((0, 1, 2))  # the constant part
    return measures.sqnr(output - easy, made - easy)


def test_the_reference_form_takes_any_spec(net: Net, x: Tensor) -> None:
    int8, int16 = sqnr(net, x, INT8), sqnr(net, x, INT16)
    assert int8 > 25
    assert int16 > int8 + 40  # 8 bits more are 48 dB
    assert int8 - 6.1 < sqnr(net, x, POWER_OF_TWO) < int8  # at most a step twice as wide
    assert int8 - 24.1 < sqnr(net, x, INT4) < sqnr(net, x, INT4_GROUPS) < int8  # 6 dB a bit


def test_every_observer_runs_from_a_configuration(net: Net, x: Tensor) -> None:
    weight = INT4_GROUPS.weight
    assert weight is not None
    least = replace(weight, observer="per_channel_mse")
    plain = sqnr(net, x, INT4_GROUPS)
    for observer in ("histogram", "mse", "percentile", "entropy", "moving_average_minmax"):
        activation = QuantSpec(torch.uint8, observer=observer)
        assert sqnr(net, x, QConfig(activation, least)) > plain + 0.5
    averaged = replace(weight, observer="moving_average_per_channel_minmax")
    assert sqnr(net, x, QConfig(INT8.activation, averaged)) == plain  # a weight is seen once


def test_powers_of_two_reach_the_graph(net: Net, x: Tensor) -> None:
    qmodel = qfx.quantize(net, x, backend="reference", qconfig=POWER_OF_TWO)
    scales = [b for name, b in qmodel.named_buffers() if name.endswith("_scale")]
    assert len(scales) == 3
    assert all(bool((torch.frexp(scale).mantissa == 0.5).all()) for scale in scales)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("qconfig", "message"),
    [
        (INT16, "take other activations: codes are uint8, not int16"),
        (QConfig(INT8.activation, INT16.weight), "take other weights: codes are int8, not int16"),
        (INT4_GROUPS, "take no groups of weights"),
    ],
)
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
def test_kernels_that_do_not_are_a_reason(
    net: Net, x: Tensor, qconfig: QConfig, message: str, backend: str
) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name("second", qconfig)
    with pytest.warns(qfx.QfxWarning, match=message):
        qmodel = qfx.quantize(net, x, backend=backend, qconfig=mapping)
    site = next(s for s in qmodel.report.sites if s.module_path == "second")
    assert (site.decision, site.reason) == ("float", "config-unfit")
    assert message in site.message


@pytest.mark.parametrize("group_size", [None, 9])
def test_an_axis_that_a_weight_lacks_is_a_reason(
    net: Net, x: Tensor, group_size: int | None
) -> None:
    weight = QuantSpec(torch.int8, per_channel=True, axis=4, group_size=group_size)
    mapping = qfx.get_default_qconfig_mapping("reference")
    mapping.set_module_name("second", QConfig(INT8.activation, weight))
    with pytest.warns(qfx.QfxWarning, match=r"\(second, .*has no axis 4"):
        qmodel = qfx.quantize(net, x, backend="reference", qconfig=mapping)
    site = next(s for s in qmodel.report.sites if s.module_path == "second")
    assert (site.decision, site.reason) == ("float", "config-unfit")
    assert site.remedy == "change the specs of that rule, or the backend"


def test_groups_that_do_not_divide_are_a_reason(net: Net, x: Tensor) -> None:
    weight = QuantSpec(torch.int8, symmetric=True, per_channel=True, group_size=9)
    with pytest.warns(qfx.QfxWarning, match="group_size=9 does not divide the 16 values"):
        qmodel = qfx.quantize(net, x, backend="reference", qconfig=QConfig(INT8.activation, weight))
    reasons = {s.module_path: s.reason for s in qmodel.report.sites}
    assert (reasons["first"], reasons["head"]) == ("", "config-unfit")


def test_kernels_take_powers_of_two(net: Net, x: Tensor) -> None:
    if "x86" not in qfx.backends.available():
        pytest.skip("no x86 here")
    whole = replace(POWER_OF_TWO.activation, observer="minmax")  # type: ignore[type-var]
    qconfig = replace(POWER_OF_TWO, activation=whole)
    qmodel = qfx.quantize(net, x, backend="x86", qconfig=qconfig)
    assert qmodel.report.coverage == 1.0
    # A sigmoid that the kernel computes may fall on the other side of a tie.
    assert measures.sqnr(qmodel.reference(x), qmodel(x)) > 55


def test_4_bit_weights_without_groups_run_on_int8_kernels(net: Net, x: Tensor) -> None:
    if "x86" not in qfx.backends.available():
        pytest.skip("no x86 here")
    qconfig = QConfig(INT8.activation, INT4_WEIGHT)
    qmodel = qfx.quantize(net, x, backend="x86", qconfig=qconfig)
    assert qmodel.report.coverage == 1.0
    codes = [b for name, b in qmodel.reference.named_buffers() if name.endswith("_q")]
    assert {int(q.min()) for q in codes} == {-8}
