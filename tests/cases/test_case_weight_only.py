"""Weight-only quantization and float16 weights of linear layers, on every backend."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import QConfig, QuantSpec, vocab
from qfx.backends import resolve_backend, saturation
from qfx.backends.probing.probe import probe
from qfx.backends.stored_weights import emitters as weight_emit
from qfx.backends.stored_weights import kernels as weight_kernels
from qfx.backends.stored_weights import packs as weight_packs
from qfx.backends.stored_weights.probes import PROBES
from qfx.semantics import packing
from tests.cases.flow import Branches, randn, run, seeded, sqnr, targets

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")
IN, OUT = 256, 128


def int4(**more: Any) -> QConfig:
    spec = QuantSpec(
        torch.int8, symmetric=True, per_channel=True, quant_min=-8, quant_max=7, **more
    )
    return QConfig(weight=spec)


def uint4(**more: Any) -> QConfig:
    spec = QuantSpec(torch.uint8, per_channel=True, quant_min=0, quant_max=15, **more)
    return QConfig(weight=spec)


HALF = QuantSpec(torch.float16)
INT8 = QConfig(weight=QuantSpec(torch.int8, symmetric=True, per_channel=True))
CONFIGS: dict[str, tuple[QConfig, float]] = {  # with the SQNR that they reach at least
    "int8": (INT8, 38),
    "int8 per tensor": (QConfig(weight=QuantSpec(torch.int8, symmetric=True)), 35),
    "uint8": (QConfig(weight=QuantSpec(torch.uint8, per_channel=True)), 38),
    "int8 groups": (
        QConfig(weight=QuantSpec(torch.int8, symmetric=True, per_channel=True, group_size=64)),
        38,
    ),
    "int4": (int4(), 15),
    "int4 groups of 32": (int4(group_size=32), 18),
    "int4 groups of 64": (int4(group_size=64), 17),
    "int4 groups of 128": (int4(group_size=128), 16),
    "uint4 groups of 64": (uint4(group_size=64), 17),
    "uint8, offset": (QConfig(weight=QuantSpec(torch.uint8, per_channel=True, offset=True)), 38),
    "uint4 groups of 64, offset": (uint4(group_size=64, offset=True), 17),
    "float16": (QConfig(weight=HALF), 60),
    "float16 dynamic": (QConfig(QuantSpec(torch.float16, dynamic=True), HALF), 60),
}


class Blocks(nn.Module):
    """Activations and a residual behind the layers, one of them read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(IN, OUT), nn.Linear(OUT, IN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.down(F.gelu(self.up(x)))
        return F.relu6(self.up(y))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(IN, OUT), (5, IN)),
    "linear+relu": (lambda: nn.Sequential(nn.Linear(IN, OUT), nn.ReLU()), (2, 3, IN)),
    "blocks": (Blocks, (2, 3, IN)),
    "a vector": (lambda: nn.Linear(IN, OUT, bias=False), (IN,)),
}


def quantized(model: nn.Module, x: Tensor, qconfig: QConfig, backend: str) -> qfx.QuantizedModel:
    return qfx.quantize(model, x, method=qconfig.method, qconfig=qconfig, backend=backend)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is as fast as float."""
    monkeypatch.setattr(weight_emit, "pays", lambda kernel, form: False)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel is as fast as float."""
    monkeypatch.setattr(weight_emit, "pays", lambda kernel, form: True)


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_made_float_where_they_are_read(backend: str, slow: None) -> None:
    check(MODELS, backend)


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_compute_the_same(backend: str, fast: None) -> None:
    check(("linear+relu", "blocks"), backend)


def check(names: Iterable[str], backend: str) -> None:
    """Every model in every configuration, quantized as one."""
    cases = list(product(CONFIGS, names))
    model = Branches(seeded(MODELS[name][0]) for _, name in cases)
    examples = [randn(*MODELS[name][1]) for _, name in cases]
    mapping = qfx.QConfigMapping()
    for i, (config, _) in enumerate(cases):
        mapping.set_module_name(f"branches.{i}", CONFIGS[config][0])
    qmodel = qfx.quantize(
        model, (examples,), method="weight_only", qconfig=mapping, backend=backend
    )
    layers = [s for s in qmodel.report.sites if s.op.lower() == "linear"]
    assert {s.decision for s in layers} == {"quantized"}
    larger, fewer = [5 * x for x in examples], [x[:1] if x.dim() > 1 else x for x in examples]
    for inputs in (examples, larger, fewer):
        results = (run(each, (inputs,)) for each in (model, qmodel.reference, qmodel))
        for (config, name), expected, reference, actual in zip(cases, *results, strict=True):
            assert sqnr(expected, actual) > CONFIGS[config][1], (config, name)
            assert sqnr(reference, actual) > 90, (config, name)


# -- which kernel --------------------------------------------------------------------------------
KERNELS = {
    ("x86", "int8"): "_weight_int8pack_mm",
    ("x86", "int4 groups of 32"): "_weight_int4pack_mm_for_cpu",
    ("x86", "uint4 groups of 64"): "_weight_int4pack_mm_for_cpu",
    ("x86", "uint4 groups of 64, offset"): "_weight_int4pack_mm_for_cpu",
    ("x86", "float16 dynamic"): "onednn.linear_dynamic_fp16",
    ("fbgemm", "float16 dynamic"): "quantized.linear_dynamic_fp16",
    ("qnnpack", "int8"): "_weight_int8pack_mm",
}


@pytest.mark.parametrize(("backend", "config"), KERNELS)
def test_fast_kernels_are_used_and_cover(backend: str, config: str, fast: None) -> None:
    model, x = seeded(lambda: nn.Linear(IN, OUT)), randn(5, IN)
    qmodel = quantized(model, x, CONFIGS[config][0], backend)
    (site,) = qmodel.report.sites
    assert (site.kernel, site.reason) == (KERNELS[backend, config], "")
    assert qmodel.report.coverage == 1.0


@pytest.mark.parametrize(
    ("config", "kernel"),
    [
        ("int8", "dequantized int8 weight"),
        ("int4 groups of 64", "dequantized 4-bit weight"),
        ("float16 dynamic", "dequantized float16 weight"),
    ],
)
def test_slow_kernels_say_so(config: str, kernel: str, slow: None) -> None:
    model, x = seeded(lambda: nn.Linear(IN, OUT)), randn(5, IN)
    qmodel = quantized(model, x, CONFIGS[config][0], "x86")
    (site,) = qmodel.report.sites
    assert (site.decision, site.kernel, site.reason) == ("quantized", kernel, "slow-kernel")
    assert "slower than float here" in site.message
    assert qmodel.report.coverage == 0.0
    assert "slow-kernel (1)" in str(qmodel.report)


@pytest.mark.parametrize(
    ("config", "shape", "detail"),
    [
        (int4(), (IN, OUT), "takes groups of 32, 64, 128, 256"),
        (int4(group_size=16), (IN, OUT), "takes groups of 32, 64, 128, 256"),
        (int4(group_size=32), (IN, 40), "takes output channels in 16s"),
        (CONFIGS["int8 groups"][0], (IN, OUT), "takes no groups"),
        (CONFIGS["uint8"][0], (IN, OUT), "takes signed codes"),
    ],
)
def test_shapes_that_do_not_fit_say_so(
    config: QConfig, shape: tuple[int, int], detail: str, fast: None
) -> None:
    model, x = seeded(lambda: nn.Linear(*shape)), randn(5, IN)
    qmodel = quantized(model, x, config, "x86")
    assert qmodel.report.sites[0].reason == "unfit-kernel"
    assert detail in qmodel.report.sites[0].message
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 15


def test_a_wrong_kernel_is_not_used(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = type("Wrong", (), {"__bool__": lambda self: False, "detail": "gave 3, exact is 2"})
    monkeypatch.setattr(weight_emit, "probe", lambda *_: verdict())
    qmodel = quantized(seeded(lambda: nn.Linear(IN, OUT)), randn(5, IN), INT8, "x86")
    assert "wrong results here: gave 3, exact is 2" in qmodel.report.sites[0].message


@pytest.mark.parametrize("kernel", PROBES)
def test_probes_find_the_kernels_right_here(kernel: str) -> None:
    verdict = probe(kernel, PROBES[kernel], (), torch.float32)
    assert verdict, verdict.detail


@pytest.mark.parametrize(
    ("kernel", "outputs", "inputs", "expected"),
    [
        (weight_packs.INT8, 4096, 4096, False),
        (weight_packs.INT4, 4096, 4096, False),
        (weight_packs.FBGEMM_HALF, 256, 256, False),
        (weight_packs.FBGEMM_HALF, 1024, 512, True),
    ],
)
def test_what_pays_is_known_by_geometry(
    kernel: weight_packs.PackedKernel, outputs: int, inputs: int, expected: bool
) -> None:
    form = weight_packs.LinearGeometry("w", 4, outputs, inputs, None, None, None)
    assert weight_emit.pays(kernel, form) is expected


@pytest.mark.parametrize("has", [False, True])
def test_halves_pay_where_the_cpu_multiplies_them(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: has, raising=False)
    form = weight_packs.LinearGeometry("w", 4, 64, 64, None, None, None)
    assert weight_emit.pays(weight_packs.ONEDNN_HALF, form) is has


@pytest.mark.slow
@pytest.mark.parametrize("config", ["int8", "int4 groups of 32", "float16 dynamic"])
def test_copies_and_compiled_code_of_kernels(config: str, fast: None) -> None:
    check_copies(config)


def check_copies(config: str) -> None:
    model, x = seeded(Blocks), randn(2, 3, IN)
    qmodel = quantized(model, x, CONFIGS[config][0], "x86")
    torch._dynamo.reset()
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(qmodel)(x), qmodel(x))
        assert torch.allclose(compiled(x), qmodel(x), atol=1e-4)


def test_the_state_of_a_prepared_model_round_trips(slow: None) -> None:
    x = randn(2, IN)
    models = [seeded(Blocks, seed=seed) for seed in (0, 1)]
    prepared, other = (qfx.prepare(m, x, method="weight_only", backend="x86") for m in models)
    other.load_state_dict(prepared.state_dict())
    assert torch.equal(run(qfx.convert(other), (x,)), run(qfx.convert(prepared), (x,)))


@pytest.mark.parametrize(
    ("config", "codes", "scales"),
    [("int8", IN, 1), ("int4 groups of 64", IN // 2, IN // 64), ("float16", 2 * IN, 0)],
)
def test_sizes(config: str, codes: int, scales: int, slow: None) -> None:
    """A row of the weight: its codes, a float32 scale and a byte of zero point per scale."""
    model, x = seeded(lambda: nn.Linear(IN, OUT, bias=False)), randn(5, IN)
    qmodel = quantized(model, x, CONFIGS[config][0], "x86")
    assert qmodel.report.size_bytes == (4 * IN * OUT, OUT * (codes + 5 * scales))
    kept = list(qmodel.buffers())  # no float copy, and no zero points that are zero
    assert sum(t.numel() * t.element_size() for t in kept) == OUT * (codes + 4 * scales)


def test_the_reference_form_names_its_storage() -> None:
    model, x = seeded(lambda: nn.Linear(IN, OUT)), randn(5, IN)
    four = quantized(model, x, int4(group_size=32), "reference")
    assert targets(four.reference) == [vocab.UNPACK, vocab.DEQUANTIZE, vocab.LINEAR]
    half = quantized(model, x, CONFIGS["float16 dynamic"][0], "reference")
    assert targets(half.reference) == [vocab.WIDEN, vocab.LINEAR]


def test_4_bit_weights_of_integer_kernels_are_packed_in_the_reference_form() -> None:
    """Whatever the method: dynamic kernels read them unpacked."""
    weight = int4().weight
    model, x = seeded(lambda: nn.Linear(IN, OUT)), randn(5, IN)
    for backend in BACKENDS:
        highest = saturation.HIGHEST_SAFE if resolve_backend(backend).saturates else None
        qconfig = QConfig(QuantSpec(torch.uint8, dynamic=True, quant_max=highest), weight)
        qmodel = quantized(model, x, qconfig, backend)
        assert vocab.UNPACK in targets(qmodel.reference)
        assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 15
        assert sqnr(run(qmodel.reference, (x,)), run(qmodel, (x,))) > 35


def test_blocks_of_a_large_weight() -> None:
    """More than one block, the last one smaller; an odd count of channels."""
    rows, columns = 2 * weight_kernels.BLOCK // 512 + 7, 512
    codes = (torch.arange(rows * columns) % 15 - 7).to(torch.int8).view(rows, columns)
    x, bias = randn(3, columns), randn(rows)
    for group in (None, 128):
        scale = randn(rows).abs() if group is None else randn(rows, columns // group).abs()
        zero = (torch.arange(scale.numel()) % 5).to(torch.int8).view(scale.shape)
        expanded = scale.view(rows, -1).repeat_interleave(group or columns, 1)
        zeros = zero.view(rows, -1).repeat_interleave(group or columns, 1)
        expected = F.linear(x.double(), (codes - zeros).double() * expanded.double(), bias.double())
        for held, packed in ((codes, None), (packing.pack(codes), torch.int8)):
            y = weight_kernels.linear(
                x, held, scale, zero, bias, group_size=group, packed=packed, post=(("relu",),)
            )
            assert sqnr(expected.relu().float(), y) > 90


def test_gradients_pass_through_widened_layers(slow: None) -> None:
    model, x = seeded(Blocks), randn(2, IN).requires_grad_()
    qmodel = quantized(model, x.detach(), INT8, "x86")
    qmodel(x).sum().backward()
    ours, x.grad = x.grad, None
    qmodel.reference(x).sum().backward()
    assert ours is not None
    assert x.grad is not None
    assert torch.allclose(ours, x.grad, atol=1e-4)


# -- what is refused -----------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_that_do_not_divide_are_told_once(backend: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(IN, 96), nn.ReLU(), nn.Linear(96, 100)))
    model.append(nn.Linear(100, IN)).eval()
    with pytest.warns(
        qfx.QfxWarning, match=r"group_size=64 does not divide the (96|100)"
    ) as caught:
        qmodel = quantized(model, randn(5, IN), int4(group_size=64), backend)
    assert len(caught) == 2  # of two widths
    reasons = [s.reason for s in qmodel.report.sites if s.op.lower() == "linear"]
    assert reasons[1:] == ["config-unfit", "config-unfit"]


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_specs_that_no_layer_keeps(backend: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    for spec, message in (
        (QuantSpec(torch.int16), "int8 or uint8"),
        (QuantSpec(torch.int8, per_channel=True, axis=1), "not axis 1"),
    ):
        mapping = qfx.QConfigMapping().set_global(INT8).set_module_name("0", QConfig(weight=spec))
        with pytest.warns(qfx.QfxWarning, match=message) as caught:
            qmodel = qfx.quantize(
                model, randn(2, 8), method="weight_only", qconfig=mapping, backend=backend
            )
        assert len(caught) == 1
        assert qmodel.report.sites[0].reason == "config-unfit"


def test_halves_of_a_convolution_are_refused_where_no_kernel_takes_them() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.Flatten(), nn.Linear(20, 4)))
    with pytest.warns(qfx.QfxWarning, match="float16") as caught:
        qmodel = quantized(model, randn(1, 4, 5), CONFIGS["float16 dynamic"][0], "x86")
    assert len(caught) == 1
    assert qmodel.report.sites[0].reason == "config-unfit"
    assert quantized(model, randn(1, 4, 5), CONFIGS["float16"][0], "reference").report.counts


def test_weights_beyond_float16_are_named() -> None:
    model = nn.Linear(4, 4).eval()
    with torch.no_grad():
        model.weight[0, 0] = 1e6
    with pytest.raises(qfx.CalibrationError, match=r"1e\+06.*65504"):
        quantized(model, randn(2, 4), CONFIGS["float16"][0], "x86")


def test_methods_mix_in_one_model(slow: None) -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Linear(IN, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 8))
    )
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("2", int4(group_size=32))
    mapping.set_module_name("3", qfx.get_default_qconfig("x86", "dynamic"))
    x = randn(16, IN)
    qmodel = qfx.quantize(model, x, qconfig=mapping, backend="x86")
    kernels = [s.kernel for s in qmodel.report.sites if s.op.lower() == "linear"]
    assert kernels == ["onednn.qlinear", "dequantized 4-bit weight", "onednn.qlinear"]
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 15
