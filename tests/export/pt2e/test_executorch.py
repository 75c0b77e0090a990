"""Programs for ExecuTorch: the form that XNNPACK takes, and what it runs where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.export.pt2e.forms import call_hardtanh
from qfx.numerics.measures import error_of


class Residual(nn.Module):
    """Values that several read, inside and outside of what XNNPACK takes; activations to fuse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.conv1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6())
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = torch.relu(self.conv2(self.conv1(x)) + x)
        return self.head(self.pool(y).flatten(1)), torch.special.erf(x)


class Block(nn.Module):
    """Self-attention and a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = (part(y).unflatten(-1, (4, 8)).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.o(y)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


def g(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, g(1, 3, 12, 12)),
    "block": (Block, g(1, 6, 32)),
}


def exported(
    case: str, method: str = "static", backend: str = "xnnpack"
) -> tuple[qfx.QuantizedModel, torch.export.ExportedProgram]:
    model, x = CASES[case]
    qmodel = qfx.quantize(model().eval(), x, method=method, backend=backend)
    return qmodel, qfx.export_pt2e(qmodel, x)


@pytest.fixture(scope="module")
def residual() -> tuple[qfx.QuantizedModel, torch.export.ExportedProgram]:
    return exported("residual")


def calls(graph: fx.Graph, name: str) -> list[fx.Node]:
    nodes = (node for node in graph.nodes if node.op == "call_function")
    return [node for node in nodes if str(node.target).startswith(name)]


def first(results: Tensor | tuple[Tensor, ...]) -> Tensor:
    return results if isinstance(results, Tensor) else results[0]


@pytest.mark.parametrize("backend", ["xnnpack", "reference"])
def test_every_reader_has_a_dequantize_of_its_own(backend: str) -> None:
    qmodel, program = exported("residual", backend=backend)
    read = calls(program.graph, "quantized_decomposed.dequantize")
    assert all(len(node.users) == 1 for node in read)
    quantized = calls(program.graph, "quantized_decomposed.quantize")
    assert any(len(node.users) > 1 for node in quantized), "a value that several read"
    x = g(1, 3, 12, 12, seed=5)
    with torch.no_grad():
        for mine, theirs in zip(program.module()(x), qmodel.reference(x), strict=True):
            assert torch.equal(mine, theirs)


def test_layers_and_sums_stand_between_dequantize_and_quantize(
    residual: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    graph = residual[1].graph
    layers = [*calls(graph, "aten.conv2d"), *calls(graph, "aten.linear")]
    sums = calls(graph, "aten.add")
    assert (len(layers), len(sums)) == (4, 1)
    for node in (*layers, *sums):
        operands = node.args[:2]
        assert all("dequantize" in str(o.target) for o in operands if isinstance(o, fx.Node))
        (reader,) = node.users
        if str(reader.target) in ("aten.relu.default", "aten.hardtanh.default"):
            (reader,) = reader.users
        assert str(reader.target) == "quantized_decomposed.quantize_per_tensor.default"
        assert reader.args[3:] == (-128, 127, torch.int8)


def test_clamps_between_numbers_are_hardtanh(
    residual: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    graph = residual[1].graph
    assert [node.args[1:] for node in calls(graph, "aten.hardtanh")] == [(0.0, 6.0)] * 2
    assert not calls(graph, "aten.clamp")


def test_other_clamps_stay() -> None:
    def forward(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.clamp(min=0.5), n.clamp(0, 3), x.clamp(-1, 1)

    class Clamps(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return forward(x, n)

    program = torch.export.export(Clamps(), (g(4), torch.arange(4)))
    call_hardtanh(program.graph)
    assert [len(calls(program.graph, f"aten.{n}")) for n in ("clamp", "hardtanh")] == [2, 1]


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(2)), g(1, 2, 8, 8), "to (2, 2)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), g(2, 4), "no integer kernel for softmax"),
    ],
)
def test_what_the_delegate_lacks_is_a_reason(model: nn.Module, x: Tensor, message: str) -> None:
    report = qfx.quantize(model.eval(), x, backend="xnnpack").report
    assert message in report.sites[-1].message
    assert report.sites[0].decision == "quantized"


def test_weights_alone_are_no_method_of_it() -> None:
    with pytest.raises(qfx.CoverageError, match="keeps no weight of linear in integers"):
        qfx.quantize(nn.Linear(8, 8).eval(), g(2, 8), method="weight_only", backend="xnnpack")


def test_what_was_trained_for_it_is_kept_and_exported(tmp_path: Path) -> None:
    x = g(2, 3, 8, 8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6())
    prepared = qfx.prepare(model, x, method="qat", backend="xnnpack")
    prepared(x).sum().backward()
    qmodel = qfx.convert(prepared)
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "model.qfx"))
    assert loaded.backend == "xnnpack"
    program = qfx.export_pt2e(loaded, x)
    assert len(calls(program.graph, "aten.hardtanh")) == 1
    with torch.no_grad():
        assert torch.equal(program.module()(x), qmodel(x))


# -- ExecuTorch itself -----------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None,
    reason="executorch is not installed (benchmarks/requirements-executorch.txt)",
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("case", "method", "layers"),
    [("residual", "static", 4), ("block", "static", 6), ("block", "dynamic", 6)],
)
def test_executorch_runs_every_layer_in_integers(case: str, method: str, layers: int) -> None:
    from benchmarks import executorch

    qmodel, program = exported(case, method)
    lowered = executorch.lower(program)
    assert (lowered.integer_layers, lowered.layers) == (layers, layers)
    x = CASES[case][1]
    with torch.no_grad():
        expected = first(qmodel.reference(x))
    assert error_of(expected, executorch.run(lowered.data, x)).sqnr > 35
