"""Every row of every table for layers with weights, over their arguments: lowered runs, is right.

As :mod:`tests.backends.test_table_arguments`, for what has weights. Each is quantized and agrees
with the reference, or float with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.backends import available
from tests.cases.flow import randn, seeded, sqnr
from tests.support.tables import assert_told, largest_step, unclipped

SHAPES = {1: (2, 8, 9), 2: (2, 8, 7, 6), 3: (2, 8, 4, 5, 4)}
CONVS: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 2, "bias": False},
    {"kernel_size": 2, "padding": 3},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 2, "padding": "valid"},
    {"kernel_size": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    {"kernel_size": 3, "padding": 1, "groups": 8},
    {"kernel_size": 3, "padding": 1, "groups": 8, "out_channels": 16},
    {"kernel_size": 3, "groups": 2, "out_channels": 6},
    {"kernel_size": 3, "out_channels": 5},
]
TRANSPOSED: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "stride": 3, "bias": False},
    {"kernel_size": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 2, "stride": 2, "groups": 8},
    {"kernel_size": 2, "groups": 8, "out_channels": 16},
    {"kernel_size": 3, "out_channels": 5},
]
BACKENDS = ["x86", "fbgemm", "qnnpack"]


class Layers(nn.Module):
    """Each layer on its own, on what one convolution hands out in integers."""

    def __init__(self, layers: Iterator[nn.Module], dims: int) -> None:
        super().__init__()
        self.first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](8, 8, 1)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.first(x))
        return [layer(x) for layer in self.layers]


class Shuffled(nn.Module):
    def __init__(self, function: Any, amount: int) -> None:
        super().__init__()
        self.function, self.amount = function, amount
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x[..., :4, :4], self.amount).reshape(-1, 8))


def convs(dims: int) -> Iterator[nn.Module]:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    for options in CONVS:
        yield kind(8, **{"out_channels": 8, **options})
        if dims > 1 and options["kernel_size"] == 3 and "groups" not in options:
            uneven = {"out_channels": 8, **options, "kernel_size": (1, 3, 2)[:dims]}
            yield kind(8, **uneven)


def transposed(dims: int) -> Iterator[nn.Module]:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    for options in TRANSPOSED:
        yield kind(8, **{"out_channels": 8, **options})


def linears(dims: int) -> Iterator[nn.Module]:
    for outputs, bias in product((1, 8, 13), (True, False)):
        yield nn.Linear(SHAPES[dims][-1], outputs, bias=bias)


def volumes(dims: int) -> Iterator[nn.Module]:
    for function in (F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle):
        yield Shuffled(function, 2)


CASES = [*product(("convs", "transposed", "linears"), (1, 2, 3)), ("volumes", 3)]
FAMILIES = {f.__name__: f for f in (convs, transposed, linears, volumes)}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("family", "dims"), CASES)
def test_static_layers(family: str, dims: int, backend: str) -> None:
    skip_without(backend)
    model, x = seeded(lambda: Layers(FAMILIES[family](dims), dims)), randn(*SHAPES[dims])
    qconfig = qfx.get_default_qconfig(backend, "static")
    whole = qfx.QConfig(unclipped(qconfig.activation), qconfig.weight)
    with torch.no_grad():
        qmodel = qfx.quantize(model, x, backend=backend, qconfig=whole)
        expected, got = qmodel.reference(x), qmodel(x)
        ordinary = model(x)
    for i, (theirs, ours) in enumerate(zip(expected, got, strict=True)):
        assert theirs.shape == ours.shape == ordinary[i].shape, i
        assert (theirs - ours).abs().max() <= 2.05 * largest_step(qmodel), i
        assert sqnr(ordinary[i], ours) > 20, i
    assert_told(qmodel)


# -- what is measured at run time, or kept in integers ---------------------------------------------
@pytest.mark.sweep
@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_layers(backend: str, method: str) -> None:
    skip_without(backend)
    for dims in (1, 3):
        model, x = seeded(lambda d=dims: Rows(linears(d))), randn(*SHAPES[dims])
        check(model, (x,), backend, method)


class Rows(nn.Module):
    def __init__(self, layers: Iterator[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [_first(layer(x)) for layer in self.layers]


def recurrents() -> Iterator[nn.Module]:
    options: dict[str, Any]
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        for options in (
            {},
            {"batch_first": True, "num_layers": 2},
            {"bidirectional": True},
            {"bias": False},
            *([{"proj_size": 3}] if kind is nn.LSTM else []),
            *([{"nonlinearity": "relu"}] if kind is nn.RNN else []),
        ):
            yield kind(6, 5, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["dynamic", "weight_only", "static"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_recurrent_layers(backend: str, method: str) -> None:
    skip_without(backend)
    layers = [*recurrents(), nn.Linear(6, 4)]  # which is quantized by each method
    check(seeded(lambda: Rows(iter(layers))), (randn(3, 2, 6),), backend, method)


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            [nn.Embedding(20, 8), nn.Embedding(20, 5, padding_idx=2), nn.Embedding(20, 16)]
        )
        modes = ("sum", "mean", "max")
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, mode=mode) for mode in modes)

    def forward(self, tokens: Tensor, starts: Tensor) -> list[Tensor]:
        bags = [bag(tokens) for bag in self.bags]
        flat = [bag(tokens.flatten(), starts) for bag in self.bags]
        return [*(table(tokens) for table in self.tables), *bags, *flat]


@pytest.mark.parametrize("backend", BACKENDS)
def test_embeddings(backend: str) -> None:
    skip_without(backend)
    tokens = torch.randint(0, 20, (3, 4), generator=torch.Generator().manual_seed(1))
    check(seeded(Tables), (tokens, torch.tensor([0, 5, 5])), backend, "weight_only")


def check(model: nn.Module, inputs: tuple[Tensor, ...], backend: str, method: str) -> None:
    with torch.no_grad():
        qmodel = qfx.quantize(model, inputs, backend=backend, method=method)
        ordinary, expected, got = model(*inputs), qmodel.reference(*inputs), qmodel(*inputs)
    for i, (theirs, ours) in enumerate(zip(expected, got, strict=True)):
        assert theirs.shape == ours.shape == ordinary[i].shape, i
        assert sqnr(theirs, ours) > 25, i
        assert sqnr(ordinary[i], ours) > 20, i
    assert_told(qmodel)


def _first(value: Any) -> Tensor:
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found


def skip_without(backend: str) -> None:
    if backend not in available():
        pytest.skip(f"no {backend} here")
