"""Sizes of quantized embeddings, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import QConfig, QuantSpec, vocab
from qfx.testing.checking import run as run_pass
from qfx_passes.canonical.canonicalize import Canonicalize
from tests.cases.embeddings import BACKENDS, ROWS, WIDTH, Functional, Tied, affine, signed, tokens
from tests.cases.flow import run, seeded, sqnr, targets


@pytest.mark.parametrize(("bits", "each"), [(8, WIDTH + 5), (4, WIDTH // 2 + 5)])
def test_sizes_count_half_a_byte_for_4_bits(bits: int, each: int) -> None:
    """A row: its codes, a float32 scale, a zero point of one byte."""
    model = seeded(lambda: nn.Embedding(ROWS, WIDTH))
    qmodel = qfx.quantize(
        model, tokens(3), method="weight_only", qconfig=signed(bits), backend="x86"
    )
    assert qmodel.report.size_bytes == (4 * ROWS * WIDTH, ROWS * each)
    state = list(qmodel.buffers())  # what runs has no use for zero points that are zero
    assert sum(t.numel() * t.element_size() for t in state) == ROWS * (each - 1)


@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tied_weights_are_stored_once(backend: str, method: str) -> None:
    model, x = seeded(Tied), tokens(3, 5)
    qmodel = qfx.quantize(model, x, method=method, backend=backend)
    assert qmodel.report.size_bytes == (4 * ROWS * WIDTH, ROWS * (WIDTH + 5))
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 35
    assert model.out.weight is model.embed.weight


def test_tied_weights_of_other_specs_are_stored_twice() -> None:
    model, x = seeded(Tied), tokens(3, 5)
    mapping = qfx.QConfigMapping().set_global(signed(8)).set_object_type(nn.Embedding, signed(4))
    qmodel = qfx.quantize(model, x, method="weight_only", qconfig=mapping, backend="x86")
    assert qmodel.report.size_bytes[1] == ROWS * (WIDTH + 5 + WIDTH // 2 + 5)
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 15


class Odd(nn.Module):
    """Rows of 15 values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.bag = nn.Embedding(ROWS, 15), nn.EmbeddingBag(ROWS, 15)
        self.layer = nn.Linear(15, ROWS, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [self.embedding(x), self.bag(x), self.layer(y)]


class EachKept(nn.Module):
    """One of them for each way to keep rows."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.models = nn.ModuleList(seeded(Odd, seed=seed) for seed in range(count))

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [result for model in self.models for result in model(x, y)]


def of_odd_width(backend: str) -> tuple[nn.Module, qfx.QuantizedModel, tuple[Tensor, Tensor]]:
    """A model with rows of 15 codes of four bits, quantized, and its inputs."""
    qconfigs, mapping = (signed(4), affine(4), affine(4, group_size=5)), qfx.QConfigMapping()
    for i, qconfig in enumerate(qconfigs):
        mapping.set_module_name(f"models.{i}", qconfig)
    model = EachKept(len(qconfigs)).eval()
    inputs = (tokens(3, 5), torch.linspace(-1, 1, 30).view(2, 15))
    options = {"method": "weight_only", "qconfig": mapping, "backend": backend}
    return model, qfx.quantize(model, inputs, **options), inputs


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_odd_width_are_two_codes_a_byte(backend: str) -> None:
    model, qmodel, inputs = of_odd_width(backend)
    codes = [b for n, b in qmodel.reference.named_buffers() if n.endswith("_q4")]
    assert [c.shape for c in codes] == 9 * [(ROWS, 8)]
    results = (run(each, inputs) for each in (model, qmodel.reference, qmodel))
    for expected, reference, actual in zip(*results, strict=True):
        assert sqnr(expected, actual) > 15
        assert sqnr(reference, actual) > 100


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_odd_width_compile(backend: str) -> None:
    _, qmodel, inputs = of_odd_width(backend)
    torch._dynamo.reset()
    compiled = torch.compile(qmodel, backend="aot_eager")
    for same, actual in zip(run(compiled, inputs), run(qmodel, inputs), strict=True):
        assert torch.allclose(same, actual, atol=1e-6)


def test_the_state_of_a_prepared_model_round_trips() -> None:
    x = tokens(3, 5)
    models = [seeded(Tied, seed=seed) for seed in (0, 1)]
    prepared, other = (qfx.prepare(m, x, method="dynamic", backend="x86") for m in models)
    other.load_state_dict(prepared.state_dict())
    assert torch.equal(run(qfx.convert(other), (x,)), run(qfx.convert(prepared), (x,)))


UNFIT = {
    "per tensor": (QConfig(weight=QuantSpec(torch.int8)), "rows have a scale each"),
    "group": (signed(4, group_size=48), "group_size=48 does not divide the 64 values"),
    "axis": (signed(8, axis=1), "axis 0.*not axis 1"),
    "int16": (QConfig(weight=QuantSpec(torch.int16, per_channel=True)), "int8 or uint8"),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("name", UNFIT)
def test_unfit_configurations_are_told_once(name: str, backend: str) -> None:
    qconfig, message = UNFIT[name]
    mapping = qfx.QConfigMapping().set_global(signed(8))
    mapping.set_object_type(nn.Embedding, qconfig)
    model = seeded(
        lambda: nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS), nn.ReLU())
    )
    with pytest.warns(qfx.QfxWarning, match=message) as caught:
        qmodel = qfx.quantize(
            model, tokens(3), method="weight_only", qconfig=mapping, backend=backend
        )
    assert len(caught) == 1
    assert qmodel.report.sites[0].reason == "config-unfit"
    assert sqnr(run(model, (tokens(3),)), run(qmodel, (tokens(3),))) > 35


def test_a_renormalized_weight_stays_as_written() -> None:
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH, max_norm=1.0), nn.Linear(WIDTH, 4)).eval()
    qmodel = qfx.quantize(model, tokens(3), method="dynamic", backend="x86")
    assert qmodel.report.sites[0].reason == "opaque-module"
    assert "max_norm" in qmodel.report.sites[0].message


def test_spellings_keep_what_gradients_need() -> None:
    made = nn.Embedding(ROWS, WIDTH, padding_idx=1, sparse=True, scale_grad_by_freq=True).eval()
    graph = run_pass(Canonicalize(), made, (tokens(3),)).graph_module.graph
    (node,) = (n for n in graph.nodes if n.target is vocab.EMBEDDING)
    assert node.kwargs == {"padding_idx": 1, "sparse": True, "scale_grad_by_freq": True}
    assert node.args[1].target == "weight"


def test_every_functional_spelling_is_one_operation() -> None:
    graph = run_pass(Canonicalize(), seeded(Functional), (tokens(4, 6),)).graph_module
    assert targets(graph).count(vocab.EMBEDDING) == 2
    assert targets(graph).count(vocab.EMBEDDING_BAG) == 1
