"""A region that is called in several ways has a graph for each; what none takes runs as written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph.ways import ways_of
from qfx.numerics.measures import sqnr

Past = tuple[Tensor, Tensor]


class Layer(nn.Module):
    """Attention that reads the keys and values of calls before, if there are any."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm, self.scale = nn.LayerNorm(width), 1.0

    def forward(
        self, x: Tensor, past: Past | None = None, causal: bool = True
    ) -> tuple[Tensor, Past]:
        read = self.norm(x)
        query, key, value = self.query(read), self.key(read), self.value(read)
        if past is not None:
            key, value = torch.cat([past[0], key], 1), torch.cat([past[1], value], 1)
        scores = query @ key.transpose(1, 2) / 6
        if causal and query.shape[1] > 1:
            later = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool)
            scores = scores.masked_fill(later.triu(1 + key.shape[1] - query.shape[1]), -1e9)
        return x + self.scale * self.out(scores.softmax(-1) @ value), (key, value)


class Loop(nn.Module):
    """Decodes greedily with a cache of tuples in a layer or more, until a token says so."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.layers = nn.ModuleList(Layer() for _ in range(1))

    def forward(self, ids: Tensor, most: int = 3, causal: bool = True) -> Tensor:
        past: list[Past | None] = [None]
        found = []
        for _ in range(most):
            x = self.embed(ids)
            for at, layer in enumerate(self.layers):
                x, past[at] = layer(x, past[at], causal)
            found.append(self.head(x)[:, -1])
            ids = found[-1].argmax(-1, keepdim=True)
            if int(ids[0, 0]) == 99:
                break
        return torch.stack(found)


torch.manual_seed(0)
MODEL, IDS = Loop().eval(), torch.randint(0, 50, (2, 7))


@pytest.fixture(scope="module", params=["dynamic", "static"])
def quantized(request: pytest.FixtureRequest) -> nn.Module:
    made: nn.Module = qfx.quantize(MODEL, IDS, method=request.param)
    return made


@torch.no_grad()
def test_a_graph_for_each_way(quantized: nn.Module) -> None:
    names = ["embed", "layers.0", "layers.0#2", "head"]
    assert sorted(quantized.regions) == sorted(names)
    assert quantized.get_submodule("layers.0") is quantized.regions["layers.0"]
    assert sqnr(MODEL(IDS), quantized(IDS)) > 30
    assert sqnr(MODEL(IDS[:1, :4], 5), quantized(IDS[:1, :4], 5)) > 30
    assert "ran layer by layer" not in str(quantized.regions)


def test_sites_and_work_of_each_way(quantized: nn.Module) -> None:
    report = quantized.report
    assert {"layers.0", "layers.0#2"} <= {site.region for site in report.sites}
    linear = 2 * 9 * 32 * (4 * 32 + 50)  # two sequences of 7 tokens, and twice one more
    products = 2 * 2 * 32 * (7 * 7 + 8 + 9)
    assert report.coverage == pytest.approx(linear / (linear + products), abs=0.005)
    assert str(quantized.regions).count("Layer ") == 2


def test_the_ways_share_their_weights(quantized: nn.Module) -> None:
    first, second = quantized.regions["layers.0"], quantized.regions["layers.0#2"]
    held = dict(second.reference.named_buffers())
    codes = [(n, t) for n, t in first.reference.named_buffers() if n.endswith("weight_q")]
    assert len(codes) == 4
    assert all(held[name] is tensor for name, tensor in codes)
    before, after = quantized.report.size_bytes
    assert after < 0.51 * before


@torch.no_grad()
def test_a_call_that_no_graph_takes_runs_layer_by_layer(quantized: nn.Module) -> None:
    quantized = copy.deepcopy(quantized)
    assert sqnr(MODEL(IDS, 3, False), quantized(IDS, 3, False)) > 30
    assert "layers.0: 3 calls ran layer by layer" in str(quantized.regions)
    assert "causal" in str(quantized.regions)


@torch.no_grad()
def test_what_is_set_afterwards_is_heeded(quantized: nn.Module) -> None:
    model, quantized = copy.deepcopy(MODEL), copy.deepcopy(quantized)
    for each in (model, quantized):
        for layer in each.layers:
            layer.scale = 0.25
            layer.note = "of nobody's business"
    assert quantized.layers[0].scale == 0.25
    assert sqnr(model(IDS), quantized(IDS)) > 30
    assert "'scale' was set" in str(quantized.regions)
    copied = copy.deepcopy(quantized)
    assert torch.equal(copied(IDS), quantized(IDS))
    assert ways_of(copied.layers[0]).inside is not ways_of(quantized.layers[0]).inside


def test_weights_that_are_read_are_those_of_the_graph(quantized: nn.Module) -> None:
    read = quantized.layers[0].query.weight
    assert read.shape == (32, 32)
    assert sqnr(MODEL.layers[0].query.weight, read) > 40
    assert hasattr(quantized.head, "bias")


@torch.no_grad()
def test_in_steps_with_data_that_reaches_one_way_only() -> None:
    prepared = qfx.prepare(MODEL, IDS)
    qfx.calibrate(prepared, [{"ids": IDS, "most": 1}])
    quantized = qfx.convert(prepared)
    assert sqnr(MODEL(IDS), quantized(IDS)) > 30
    assert any("data reached layers.0," in warning for warning in quantized.report.warnings)
    assert torch.equal(qfx.convert(prepared)(IDS), quantized(IDS))
    assert sqnr(MODEL(IDS, 3, False), prepared(IDS, 3, False)) > 60  # float, where no graph fits


class BySize(nn.Module):
    """Folds batch-norm, and takes another way for a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.up, self.recurrent = nn.ConvTranspose2d(16, 8, 2), nn.LSTM(8, 8, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        nn.init.uniform_(self.norm.weight, 0.1, 2)
        self.norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        x = self.up(self.norm(self.conv(x)).relu()).flatten(2).transpose(1, 2)
        x, _ = self.recurrent(x)
        x = self.attend(x, x, x, need_weights=False)[0]
        return 2 * x if double else x


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = BySize()

    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        found: Tensor = self.part(x, double)
        return found if x.sum() != 0 else -found


@torch.no_grad()
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_what_passes_moved_between_layers_is_undone(method: str) -> None:
    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(2, 3, 8, 8)
    quantized = qfx.quantize(model, x, method=method)
    assert list(quantized.regions) == ["part"]
    assert sqnr(model(x, True), quantized(x, True)) > 30
    weights = dict(model.part.named_parameters())
    for name in ("conv.weight", "up.weight", "attend.in_proj_weight", "recurrent.weight_hh_l0"):
        path, _, leaf = name.rpartition(".")
        assert sqnr(weights[name], getattr(quantized.part.get_submodule(path), leaf)) > 35


class WritesArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        x.add_(1)
        return 2 * self.layer(x) if double else self.layer(x)


class Writes(Branches):
    def __init__(self) -> None:
        super().__init__()
        self.part = WritesArgument()  # type: ignore[assignment]


def test_a_graph_that_writes_to_its_arguments_is_not_tried_twice() -> None:
    quantized = qfx.quantize(Writes().eval(), torch.randn(4, 8))
    assert ways_of(quantized.part) is None
    with pytest.raises(qfx.CaptureError, match="region part is called in a way"):
        quantized(torch.randn(4, 8), True)


@torch.no_grad()
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_calls_with_integers_have_a_graph_of_their_own(method: str) -> None:
    class Converts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.float())

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Converts()

        def forward(self, x: Tensor) -> Tensor:
            y = self.part(x) + self.part((8 * x).int())
            return y if x.sum() != 0 else -y

    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(4, 8)
    quantized = qfx.quantize(model, x, method=method)
    assert list(quantized.regions) == ["part", "part#2"]
    assert sqnr(model(x), quantized(x)) > 30
    assert "layer by layer" not in str(quantized.regions)
