"""Cases 3, 4, 7, 8 and 11: modules, qparams and inputs that are shared."""

import math

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from tests.cases.flow import (
    BACKENDS,
    is_quantize,
    kernels,
    listing,
    quantized,
    randn,
    seeded,
)


class LinearTwice(nn.Module):
    """Case 3."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc(x))
        return torch.relu(self.fc(x))


def reference_scales(qmodel: qfx.QuantizedModel) -> list[float]:
    """The scales of the activations of the reference form, in order."""
    nodes = qmodel.reference.graph.nodes
    return [float(n.args[1]) for n in nodes if n.target is vocab.QUANTIZE]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (3, 3))]
)
def test_linear_called_twice(backend: str, counts: tuple[int, int]) -> None:
    model = seeded(LinearTwice)
    qmodel = quantized(
        model, randn(8, 6), backend, quantize=counts[0], dequantize=counts[1], bound=28
    )
    linears = [s for s in qmodel.report.sites if s.module_path == "fc"]
    assert [s.decision for s in linears] == ["quantized"] * 2
    scales = reference_scales(qmodel)
    assert len(scales) == len(set(scales)) == (2 if backend == "x86" else 3)
    weights = [b for b in qmodel.reference.buffers() if b.dtype == torch.int8 and b.dim() == 2]
    assert len(weights) == 1
    if backend == "fbgemm":
        assert kernels(qmodel) == ["linear_relu"] * 2
    if backend != "reference":
        packed = {n.target for n in qmodel.graph.nodes if "packed" in str(n.target)}
        assert len(packed) == 1, listing(qmodel)


class ReluTwice(nn.Module):
    """Case 4."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + y
        x = self.relu(x)
        x = x + y
        return self.relu(x)


def test_relu_after_two_adds_fbgemm() -> None:
    qmodel = quantized(
        seeded(ReluTwice), (randn(4, 8), randn(4, 8, seed=1)), "fbgemm", quantize=2, dequantize=1
    )
    assert kernels(qmodel) == ["add_relu"] * 2


def test_relu_after_two_adds_reference() -> None:
    inputs = (randn(4, 8), randn(4, 8, seed=1))
    qmodel = quantized(seeded(ReluTwice), inputs, "reference", quantize=4, dequantize=4)
    assert [s.kernel for s in qmodel.report.sites] == ["reference"] * 4


def test_relu_after_two_adds_x86() -> None:
    """x86 has no addition that pays: nothing is left to quantize, and that is said."""
    with pytest.raises(qfx.CoverageError, match=r"nothing was quantized(.|\n)*no-kernel"):
        qfx.quantize(seeded(ReluTwice), (randn(4, 8), randn(4, 8, seed=1)), backend="x86")


class ConvsCat(nn.Module):
    """Case 7."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 5, 3)
        with torch.no_grad():
            self.right.weight.mul_(4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(y)], dim=1)


CAT_INPUTS = (randn(1, 3, 8, 8), randn(1, 2, 8, 8, seed=1))


def test_cat_shares_qparams_fbgemm() -> None:
    qmodel = quantized(seeded(ConvsCat), CAT_INPUTS, "fbgemm", quantize=2, dequantize=1)
    assert kernels(qmodel) == ["conv2d", "conv2d", "CAT"]
    scales = [n.args[2:] for n in qmodel.graph.nodes if "conv2d" in str(n.target)]
    assert len(scales) == 2
    assert len(set(scales)) == 1


def test_cat_shares_qparams_reference() -> None:
    qmodel = quantized(seeded(ConvsCat), CAT_INPUTS, "reference", quantize=5, dequantize=5)
    assert len(set(reference_scales(qmodel))) == 3  # x, y, and one for both convs and the cat


def test_cat_of_floats_x86() -> None:
    """Nobody wants the cat in integers: both kernels hand out float, nothing is rounded twice."""
    qmodel = quantized(seeded(ConvsCat), CAT_INPUTS, "x86", quantize=2, dequantize=0, bound=38)
    (site,) = [s for s in qmodel.report.sites if s.op == "cat"]
    assert site.reason == "float-is-free"


class CatThenConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cat, self.last = ConvsCat(), nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.cat(x, y))


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (2, 1)), ("x86", (2, 0)), ("reference", (6, 6))]
)
def test_cat_before_conv_moves_integers(backend: str, counts: tuple[int, int]) -> None:
    qmodel = quantized(
        seeded(CatThenConv), CAT_INPUTS, backend, quantize=counts[0], dequantize=counts[1]
    )
    cat = next(s for s in qmodel.report.sites if s.op == "cat")
    assert cat.decision == "quantized"


class PoolBetween(nn.Module):
    """Case 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.second = nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.pool(self.first(x)))


@pytest.mark.parametrize(("backend", "counts"), [("fbgemm", (1, 1)), ("reference", (4, 4))])
def test_average_pool_shares_qparams(backend: str, counts: tuple[int, int]) -> None:
    model, x = seeded(PoolBetween), randn(2, 3, 10, 10)
    qmodel = quantized(model, x, backend, quantize=counts[0], dequantize=counts[1], steps=math.inf)
    pool = next(s for s in qmodel.report.sites if s.module_path == "pool")
    assert pool.decision == "quantized"
    _, first, pooled, last = reference_scales(qmodel)
    assert first == pooled
    # Means of four codes often lie halfway between two, and which of them a kernel takes is a
    # matter of the version of PyTorch: a step, which the convolution behind it weighs.
    weighed = float(model.second.weight.detach().abs().sum((1, 2, 3)).max()) * pooled
    assert (qmodel(x) - qmodel.reference(x)).abs().max() <= 1.01 * (weighed + last)


@pytest.mark.parametrize("seed", range(4))
def test_average_pool_is_within_a_step(seed: int) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.AvgPool2d(2)))
    quantized(model, randn(2, 3, 10, 10, seed=seed), "fbgemm", bound=25, steps=1)


def test_average_pool_stays_float_x86() -> None:
    """No integer average pool there: the conv hands out float, a quantize follows the pool."""
    qmodel = quantized(seeded(PoolBetween), randn(2, 3, 10, 10), "x86", quantize=2, dequantize=0)
    pool = next(s for s in qmodel.report.sites if s.module_path == "pool")
    assert (pool.decision, pool.reason) == ("float", "no-kernel")


class SharedInput(nn.Module):
    """Case 11."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        return torch.add(torch.mul(a, 2.5), a) + b


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_of_two_linears_is_quantized_once(backend: str) -> None:
    mapping = qfx.get_default_qconfig_mapping(backend).set_object_type(torch.mul, None)
    qmodel = quantized(seeded(SharedInput), randn(16, 5), backend, qconfig=mapping)
    x = next(n for n in qmodel.graph.nodes if n.op == "placeholder")
    assert [is_quantize(user) for user in x.users] == [True]
    assert [s.decision for s in qmodel.report.sites if s.op == "Linear"] == ["quantized"] * 2
    mul = next(s for s in qmodel.report.sites if s.op == "mul")
    assert (mul.decision, mul.reason) == ("float", "qconfig-none")
