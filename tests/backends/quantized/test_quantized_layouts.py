"""Views whose strides fit two memory formats, before kernels that look at the format."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.backends import resolve_backend
from qfx.backends.quantized.layouts import in_order, tidy
from tests.cases.flow import Branches, randn, run, seeded, sqnr, steps

BACKENDS = ("fbgemm", "qnnpack", "x86")
Function = Callable[[Tensor], Tensor]

VIEWS: dict[str, Function] = {
    "flatten and view": lambda y: y.flatten(2).view(y.shape),
    "reshape twice": lambda y: y.reshape(y.shape[0], y.shape[1], -1).reshape(y.shape),
    "tokens": lambda y: y.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(y.shape),
    "transpose": lambda y: y.transpose(2, 3),
    "none": lambda y: y,
}
FOLLOWERS: dict[str, Function] = {
    "max": lambda y: F.max_pool2d(y, 3, 1, 1),
    "avg": lambda y: F.avg_pool2d(y, 3, 1, 1),
    "adaptive": lambda y: F.adaptive_avg_pool2d(y, 3),
    "nearest": lambda y: F.interpolate(y, scale_factor=2),
    "bilinear": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "mean": lambda y: y.mean((2, 3)),
    "pool1d": lambda y: F.avg_pool1d(y.flatten(2), 3, 1, 1),
}


class Viewed(nn.Module):
    def __init__(self, view: Function, follow: Function | nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, channels, 3, padding=1)
        self.view, self.follow = view, follow

    def forward(self, x: Tensor) -> Tensor:
        return self.follow(self.view(self.conv(x)))


def check(model: nn.Module, example: Tensor, inputs: list[Tensor], backend: str) -> None:
    check_each([model], example, inputs, backend)


def check_each(
    models: list[nn.Module], example: Tensor, inputs: list[Tensor], backend: str
) -> None:
    """All ``models`` on the same inputs, quantized as one."""
    every = Branches(models)
    examples, *batches = ([x] * len(models) for x in (example, *inputs))
    data = [(batch,) for batch in (examples, *batches)]
    qmodel = qfx.quantize(every, (examples,), backend=backend, calibration_data=data)
    least = 4 if resolve_backend(backend).saturates else 10  # a bit is worth 6 dB
    for batch in batches:
        results = (run(each, (batch,)) for each in (every, qmodel.reference, qmodel))
        for expected, reference, actual, size in zip(*results, steps(qmodel), strict=True):
            assert sqnr(expected, actual) > least  # a pixel in 256 steps
            assert (actual - reference).abs().max() <= 1.01 * size + 1e-6


@pytest.mark.sweep(first=2)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_images(view: str, backend: str) -> None:
    """Whatever the example's batch, both batches run: it is one for half of the pairs."""
    batch = 1 + (list(VIEWS).index(view) + BACKENDS.index(backend)) % 2
    models = [seeded(lambda f=f: Viewed(VIEWS[view], f)) for f in FOLLOWERS.values()]
    shapes = [(1, 8, 6, 6), (2, 8, 5, 7), (1, 8, 6, 1), (2, 8, 1, 5), (2, 8, 1, 1)]
    inputs = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    check_each(models, randn(batch, 8, 6, 6, seed=9), inputs, backend)


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)])
def test_norms(norm: nn.Module, backend: str) -> None:
    model = seeded(lambda: Viewed(VIEWS["reshape twice"], norm))
    check(model, randn(1, 8, 6, 6), [randn(1, 8, 5, 6), randn(2, 8, 5, 6)], backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_channel(backend: str) -> None:
    """The quantized mean raised."""
    model = seeded(lambda: Viewed(VIEWS["none"], FOLLOWERS["mean"], channels=1))
    check(model, randn(2, 8, 6, 6), [randn(1, 8, 5, 5), randn(2, 8, 6, 6)], backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_to_images(backend: str) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x).transpose(1, 2).reshape(x.shape[0], 8, 4, 4)
            return F.interpolate(y, scale_factor=2, mode="bilinear")

    check(seeded(Tokens), randn(1, 16, 8), [randn(1, 16, 8), randn(3, 16, 8)], backend)


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 16), nn.InstanceNorm2d(16, affine=True)])
def test_norms_of_many_images(norm: nn.Module, size: int, backend: str) -> None:
    """PyTorch's kernels for channels_last are right for the first of them only."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 1), norm, nn.Conv2d(16, 4, 1)))
    x, many = randn(2, 3, size, size), randn(300, 3, size, size, seed=1)
    qmodel = qfx.quantize(model, x, backend=backend, calibration_data=[many])
    assert all(site.decision == "quantized" for site in qmodel.report.sites)
    with torch.no_grad():
        assert sqnr(qmodel.reference(many), qmodel(many)) > 30


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_groups_of_one_value_stay_float(backend: str) -> None:
    model = seeded(lambda: Viewed(lambda y: F.adaptive_avg_pool2d(y, 1), nn.GroupNorm(8, 8)))
    qmodel = qfx.quantize(model, randn(2, 8, 4, 4), backend=backend)
    (norm,) = (s for s in qmodel.report.sites if s.module_path == "follow")
    assert norm.decision == "float"
    assert "more than one value a group" in norm.message


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.offset = nn.Parameter(randn(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.offset + self.linear(x)


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_sums_that_broadcast_do_not_warn(backend: str) -> None:
    model, x = seeded(Shifted), randn(4, 4, 8)
    qmodel = qfx.quantize(model, x[:1], backend=backend, calibration_data=[x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = qmodel(x)
    assert sqnr(model(x), y) > 30


def quint8(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 3, torch.quint8)


def test_tidy_gives_the_strides_of_channels_last() -> None:
    x = quint8(randn(1, 4, 6, 6)).contiguous(memory_format=torch.channels_last)
    view = x.flatten(2).view(x.shape)
    assert view.stride() == (4, 1, 24, 4)
    assert tidy(view).stride() == (144, 1, 24, 4)
    assert torch.equal(tidy(view).int_repr(), view.int_repr())


@pytest.mark.parametrize("shape", [(1, 4, 1), (1, 4, 1, 1), (2, 4, 1, 1, 1), (1, 4, 2, 1, 1)])
def test_tidy_of_single_pixels(shape: tuple[int, ...]) -> None:
    x = quint8(randn(*shape))
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    tidied = tidy(x)
    assert torch.equal(tidied.int_repr(), x.int_repr())
    if len(shape) in formats:
        assert torch.empty_like(tidied).stride() == tidied.stride()


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 5), (1, 4, 6, 6), (2, 4, 2, 3, 3)])
def test_tidy_leaves_contiguous_tensors_alone(shape: tuple[int, ...]) -> None:
    x = quint8(randn(*shape))
    assert tidy(x) is x


def test_in_order() -> None:
    x = quint8(randn(2, 1, 4, 4)).as_strided((2, 1, 4, 4), (16, 1, 4, 1))
    assert in_order(x).stride() == (16, 16, 4, 1)
    last = quint8(randn(2, 3, 4, 4)).contiguous(memory_format=torch.channels_last)
    assert in_order(last) is last
