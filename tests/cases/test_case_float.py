"""Cases 10, 12, 13, 14 and 15: operations that stay float between integer ones, or are fixed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.backends import resolve_backend
from qfx.backends.quantized.dtypes import clamp_codes
from tests.cases.flow import (
    boundaries,
    is_dequantize,
    is_quantize,
    quantized,
    randn,
    seeded,
)

X = randn(2, 3, 8, 8)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


class GeluBetween(nn.Module):
    """Case 10."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


def site(qmodel: qfx.QuantizedModel, op: str, index: int = 0) -> qfx.Site:
    return [s for s in qmodel.report.sites if s.op == op][index]


@pytest.mark.parametrize(("backend", "counts"), [("fbgemm", (2, 2)), ("x86", (2, 0))])
def test_gelu_without_kernel_is_float(backend: str, counts: tuple[int, int]) -> None:
    qmodel = quantized(seeded(GeluBetween), X, backend, quantize=counts[0], dequantize=counts[1])
    gelu = site(qmodel, "gelu")
    assert (gelu.decision, gelu.reason) == ("float", "no-kernel")
    assert backend in gelu.message
    assert gelu.remedy
    assert "no-kernel" in str(qmodel.report)
    if backend == "fbgemm":
        calls = (n for n in qmodel.graph.nodes if n.op.startswith("call_"))
        order = [n for n in calls if n.target is not clamp_codes]  # there where kernels saturate
        shown = ["q" if is_quantize(n) else "dq" if is_dequantize(n) else "op" for n in order]
        assert shown == ["q", "op", "dq", "op", "q", "op", "dq", "op"]  # the last: contiguous


def test_gelu_in_reference_form() -> None:
    qmodel = quantized(seeded(GeluBetween), X, "reference", quantize=3, dequantize=3)
    assert site(qmodel, "gelu").decision == "quantized"


class FloatBetween(nn.Module):
    """Case 12."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = conv(), nn.Sequential(conv(), nn.ReLU()), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (2, 2)), ("x86", (2, 0)), ("reference", (4, 4))]
)
def test_submodule_set_to_none(backend: str, counts: tuple[int, int]) -> None:
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name("middle", None)
    qmodel = quantized(
        seeded(FloatBetween), X, backend, quantize=counts[0], dequantize=counts[1], qconfig=mapping
    )
    decisions = {s.module_path: (s.decision, s.reason) for s in qmodel.report.sites}
    assert decisions == {
        "first": ("quantized", ""),
        "middle.0": ("float", "qconfig-none"),
        "middle.1": ("float", "qconfig-none"),
        "last": ("quantized", ""),
    }
    assert "set_module_name('middle')" in site(qmodel, "Conv2d", 1).message


class AddRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.relu(x + y)


class ConvAddRelu(nn.Module):
    """Case 13."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.child = conv(), AddRelu()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(self.conv(x), x)


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (2, 2))]
)
def test_add_relu_in_a_float_child(backend: str, counts: tuple[int, int]) -> None:
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name("child", None)
    qmodel = quantized(
        seeded(ConvAddRelu), X, backend, quantize=counts[0], dequantize=counts[1], qconfig=mapping
    )
    decisions = {s.op: s.decision for s in qmodel.report.sites}
    assert decisions == {"Conv2d": "quantized", "add": "float", "ReLU": "float"}


class TwoAdds(nn.Module):
    """Case 14."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = torch.add(self.fc(x), y)
        return torch.add(x, y)


# The reference form and x86 add as a post-op of the Linear; on x86 that hands out float, and takes
# the residual as it is.
@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (2, 1)), ("x86", (1, 0)), ("reference", (3, 3))]
)
def test_second_add_stays_float(backend: str, counts: tuple[int, int]) -> None:
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name_object_type_order(
        "", torch.add, 1, None
    )
    qmodel = quantized(
        seeded(TwoAdds),
        (randn(8, 6), randn(8, 6, seed=1)),
        backend,
        quantize=counts[0],
        dequantize=counts[1],
        qconfig=mapping,
    )
    first, second = (s for s in qmodel.report.sites if s.op == "add")
    assert first.decision == "quantized"
    assert (second.decision, second.reason) == ("float", "qconfig-none")
    assert "set_module_name_object_type_order" in second.message


class Fixed(nn.Module):
    """Case 15."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


FIXED = {
    "sigmoid": (torch.sigmoid, (1 / 256, 0)),
    "Sigmoid": (nn.Sigmoid(), (1 / 256, 0)),
    "Hardsigmoid": (nn.Hardsigmoid(), (1 / 256, 0)),
    "tanh": (torch.tanh, (2 / 256, 128)),
    "Tanh": (nn.Tanh(), (2 / 256, 128)),
    "softmax": (lambda x: x.softmax(-1), (1 / 256, 0)),
    "Softmax": (nn.Softmax(dim=-1), (1 / 256, 0)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("backend", ["fbgemm", "reference"])
def test_fixed_qparams(backend: str, name: str) -> None:
    function, qparams = FIXED[name]
    model = seeded(lambda: Fixed(function))
    qmodel = quantized(model, 3 * randn(16, 6), backend, bound=25)
    reference = [
        tuple(n.args[1:3]) for n in qmodel.reference.graph.nodes if n.target is qfx.vocab.QUANTIZE
    ]
    if resolve_backend(backend).saturates:  # 7 bits, which some kernels can't do
        takes = name.lower() in ("sigmoid", "softmax")
        assert boundaries(qmodel) == ((1, 1) if takes else (2, 2))
        assert ((1 / 128, 0) in reference) == takes
        return
    assert qparams in reference
    if backend == "fbgemm":
        assert boundaries(qmodel) == (1, 1)
    else:  # softmax alone is no post-op of a Linear
        assert len(reference) == 3 + (name.lower() == "softmax")


@pytest.mark.parametrize("backend", ["fbgemm", "reference"])
def test_contradicting_fixed_qparams_is_an_error(backend: str) -> None:
    qconfig = qfx.QConfig(qfx.QuantSpec(torch.uint8), qfx.QuantSpec(torch.int8, symmetric=True))
    mapping = qfx.get_default_qconfig_mapping(backend).set_object_type(torch.sigmoid, qconfig)
    model = seeded(lambda: Fixed(torch.sigmoid))
    with pytest.raises(qfx.ConfigError, match=r"sigmoid.*fixed qparams(.|\n)*set it to None"):
        qfx.quantize(model, randn(16, 6), backend=backend, qconfig=mapping)
    mapping.set_object_type(torch.sigmoid, None)
    qmodel = quantized(model, randn(16, 6), backend, qconfig=mapping)
    assert site(qmodel, "sigmoid").reason == "qconfig-none"


def test_sigmoid_is_float_on_x86() -> None:
    model = seeded(lambda: Fixed(torch.sigmoid))
    qmodel = quantized(model, randn(16, 6), "x86", quantize=2, dequantize=0)
    assert site(qmodel, "sigmoid").reason == "no-kernel"
