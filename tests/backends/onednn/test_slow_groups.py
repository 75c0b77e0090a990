"""Groups whose channels fill no blocks ran in oneDNN's reference kernel, up to 100 times too slow.

Several groups run as one there, with zeros between; where too many would have to, the layer is
float, reason ``slow-kernel``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.backends.onednn.conv_forms import forms
from tests.cases.flow import Branches, randn, seeded, sqnr

pytestmark = pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")

LAYERS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "several outputs a channel": (lambda: nn.Conv2d(8, 16, 3, groups=8), "groups of 4", (7, 7)),
    "two channels": (lambda: nn.Conv2d(8, 8, 3, groups=4), "groups of 2", (7, 7)),
    "odd channels": (lambda: nn.Conv2d(12, 12, 3, groups=4), "groups of 4", (7, 7)),
    "few out": (lambda: nn.Conv2d(16, 8, 3, groups=4), "groups of 2", (7, 7)),
    "all as one": (lambda: nn.Conv2d(15, 9, 3, groups=3, bias=False), "groups of 3", (7, 7)),
    "1d": (lambda: nn.Conv1d(8, 24, 3, groups=8), "groups of 4", (9,)),
    "3d": (lambda: nn.Conv3d(8, 8, 3, groups=4), "groups of 2", (5, 5, 5)),
    "3d, depthwise": (lambda: nn.Conv3d(8, 8, 3, groups=8), "groups of 4", (5, 5, 5)),
    "transposed, depthwise": (
        lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8),
        "groups of 4",
        (5, 5),
    ),
    "transposed, several outputs": (
        lambda: nn.ConvTranspose2d(8, 16, 4, 2, 1, groups=8),
        "groups of 4",
        (5, 5),
    ),
    "transposed, 1d": (lambda: nn.ConvTranspose1d(8, 16, 4, 2, 1, groups=4), "groups of 2", (9,)),
}
FAST: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (7, 7)),
    "depthwise, 1d": (lambda: nn.Conv1d(8, 8, 3, groups=8), (9,)),
    "blocks": (lambda: nn.Conv2d(16, 32, 3, groups=4), (7, 7)),
    "no groups": (lambda: nn.Conv2d(5, 7, 3), (7, 7)),
    "transposed, no stride": (lambda: nn.ConvTranspose2d(8, 8, 3, groups=8), (7, 7)),
}


def form_of(layer: nn.Module, x: Tensor) -> str:
    """The first form that is fast."""
    graph_module, _ = qfx.run_passes(layer, [qfx.get_pass("canonicalize")], x)
    node = next(n for n in graph_module.graph.nodes if "conv" in str(n.target))
    assert isinstance(node, fx.Node)
    return next(form.name for form in forms(node) if not form.is_slow)


@pytest.mark.parametrize("name", LAYERS)
def test_form(name: str) -> None:
    make, form, size = LAYERS[name]
    layer = seeded(make)
    assert form_of(layer, randn(2, layer.in_channels, *size)) == form


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_groups_run_as_one(method: str) -> None:
    # x86 measures what convolutions read, transposed ones aside.
    names = [n for n in LAYERS if method == "static" or "transposed" not in n]
    layers, sizes = [seeded(LAYERS[n][0]) for n in names], [LAYERS[n][2] for n in names]
    model = Branches(nn.Sequential(layer, nn.ReLU()) for layer in layers)
    pairs = list(zip(layers, sizes, strict=True))
    x = [randn(2, layer.in_channels, *size) for layer, size in pairs]
    larger = [randn(1, layer.in_channels, *(n + 2 for n in size)) for layer, size in pairs]
    qmodel = qfx.quantize(model, (x,), backend="x86", method=method)
    assert qmodel.report.coverage == 1.0
    for inputs in (x, larger):
        for name, meant, y in zip(names, qmodel.reference(inputs), qmodel(inputs), strict=True):
            assert sqnr(meant, y) > 35, name
    for name, expected, y in zip(names, model(x), qmodel(x), strict=True):
        assert sqnr(expected, y) > 25, name


@pytest.mark.parametrize("name", FAST)
def test_others_run_as_they_are(name: str) -> None:
    make, size = FAST[name]
    layer = seeded(make)
    assert form_of(layer, randn(1, layer.in_channels, *size)) == "as it is"


def test_a_residual_is_added_to_groups_as_one() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return torch.relu(self.second(x) + x)

    model, x = seeded(Block), randn(2, 8, 6, 6)
    qmodel = qfx.quantize(model, x, backend="x86")
    assert qmodel.report.coverage == 1.0
    assert "conv2d_add" in qmodel.code
    assert sqnr(qmodel.reference(x), qmodel(x)) > 35


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Conv2d(6, 12, 3, groups=6), "1 to 2 channels a group (6 groups)"),
        (lambda: nn.Conv2d(25, 25, 3, groups=5), "5 to 5 channels a group (5 groups)"),
        (lambda: nn.ConvTranspose2d(6, 6, 3, 3, groups=6), "1 to 9 channels a group (6 groups)"),
    ],
)
def test_what_no_few_groups_fill_is_float_with_a_reason(
    make: Callable[[], nn.Module], text: str
) -> None:
    layer = seeded(make)
    model = seeded(lambda: nn.Sequential(layer, nn.Conv2d(layer.out_channels, 4, 1)))
    x = randn(1, layer.in_channels, 7, 7)
    qmodel = qfx.quantize(model, x, backend="x86")
    first, second = qmodel.report.sites
    assert (first.decision, first.reason) == ("float", "slow-kernel")
    assert text in first.message
    assert first.remedy == "leave it float"
    assert second.decision == "quantized"
    assert sqnr(model(x), qmodel(x)) > 25
