"""Linear layers that read the same codes become one product, and nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.backends.onednn import calls, kernels
from qfx.numerics.measures import sqnr
from tests.cases.flow import quantized, randn, run, seeded, targets
from tests.passes.stages import change


class Parallel(nn.Module):
    """Layers on one value, and what is made of their results."""

    def __init__(
        self, use: Callable[..., Any], widths: tuple[int, ...] = (8, 8, 8), *, bias: bool = True
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, width, bias=bias) for width in widths)
        self.use = use

    def forward(self, x: Tensor) -> Any:
        return self.use(*(layer(x) for layer in self.layers))


class Apart(nn.Module):
    """Two layers on one value, and something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = nn.Linear(8, 8), between, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.between(self.first(x))) * self.second(x)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


def dynamic(model: nn.Module, x: Tensor, bound: float = 25) -> qfx.QuantizedModel:
    """``model`` quantized; its results are near those of float, and those of the reference form."""
    qmodel = qfx.quantize(model, x, method="dynamic", backend="x86")
    got = run(qmodel, (x,))
    assert sqnr(run(model, (x,)), got) > bound
    assert sqnr(run(qmodel.reference, (x,)), got) > 50
    return qmodel


@pytest.mark.sweep
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_results_are_those_of_the_layers(shape: tuple[int, ...], bias: bool) -> None:
    model = seeded(lambda: Parallel(lambda *values: list(values), (8, 4, 24), bias=bias))
    x = randn(*shape)
    qmodel = dynamic(model, x)
    assert targets(qmodel).count(calls.linear) == 1
    for layer, got in zip(model.layers, run(qmodel, (x,)), strict=True):  # type: ignore[arg-type]
        alone = qfx.quantize(layer, x, method="dynamic", backend="x86")
        assert torch.equal(got, run(alone, (x,)))
        assert got.is_contiguous()


def test_layers_with_and_without_bias_share_a_product() -> None:
    model = seeded(Parallel, attend)
    model.layers[1].bias = None  # type: ignore[index]
    assert targets(dynamic(model, randn(2, 5, 8))).count(calls.linear) == 1


@pytest.mark.parametrize("per_channel", [True, False])
def test_static_layers_that_hand_out_float_are_merged_too(per_channel: bool) -> None:
    weight = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=per_channel)
    mapping = qfx.QConfigMapping().set_global(qfx.QConfig(qfx.QuantSpec(torch.uint8), weight))
    x = randn(2, 5, 8)
    qmodel = quantized(seeded(Parallel, attend), x, "x86", qconfig=mapping, bound=20, steps=1e-3)
    assert targets(qmodel).count(calls.linear) == 1
    assert targets(qmodel).count(vocab.NARROW) == 3


def test_static_layers_that_hand_out_integers_stay_apart() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(torch.cat([self.a(x), self.b(x)], -1))
            return y

    qmodel = quantized(seeded(Joined), randn(5, 8), "x86", bound=20, steps=2)
    assert targets(qmodel).count(calls.linear) == 3


class Tied(nn.Module):
    """One weight, and a bias of each layer's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        for layer in self.layers:
            layer.weight = self.layers[0].weight

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        a, b, c, d = self.layers
        return torch.sigmoid(a(x)) * b(x), torch.sigmoid(c(z)) * d(z)


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_products_of_tied_weights_have_their_own_biases(method: str) -> None:
    model, inputs = seeded(Tied), (randn(5, 8), randn(5, 8, seed=1))
    qmodel = qfx.quantize(model, inputs, method=method, backend="x86")
    assert targets(qmodel).count(calls.linear) == 2
    for got, expected in zip(run(qmodel, inputs), run(model, inputs), strict=True):
        assert sqnr(expected, got) > 25


def test_one_row_lies_in_memory_of_its_own() -> None:
    model, x = seeded(Parallel, lambda *values: list(values)), randn(1, 8)
    for got in run(dynamic(model, x), (x,)):
        assert got.stride() == (8, 1)
        assert got.untyped_storage().nbytes() == 8 * 4


def test_the_report_still_knows_every_layer() -> None:
    use = lambda q, k, v: q.mean(-1) * k.mean(-1) * v.mean(-1)  # noqa: E731
    qmodel = dynamic(seeded(Parallel, use, (8, 4, 24)), randn(2, 5, 8), bound=10)
    sites = [site for site in qmodel.report.sites if site.op == "Linear"]
    assert [site.module_path for site in sites] == ["layers.0", "layers.1", "layers.2"]
    assert [site.macs for site in sites] == [2 * 5 * 8 * width for width in (8, 4, 24)]
    assert {site.kernel for site in sites} == {"onednn.qlinear"}
    assert qmodel.report.coverage == 1.0
    shown = {node.name: node for node in qmodel.graph.nodes}
    assert [shown[site.step].kwargs["length"] for site in sites] == [8, 4, 24]


def hooked(module: nn.Module) -> nn.Module:
    """A module that nothing looks into."""
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("between", "products"),
    [(nn.Tanh(), 2), (nn.LayerNorm(8), 1), (nn.Linear(8, 8), 3), (hooked(nn.Tanh()), 2)],
)
def test_only_neighbours_of_one_kind_are_merged(between: nn.Module, products: int) -> None:
    """A post-op makes another kind; a product, or what may hold one, lies between."""
    qmodel = dynamic(seeded(Apart, between), randn(5, 8))
    assert targets(qmodel).count(calls.linear) == products


def test_sums_of_layers_stay_residuals() -> None:
    qmodel = dynamic(seeded(Parallel, lambda a, b, c: a + b + c), randn(5, 8))
    assert targets(qmodel).count(calls.linear) == 1
    assert targets(qmodel).count(calls.linear_add) == 2


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.as_strided((8, 5), (5, 1)),
        lambda x: torch.as_strided(x.unflatten(1, (2, 4)), (8, 5), (5, 1)),
    ],
)
def test_what_is_not_in_the_vocabulary_sees_memory_as_with_float(
    view: Callable[[Tensor], Tensor],
) -> None:
    model = seeded(Parallel, lambda a, b, c: view(a) @ torch.sigmoid(b) @ c.mT)
    qmodel = dynamic(model, randn(5, 8))
    assert targets(qmodel).count(calls.linear) == 1
    assert targets(qmodel).count(kernels.clone_contiguous) == 1


@pytest.mark.slow
def test_merged_layers_compile_and_export() -> None:
    model, x = seeded(Parallel, attend), randn(2, 5, 8)
    qmodel = dynamic(model, x)
    expected = run(qmodel, (x,))
    with torch.no_grad():
        compiled = torch.compile(qmodel, backend="aot_eager")(x)
        exported = torch.export.export(qmodel, (x,)).module()(x)
    assert torch.equal(compiled, expected)
    assert torch.equal(exported, expected)


AFTER = """\
- layers_0 : f32[5,8] = linear(%x_8, %x_9, %x_10, packed.weight)
- layers_1 : f32[5,8] = linear(%x_8, %x_9, %x_10, packed.weight_1)
+ layers_0_1 : f32[5,16] = linear(%x_8, %x_9, %x_10, packed.weight_2)
+ layers_0 : f32[5,8] = narrow(%layers_0_1, dim=-1, start=0, length=8)
+ layers_1 : f32[5,8] = narrow(%layers_0_1, dim=-1, start=8, length=8)
"""


def test_the_graph_before_and_after() -> None:
    model = seeded(lambda: Parallel(lambda one, other: one * other, (8, 8)))
    shown = change(dynamic(model, randn(5, 8)).history, "merge-products")
    brief = re.sub(r"(?<=^[-+] )%", "", shown, flags=re.M).replace("qfx.backends.onednn.calls.", "")
    assert re.sub(r"@(packed\.weight\w*), .*(?=\)$)", r"\1", brief, flags=re.M) == AFTER
