"""Cases 1, 2, 5 and 6: a layer, its batch norm and its relu are one kernel, however written."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from tests.cases.flow import (
    BACKENDS,
    boundaries,
    kernels,
    quantized,
    randn,
    run,
    seeded,
    targets,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
RELUS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU inplace": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "clamp_min": lambda x: x.clamp_min(0),
}


class Layer(nn.Module):
    def __init__(self, layer: nn.Module, norm: nn.Module | None, relu=None) -> None:
        super().__init__()
        self.layer, self.norm, self.relu = layer, norm, relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.relu is None else self.relu(x)


def conv(dims: int, *, norm: bool, relu=None) -> nn.Module:
    def make() -> nn.Module:
        bn = NORMS[dims](6) if norm else None
        if bn is not None:
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2)
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.bias)
        return Layer(CONVS[dims](3, 6, 3, padding=1), bn, relu)

    return seeded(make)


def image(dims: int) -> Tensor:
    return randn(2, 3, *[8, 8, 4][-dims:])


@pytest.mark.sweep
@pytest.mark.parametrize("relu", [None, "F.relu"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_conv_bn_relu_is_one_kernel(backend: str, dims: int, norm: bool, relu: str | None) -> None:
    model = conv(dims, norm=norm, relu=RELUS.get(relu))
    # x86 kernels hand out float themselves; the reference form rounds the result explicitly.
    counts = {"fbgemm": (1, 1), "x86": (1, 0), "reference": (2, 2)}[backend]
    qmodel = quantized(model, image(dims), backend, quantize=counts[0], dequantize=counts[1])
    assert len(kernels(qmodel)) == (0 if backend == "reference" else 1)
    assert [site.decision for site in qmodel.report.sites] == ["quantized"] * (
        1 + norm + (relu is not None)
    )
    assert qmodel.report.coverage == 1.0


@pytest.mark.sweep
@pytest.mark.parametrize("spelling", RELUS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_spelling_of_relu_fuses(backend: str, spelling: str) -> None:
    model = conv(2, norm=True, relu=RELUS[spelling])
    qmodel = quantized(model, image(2), backend)
    assert boundaries(qmodel) == {"fbgemm": (1, 1), "x86": (1, 0), "reference": (2, 2)}[backend]
    if backend == "fbgemm":
        assert kernels(qmodel) == ["conv2d_relu"]
    assert float(run(qmodel, (image(2),)).min()) >= 0


@pytest.mark.sweep
@pytest.mark.parametrize("spelling", RELUS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_then_relu_fuses(backend: str, spelling: str) -> None:
    model = seeded(lambda: Layer(nn.Linear(5, 7), None, RELUS[spelling]))
    qmodel = quantized(model, randn(4, 5), backend)
    assert boundaries(qmodel) == {"fbgemm": (1, 1), "x86": (1, 0), "reference": (2, 2)}[backend]
    if backend == "fbgemm":
        assert kernels(qmodel) == ["linear_relu"]


@pytest.mark.parametrize("dims", CONVS)
def test_folded_batch_norm_equals_eager(dims: int) -> None:
    """The fused float stage, before any quantization, against the model as written."""
    model = conv(dims, norm=True, relu=torch.relu)
    x = image(dims)
    prepared = qfx.prepare(model, x, backend="fbgemm")
    torch.testing.assert_close(run(prepared, (x,)), run(model, (x,)), rtol=1e-6, atol=1e-6)


class SharedReLU(nn.Module):
    """Case 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x))
        return self.relu(self.third(x))


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (4, 4))]
)
def test_shared_relu_fuses_everywhere(backend: str, counts: tuple[int, int]) -> None:
    model = seeded(SharedReLU)
    qmodel = quantized(model, image(2), backend, quantize=counts[0], dequantize=counts[1])
    if backend == "fbgemm":
        assert kernels(qmodel) == ["conv2d_relu"] * 3
    assert not [t for t in targets(qmodel) if t is vocab.RELU]


class KeywordsOnly(nn.Module):
    """Case 5: every tensor by keyword, parameters of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        conv, fc = nn.Conv2d(3, 4, 3), nn.Linear(36, 5)
        self.weight, self.bias = conv.weight, conv.bias
        self.w, self.b = fc.weight, fc.bias

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(input=x, weight=self.weight, bias=self.bias, stride=2)
        x = F.relu(input=x)
        x = torch.flatten(input=x, start_dim=1)
        return F.linear(x, weight=self.w, bias=self.b)


class Modules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (4, 4))]
)
def test_keyword_calls_quantize_like_modules(backend: str, counts: tuple[int, int]) -> None:
    functional, modules = seeded(KeywordsOnly), seeded(Modules)
    x = randn(2, 3, 8, 8)
    qmodel = quantized(functional, x, backend, quantize=counts[0], dequantize=counts[1])
    twin = quantized(modules, x, backend, quantize=counts[0], dequantize=counts[1])
    assert kernels(qmodel) == kernels(twin)
    torch.testing.assert_close(run(qmodel, (x,)), run(twin, (x,)), rtol=0, atol=0)
