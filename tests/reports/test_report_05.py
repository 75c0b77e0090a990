"""A buffer kept as an expanded view was a bare RuntimeError, at capture and at convert.

"unsupported operation: more than one element of the written-to tensor refers to a single memory
location". With it: other parameters and buffers whose memory overlaps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.graph.overlap import overlaps_itself, overwrite
from tests.cases.flow import randn, seeded, sqnr

X = randn(2, 3, 8, 8)
BLUR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


class Kept(nn.Module):
    """A convolution beside what the model keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)


class Blur(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("k", BLUR[None, None].expand(3, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.conv2d(x, self.k, groups=3, padding=1))


class Head(Kept):
    """As YOLO heads keep the grid of the last size."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        grid = torch.stack((columns, rows), 2).expand(1, 3, 8, 8, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        y = self.conv(x).view(batch, 3, 2, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        return (y * 2 + self.grid) * 0.1


class Norm(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.norm.running_var = torch.full((1,), 2.0).expand(6)
        self.norm.running_mean = torch.full((1,), 0.5).expand(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Strides(Kept):
    """A Toeplitz matrix, as a view of a vector, beside views of the same vector."""

    def __init__(self) -> None:
        super().__init__()
        vector = torch.arange(11.0) / 11
        self.register_buffer("toeplitz", vector.as_strided((6, 6), (1, 1)))
        self.register_buffer("low", vector[:6])
        self.register_buffer("high", vector[4:10])

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2) @ self.toeplitz
        return y * self.low + self.high


class Parameters(nn.Module):
    """Parameters that are views of one, and expanded ones."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(18)
        self.flat, self.w = nn.Parameter(flat), nn.Parameter(flat.view(6, 3, 1, 1))
        self.b = nn.Parameter(torch.ones(1).expand(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b) + self.flat.sum()


MODELS: tuple[Callable[[], nn.Module], ...] = (Blur, Head, Norm, Strides, Parameters)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["static", "dynamic", "qat"])
@pytest.mark.parametrize("make", MODELS)
def test_quantizes_and_leaves_the_model_as_it_was(
    make: Callable[[], nn.Module], method: str
) -> None:
    model = seeded(make)
    held = [*model.named_parameters(), *model.named_buffers()]
    before = [(n, t.clone(), t.stride(), t.data_ptr()) for n, t in held]
    if method == "qat":
        prepared = qfx.prepare(model, X, method="qat").train()
        qfx.freeze_batchnorm(prepared)
        prepared(X)
        quantized = qfx.convert(prepared)
    else:
        quantized = qfx.quantize(model, X, method=method)
    for name, values, stride, address in before:
        tensor = dict(held)[name]
        assert torch.equal(tensor, values)
        assert (tensor.stride(), tensor.data_ptr()) == (stride, address)
    with torch.no_grad():
        twin = copy.deepcopy(quantized)
        expected = model(X)
        for found in (quantized(X), twin(X)):
            assert sqnr(expected, found) > 25


def test_calibration_leaves_buffers_as_they_were() -> None:
    class Counted(Blur):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))
            self.register_buffer("seen", self.count.expand(6))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return super().forward(x) + self.seen.view(1, 6, 1, 1)

    model = seeded(Counted)
    prepared = qfx.prepare(model, X)
    qfx.calibrate(prepared, [X, X, X])
    quantized = qfx.convert(prepared)
    with torch.no_grad():
        assert sqnr(model(X), quantized(X)) > 25
        assert sqnr(model(X), quantized(X)) > 25, "the view sees what is written to its base"


def test_cache_made_with_gradients() -> None:
    """As transformers' LeViT: tensors that need gradients, kept in a dict by an earlier call."""

    class Cached(Kept):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(6))
            self.cache: dict[str, list[Tensor]] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.cache:
                self.cache["bias"] = [self.bias * 2]
            return self.conv(x) + self.cache["bias"][0].view(1, 6, 1, 1)

    model = seeded(Cached)
    expected = model(X)
    kept = model.cache["bias"][0]
    quantized = qfx.quantize(model, X)
    assert model.cache["bias"][0] is kept
    with torch.no_grad():
        assert sqnr(expected.detach(), quantized(X)) > 25


@pytest.mark.parametrize(
    ("make", "overlaps"),
    [
        (lambda: torch.zeros(4, 3), False),
        (lambda: torch.zeros(4, 3).t(), False),
        (lambda: torch.zeros(4, 3)[::2, 1:], False),
        (lambda: torch.zeros(0, 3).expand(0, 3), False),
        (lambda: torch.zeros(1).expand(1), False),
        (lambda: torch.zeros(1, 3).expand(4, 3), True),
        (lambda: torch.zeros(9).as_strided((4, 4), (1, 1)), True),
        (lambda: torch.zeros(9).as_strided((2, 2), (3, 1)), False),
    ],
)
def test_overlap(make: Callable[[], Tensor], overlaps: bool) -> None:
    tensor = make()
    assert overlaps_itself(tensor) == overlaps
    before = tensor.clone()
    stretch = tensor.untyped_storage()
    torch.tensor([], dtype=torch.float32).set_(stretch).fill_(7.0)
    overwrite(tensor, before)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("method", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_weight_that_lies_transposed(backend: str, method: str) -> None:
    model = seeded(nn.Linear, 16, 8)
    model.weight = nn.Parameter(torch.randn(16, 8).t())
    quantized = qfx.quantize(model, randn(4, 16), method=method, backend=backend)
    with torch.no_grad():
        assert sqnr(model(randn(4, 16)), quantized(randn(4, 16))) > 28
