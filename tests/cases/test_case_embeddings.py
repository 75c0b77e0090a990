"""Embeddings and bags: rows in 8 and 4 bits, dynamic and weight-only, on every backend."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import QConfig, QuantSpec
from qfx.backends.stored_weights import embedding_rows
from qfx.backends.stored_weights import emitters as weight_emit
from tests.cases.embeddings import BACKENDS, ROWS, WIDTH, Functional, Tied, affine, signed, tokens
from tests.cases.flow import less_a_bit, run, seeded, sqnr

CONFIGS: dict[str, tuple[QConfig, float]] = {  # with the SQNR that they reach at least
    "int8": (signed(8), 35),
    "uint8": (affine(8), 35),
    "int4": (signed(4), 15),
    "uint4": (affine(4), 15),
    "int4, groups": (signed(4, group_size=32), 15),
    "uint4, groups": (affine(4, group_size=32), 15),
    "float16": (QConfig(weight=QuantSpec(torch.float16)), 60),
}


class Bag(nn.Module):
    """A bag by flat indices and offsets, with weights where it sums."""

    def __init__(self, mode: str, *, weighted: bool = False, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ROWS, WIDTH, mode=mode, **options)
        self.weighted = weighted

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        weights = torch.linspace(0.5, 2, x.numel()).view(x.shape) if self.weighted else None
        return self.bag(x, offsets, per_sample_weights=weights)


OFFSETS = torch.tensor([0, 3, 3, 7])  # the second bag is empty


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "embedding": (lambda: nn.Embedding(ROWS, WIDTH), (tokens(3, 5),)),
    "padded embedding": (lambda: nn.Embedding(ROWS, WIDTH, padding_idx=0), (tokens(2, 3, 4),)),
    "sum": (lambda: Bag("sum"), (tokens(4, 6),)),
    "mean": (lambda: Bag("mean"), (tokens(4, 6),)),
    "max": (lambda: Bag("max"), (tokens(4, 6),)),
    "sum, offsets": (lambda: Bag("sum"), (tokens(9), OFFSETS)),
    "mean, offsets": (lambda: Bag("mean"), (tokens(9), OFFSETS)),
    "max, offsets": (lambda: Bag("max"), (tokens(9), OFFSETS)),
    "mean, last offset": (
        lambda: Bag("mean", include_last_offset=True),
        (tokens(9), torch.tensor([0, 3, 3, 9])),
    ),
    "sum, last offset of none": (
        lambda: Bag("sum", include_last_offset=True),
        (tokens(4, 6),),
    ),
    "mean, last offset of none": (
        lambda: Bag("mean", include_last_offset=True),
        (tokens(4, 6),),
    ),
    "sum, strided": (lambda: Bag("sum"), (tokens(9, 2)[:, 0], OFFSETS.repeat_interleave(2)[::2])),
    "weighted": (lambda: Bag("sum", weighted=True), (tokens(4, 6),)),
    "weighted, offsets": (lambda: Bag("sum", weighted=True), (tokens(9), OFFSETS)),
    "sum, padded": (lambda: Bag("sum", padding_idx=3), (tokens(4, 30),)),
    "mean, padded": (lambda: Bag("mean", padding_idx=-2), (tokens(4, 30),)),
    "int32": (
        lambda: Bag("mean"),
        (tokens(9, dtype=torch.int32), OFFSETS.to(torch.int32)),
    ),
    "functional": (Functional, (tokens(4, 6),)),
}


class Every(nn.Module):
    """Some of ``MODELS``, each on inputs of its own."""

    def __init__(self, names: Iterable[str] = MODELS) -> None:
        super().__init__()
        self.models = nn.ModuleList(seeded(MODELS[name][0]) for name in names)
        self.eval()

    def forward(self, inputs: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [model(*each) for model, each in zip(self.models, inputs, strict=True)]


KINDS = ("embedding", "sum", "mean, offsets", "max", "weighted, offsets", "mean, padded")
"""What has a kernel, or a way around one, of its own. How indices are given is another matter than
how rows are kept: all of ``MODELS`` meet both widths, and both kinds of codes, on each backend."""


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_kept_in_few_bits(config: str, backend: str) -> None:
    qconfig, bound = CONFIGS[config]
    names = tuple(MODELS) if config in ("int8", "uint4") else KINDS
    model, inputs = Every(names), ([MODELS[name][1] for name in names],)
    qmodel = qfx.quantize(model, inputs, method="weight_only", qconfig=qconfig, backend=backend)
    looked_up = [s for s in qmodel.report.sites if "embedding" in s.op.lower()]
    reads = len(names) + 2 * ("functional" in names)  # which reads three times
    assert len(looked_up) == reads
    assert {s.decision for s in looked_up} == {"quantized"}
    assert qmodel.report.coverage is None
    results = (run(each, inputs) for each in (model, qmodel.reference, qmodel))
    for name, expected, reference, actual in zip(names, *results, strict=True):
        assert actual.dtype == torch.float32, name
        assert sqnr(expected, actual) > bound, name
        # 4-bit kernels keep scales as halves; the others sum the same numbers in another order.
        assert sqnr(reference, actual) > (60 if "4" in config else 100), name


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", ["int8", "int4"])
def test_indices_may_be_strided(config: str, backend: str) -> None:
    x, (qconfig, _) = tokens(6, 8), CONFIGS[config]
    strided = [(each,) for each in (x[:, 1], x[:, ::2], x.t())]
    model = Every(("embedding", "sum", "sum"))
    qmodel = qfx.quantize(model, (strided,), method="weight_only", qconfig=qconfig, backend=backend)
    dense = [(each.clone(memory_format=torch.contiguous_format),) for (each,) in strided]
    with torch.no_grad():  # not through ``run``, whose copies may have other strides
        results = zip(qmodel(strided), qmodel(dense), strict=True)
    for actual, expected in results:
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_embedding_before_linear_is_dynamic(backend: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 8)))
    x = tokens(3, 5)
    qmodel = qfx.quantize(model, x, method="dynamic", backend=backend)
    assert [s.decision for s in qmodel.report.sites] == ["quantized", "quantized"]
    assert qmodel.report.coverage == 1.0
    for inputs in (x, tokens(1, 2), tokens(7, 4, 3)):
        assert sqnr(run(model, (inputs,)), run(qmodel, (inputs,))) > less_a_bit(35, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_multiply_is_no_failure(backend: str) -> None:
    qmodel = qfx.quantize(
        seeded(lambda: nn.Embedding(ROWS, WIDTH)), tokens(3), method="dynamic", backend=backend
    )
    assert qmodel.report.coverage is None
    assert run(qmodel, (torch.zeros(0, 2, dtype=torch.int64),)).shape == (0, 2, WIDTH)


def test_static_leaves_embeddings_float_and_says_what_to_do() -> None:
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 8)).eval()
    qmodel = qfx.quantize(model, tokens(3, 5), backend="x86")
    embedding, _ = qmodel.report.sites
    assert (embedding.decision, embedding.reason) == ("float", "not-static")
    assert "weight_only" in embedding.remedy
    mapping = qfx.get_default_qconfig_mapping("x86")
    mapping.set_object_type(nn.Embedding, qfx.get_default_qconfig("x86", "weight_only"))
    mixed = qfx.quantize(model, tokens(3, 5), backend="x86", qconfig=mapping)
    assert [s.decision for s in mixed.report.sites] == ["quantized", "quantized"]


@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
def test_rows_are_affine_by_default_and_pay_on_skewed_rows(method: str) -> None:
    """Values of one sign use all codes: 6 dB for one more bit."""
    model = seeded(lambda: nn.Embedding(ROWS, WIDTH))
    with torch.no_grad():
        model.weight.abs_()
    x = tokens(3, 9)
    ours = qfx.quantize(model, x, method=method, backend="x86")
    symmetric = qfx.quantize(model, x, method="weight_only", qconfig=signed(8), backend="x86")
    expected = run(model, (x,))
    assert sqnr(expected, run(ours, (x,))) > sqnr(expected, run(symmetric, (x,))) + 5


PREPACK = {
    8: (
        torch.ops.quantized.embedding_bag_byte_prepack,
        torch.ops.quantized.embedding_bag_byte_unpack,
    ),
    4: (
        torch.ops.quantized.embedding_bag_4bit_prepack,
        torch.ops.quantized.embedding_bag_4bit_unpack,
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", PREPACK)
@pytest.mark.parametrize("name", ["embedding", "sum"])
def test_rows_far_from_zero_are_as_near_as_torch_has_them(
    name: str, bits: int, backend: str
) -> None:
    make, inputs = MODELS[name]
    model = seeded(make)
    (weight,) = model.parameters()
    with torch.no_grad():
        weight.mul_(0.1).add_(5)
        weight[0] = 5.0  # of no range
        weight[1] = 0.0
    options: Any = {"method": "weight_only", "backend": backend, "qconfig": affine(bits)}
    qmodel = qfx.quantize(model, inputs, **options)
    if bits == 8:
        default = qfx.quantize(model, inputs, method="weight_only", backend=backend)
        assert torch.equal(run(default, inputs), run(qmodel, inputs))
    expected, actual = run(model, inputs), run(qmodel, inputs)
    assert sqnr(run(qmodel.reference, inputs), actual) > 110
    pack, unpack = PREPACK[bits]
    theirs = copy.deepcopy(model)
    next(theirs.parameters()).data = unpack(pack(weight.data))
    assert sqnr(expected, actual) > sqnr(expected, run(theirs, inputs)) - 0.1
    assert qmodel.report.size_bytes[1] == ROWS * (WIDTH * bits // 8 + 8)
    without = QuantSpec(torch.uint8, per_channel=True, quant_max=2**bits - 1, offset=False)
    qmodel = qfx.quantize(model, inputs, **options | {"qconfig": QConfig(weight=without)})
    assert sqnr(expected, run(qmodel, inputs)) < sqnr(expected, actual) - 15


@pytest.mark.parametrize("spec", [affine(4), affine(4, group_size=32)])
def test_offsets_of_groups_and_of_searched_ranges(spec: QConfig) -> None:
    model, x = seeded(lambda: nn.Embedding(ROWS, WIDTH)), tokens(3, 9)
    with torch.no_grad():
        model.weight.add_(3)
    expected, made = run(model, (x,)), []
    for observer in ("per_channel_minmax", "per_channel_mse"):
        assert spec.weight is not None
        qconfig = QConfig(weight=dataclasses.replace(spec.weight, observer=observer))
        qmodel = qfx.quantize(model, x, method="weight_only", qconfig=qconfig, backend="x86")
        assert torch.allclose(run(qmodel, (x,)), run(qmodel.reference, (x,)), atol=1e-6)
        made.append(sqnr(expected, run(qmodel, (x,))))
    assert made[1] > made[0] + 0.3 > 30


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tied_weight_has_no_offset(backend: str) -> None:
    """Integer kernels of layers want a code for zero."""
    model, x = seeded(Tied), tokens(3, 5)
    spec = QuantSpec(torch.uint8, per_channel=True)
    qconfig = QConfig(weight=spec, rows=spec)
    qmodel = qfx.quantize(model, x, method="weight_only", qconfig=qconfig, backend=backend)
    assert qmodel.report.size_bytes[1] == ROWS * (WIDTH + 5)
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 35


def test_a_configuration_may_say_how_rows_are_kept() -> None:
    layers = QuantSpec(torch.int8, symmetric=True, per_channel=True)
    qconfig = QConfig(weight=layers, rows=affine(4).weight)
    assert QConfig.from_dict(qconfig.to_dict()) == qconfig
    model = seeded(lambda: nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 8)))
    qmodel = qfx.quantize(model, tokens(3), method="weight_only", qconfig=qconfig, backend="x86")
    kernels = [site.kernel for site in qmodel.report.sites]
    assert kernels[0] == "4-bit rows"
    assert "4-bit" not in kernels[1]


# -- what runs -----------------------------------------------------------------------------------
KERNELS = {
    ("x86", 8, "embedding"): "int8 rows",
    ("x86", 4, "embedding"): "4-bit rows",
    ("x86", 8, "mean"): "quantized.embedding_bag_byte_rowwise_offsets",
    ("x86", 4, "mean"): "quantized.embedding_bag_4bit_rowwise_offsets",
    ("x86", 8, "max"): "int8 rows, float pool",
    ("fbgemm", 8, "embedding"): "quantized.embedding_byte",
    ("fbgemm", 4, "embedding"): "quantized.embedding_4bit",
    ("fbgemm", 8, "mean"): "quantized.embedding_bag_byte",
    ("qnnpack", 4, "mean"): "quantized.embedding_bag_4bit",
    ("fbgemm", 4, "max"): "4-bit rows, float pool",
}


@pytest.mark.sweep
@pytest.mark.parametrize(("backend", "bits", "name"), KERNELS)
def test_kernels(backend: str, bits: int, name: str) -> None:
    make, inputs = MODELS[name]
    qmodel = qfx.quantize(
        seeded(make), inputs, method="weight_only", qconfig=signed(bits), backend=backend
    )
    assert [s.kernel for s in qmodel.report.sites] == [KERNELS[backend, bits, name]]


def test_a_wrong_kernel_of_rows_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_emit, "probe", lambda *_: False)
    make, inputs = MODELS["sum, offsets"]
    model = seeded(make)
    qmodel = qfx.quantize(model, inputs, method="weight_only", backend="x86")
    assert qmodel.report.sites[0].kernel == "int8 rows, float pool"
    assert sqnr(run(model, inputs), run(qmodel, inputs)) > 35


@pytest.mark.slow
def test_copies_and_compiled_code() -> None:
    kept, each = (
        ("int8", "uint4", "int4, groups"),
        ("embedding", "mean, offsets", "weighted", "mean, padded"),
    )
    names = [name for _ in kept for name in each]
    mapping = qfx.QConfigMapping()
    for i, config in enumerate(config for config in kept for _ in each):
        mapping.set_module_name(f"models.{i}", CONFIGS[config][0])
    model, inputs = Every(names), ([MODELS[name][1] for name in names],)
    qmodel = qfx.quantize(model, inputs, method="weight_only", qconfig=mapping, backend="x86")
    sites = [s for s in qmodel.report.sites if "embedding" in s.op.lower()]
    assert [s.decision for s in sites] == ["quantized"] * len(names)
    torch._dynamo.reset()
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    results = (run(each, inputs) for each in (copy.deepcopy(qmodel), compiled, qmodel))
    for name, copied, same, expected in zip(names, *results, strict=True):
        assert torch.equal(copied, expected), name
        assert torch.allclose(same, expected, atol=1e-5), name


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack", "reference"])
@pytest.mark.parametrize("config", ["int8", "int4", "uint4, groups", "float16"])
def test_copies_of_packed_parameters(config: str, backend: str) -> None:
    make, inputs = MODELS["mean, offsets"]
    qconfig, _ = CONFIGS[config]
    qmodel = qfx.quantize(
        seeded(make), inputs, method="weight_only", qconfig=qconfig, backend=backend
    )
    assert torch.equal(run(copy.deepcopy(qmodel), inputs), run(qmodel, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_out_of_range_are_errors(backend: str) -> None:
    for name in ("embedding", "sum"):
        make, inputs = MODELS[name]
        qmodel = qfx.quantize(seeded(make), inputs, method="weight_only", backend=backend)
        with pytest.raises((IndexError, RuntimeError)):
            run(qmodel, (torch.full_like(inputs[0], ROWS),))


@pytest.mark.parametrize("bits", [8, 4])
def test_empty_bags_of_packed_rows(bits: int) -> None:
    codes = torch.arange(12, dtype=torch.uint8).view(3, 4)
    zero = torch.ones(3, dtype=torch.int32)
    rows = embedding_rows.pack_rows(codes, torch.full((3,), 0.5), zero, bits)
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert torch.equal(embedding_rows.sum_of_rows(none, rows, bits=bits), torch.zeros(2, 4))
