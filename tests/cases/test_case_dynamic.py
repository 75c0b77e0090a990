"""Dynamic quantization: layers that take and hand out float, and measure what they read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.backends.onednn import calls
from qfx.backends.onednn.dynamic import quantize_dynamic
from tests.cases.flow import Branches, randn, run, seeded, sqnr, targets

BACKENDS = ("x86", "fbgemm", "qnnpack", "reference")
CONVOLVES = ("x86", "reference")


class Functional(nn.Module):
    """Spellings of linear with keyword arguments only, and one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(input=x, weight=self.a.weight, bias=self.a.bias).relu()
        return self.b(y) + self.b(x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.down(F.gelu(self.up(self.norm(x)))))


def layers(*made: nn.Module) -> nn.Module:
    return nn.Sequential(*made)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: layers(nn.Linear(8, 4)), (5, 8)),
    "linear+relu": (lambda: layers(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), (2, 5, 8)),
    "linear+relu6": (lambda: layers(nn.Linear(8, 16), nn.ReLU6()), (2, 5, 8)),
    "linear+tanh": (lambda: layers(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.5)), (2, 8)),
    "functional": (Functional, (3, 8)),
    "residual": (Residual, (2, 3, 8)),
    "conv1d": (lambda: layers(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU()), (2, 4, 9)),
    "conv2d+bn": (lambda: layers(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), (2, 4, 9, 9)),
    "conv2d, grouped": (lambda: layers(nn.Conv2d(8, 8, 3, stride=2, groups=4)), (2, 8, 9, 9)),
    "conv3d": (lambda: layers(nn.Conv3d(4, 8, 3)), (2, 4, 5, 5, 5)),
    "attention": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16)),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_are_measured_at_run_time(backend: str) -> None:
    names = [n for n in MODELS if backend in CONVOLVES or not n.startswith("conv")]
    model = Branches(seeded(MODELS[name][0]) for name in names)
    x = [randn(*MODELS[name][1]) for name in names]
    qmodel = qfx.quantize(model, (x,), method="dynamic", backend=backend)
    for i, name in enumerate(names):
        sites = [s for s in qmodel.report.sites if f"{s.module_path}.".startswith(f"branches.{i}.")]
        covered = sum(s.macs or 0 for s in sites if s.decision == "quantized" and not s.reason)
        whole = sum(s.macs or 0 for s in sites)
        least = 0.8 if name == "attention" else 1.0
        assert whole > 0, name
        assert covered >= least * whole, name
    # No range was fixed, and no batch size.
    for inputs in (x, [5 * i for i in x], [i[:1] for i in x]):
        results = (run(each, (inputs,)) for each in (model, qmodel, qmodel.reference))
        for name, expected, actual, meant in zip(names, *results, strict=True):
            assert actual.dtype == torch.float32, name
            assert sqnr(expected, actual) > 30, name
            assert sqnr(meant, actual) > 35, name


@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_convolutions_whose_results_leave_the_range_of_their_input(backend: str) -> None:
    model, x = (
        seeded(lambda: layers(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))),
        randn(2, 4, 9, 9),
    )
    with torch.no_grad():
        model[0].weight.mul_(20)  # type: ignore[operator]
    qmodel = qfx.quantize(model, x, method="dynamic", backend=backend)
    assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 30


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_quantized_dtypes_have_no_dynamic_convolution(backend: str) -> None:
    """PyTorch's round to the qparams of their input."""
    model = seeded(lambda: layers(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 4)))
    qmodel = qfx.quantize(model, randn(2, 4, 3, 3), method="dynamic", backend=backend)
    conv, _, linear = qmodel.report.sites
    assert (conv.decision, conv.reason) == ("float", "not-dynamic")
    assert linear.decision == "quantized"


def test_a_value_is_measured_once_for_all_its_readers() -> None:
    class Projections(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

    qmodel = qfx.quantize(seeded(Projections), randn(2, 5, 8), method="dynamic", backend="x86")
    assert targets(qmodel.reference).count(vocab.DYNAMIC_QPARAMS) == 1
    assert targets(qmodel).count(quantize_dynamic) == 1
    assert targets(qmodel).count(calls.linear) == 1


def test_no_data_is_run_and_nothing_is_left_to_calibrate() -> None:
    x = randn(2, 8)
    prepared = qfx.prepare(nn.Linear(8, 8).eval(), x, method="dynamic", backend="x86")
    assert not prepared.has_observers
    qmodel = qfx.convert(prepared)
    assert qmodel.report.sites[0].kernel == "onednn.qlinear"


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_methods_mix_in_one_model(backend: str) -> None:
    """A static convolution hands out float to a dynamic layer; a third stays float."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 4)
        )
    )
    static = qfx.get_default_qconfig(backend)
    dynamic = qfx.get_default_qconfig(backend, "dynamic")
    mapping = qfx.QConfigMapping().set_global(static).set_module_name("3", dynamic)
    mapping.set_module_name("4", None)
    x = randn(2, 3, 8, 8)
    for method in ("static", "dynamic"):
        qmodel = qfx.quantize(
            model, x, backend=backend, qconfig=mapping, method=method, calibration_data=[x]
        )
        by_path = {site.module_path: site for site in qmodel.report.sites}
        assert [by_path[p].decision for p in ("0", "3", "4")] == ["quantized", "quantized", "float"]
        assert by_path["4"].reason == "qconfig-none"
        assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 30
        scales = [node for node in qmodel.graph.nodes if "dynamic" in str(node.target)]
        assert len(scales) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_weights_says_why_it_stays_float(backend: str) -> None:
    qmodel = qfx.quantize(seeded(Residual), randn(2, 3, 8), method="dynamic", backend=backend)
    (norm,) = (s for s in qmodel.report.sites if s.module_path == "norm")
    assert (norm.decision, norm.reason) == ("float", "not-dynamic")


def test_static_only_kernels_refuse_measured_qparams_by_name() -> None:
    """A rule that names an operation is an order: what it can't do is a warning."""
    dynamic = qfx.get_default_qconfig("x86", "dynamic")
    mapping = qfx.get_default_qconfig_mapping("x86").set_object_type(nn.ConvTranspose2d, dynamic)
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 4, 3)).eval()
    with pytest.warns(qfx.QfxWarning, match=r"set_object_type.*has no effect.*only: static"):
        qmodel = qfx.quantize(model, randn(1, 4, 5, 5), backend="x86", qconfig=mapping)
    assert qmodel.report.sites[0].reason == "config-unfit"


@pytest.mark.slow
def test_compiled_code_measures_too() -> None:
    names = ("linear+relu", "residual", "conv2d+bn", "attention")
    model = Branches(seeded(MODELS[name][0]) for name in names)
    inputs = [randn(*MODELS[name][1]) for name in names]
    qmodel = qfx.quantize(model, (inputs,), method="dynamic", backend="x86")
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for name, ours, theirs in zip(names, compiled(inputs), qmodel(inputs), strict=True):
            assert torch.equal(ours, theirs), name


def test_empty_and_constant_inputs() -> None:
    model = seeded(lambda: nn.Linear(8, 4))
    qmodel = qfx.quantize(model, randn(2, 8), method="dynamic", backend="x86")
    assert run(qmodel, (torch.zeros(0, 8),)).shape == (0, 4)
    for value in (0.0, 3.0, -3.0):
        x = torch.full((2, 8), value)
        assert (run(model, (x,)) - run(qmodel, (x,))).abs().max() < 0.05


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_padded_positions_of_an_encoder_are_computed_like_any_others() -> None:
    """PyTorch's fast path, of eval without gradients, hands out zeros there."""

    def make() -> nn.Module:
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

    model, x = seeded(make), randn(2, 5, 16)
    padding = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]).bool()
    named = {"src_key_padding_mask": padding}
    qmodel = qfx.quantize(model, x, example_kwargs=named, method="dynamic", backend="x86")
    with torch.no_grad():
        fast, ours = model(x, **named), qmodel(x, **named)
    assert not fast[padding].any()
    assert sqnr(fast[~padding], ours[~padding]) > 30
    assert sqnr(model(x, **named).detach(), ours) > 30  # with gradients


@pytest.mark.parametrize(
    ("backend", "remedy"),
    [
        ("x86", "nothing to do: it takes and hands out float"),
        ("fbgemm", "nothing to do if float is fine; else try method='static'"),
    ],
)
def test_remedies_can_be_followed(backend: str, remedy: str) -> None:
    model, x = seeded(lambda: layers(nn.Linear(8, 8), nn.Softmax(-1))), randn(2, 8)
    qmodel = qfx.quantize(model, x, method="dynamic", backend=backend)
    assert (qmodel.report.sites[1].reason, qmodel.report.sites[1].remedy) == ("not-dynamic", remedy)
    qmodel = qfx.quantize(model, x, method="weight_only", backend=backend)
    site = qmodel.report.sites[1]
    assert (site.reason, site.message) == (
        "no-weight", "only weights are quantized, and softmax has none",
    )  # fmt: skip


class Heads(nn.Module):
    """A block whose parts but one only move values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.linear(x).view(-1, 2, 4).transpose(1, 2).chunk(2, -1)
        return a + b


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_a_rule_for_a_block_warns_of_layers_only(backend: str) -> None:
    model, x = seeded(lambda: layers(Heads(), nn.Flatten(), nn.Linear(4, 2))), randn(2, 8)
    measured = qfx.get_default_qconfig(backend, "dynamic")
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name("0", measured)
    qmodel = qfx.quantize(model, x, qconfig=mapping, backend=backend)  # warnings are errors here
    assert not qmodel.report.warnings
    reasons = {site.op: site.reason for site in qmodel.report.sites}
    assert reasons["Linear"] == ""
    assert reasons["view"] == "not-dynamic"
    mapping = qfx.get_default_qconfig_mapping(backend).set_object_type("view", measured)
    with pytest.warns(qfx.QfxWarning, match="view"):
        qfx.quantize(model, x, qconfig=mapping, backend=backend)


MEASURED = {
    "symmetric": {"symmetric": True},
    "power of two": {"power_of_two": True},
    "7 bits": {"quant_max": 63},
    "from 8": {"quant_min": 8},
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("layer", ["linear", "lstm"])
@pytest.mark.parametrize("name", MEASURED)
def test_kernels_that_measure_honour_no_other_scheme(name: str, layer: str, backend: str) -> None:
    made = nn.Linear(8, 4) if layer == "linear" else nn.LSTM(8, 4)
    model, x = nn.Sequential(nn.Linear(8, 8), made).eval(), randn(2, 3, 8)
    weight = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True)
    activation = qfx.QuantSpec(torch.uint8, dynamic=True, **MEASURED[name])
    default = qfx.get_default_qconfig(backend, "dynamic")
    mapping = qfx.QConfigMapping().set_global(default)
    mapping.set_module_name("1", qfx.QConfig(activation, weight))
    with pytest.warns(qfx.QfxWarning, match="measure"):
        qmodel = qfx.quantize(model, x, method="dynamic", backend=backend, qconfig=mapping)
    reasons = {site.node: site.reason for site in qmodel.report.sites}
    assert (reasons["_0"], reasons["_1"]) == ("", "config-unfit")
    mapping.set_module_name("1", qfx.QConfig(qfx.QuantSpec(torch.uint8, dynamic=True), weight))
    qmodel = qfx.quantize(model, x, method="dynamic", backend=backend, qconfig=mapping)
    assert next(s for s in qmodel.report.sites if s.node == "_1").reason == ""


NOT_FINITE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: layers(nn.Linear(8, 4)), (3, 8)),
    "linear+relu": (lambda: layers(nn.Linear(8, 4), nn.ReLU()), (3, 8)),
    "linear+relu6": (lambda: layers(nn.Linear(8, 4), nn.ReLU6()), (2, 3, 8)),
    "residual": (Residual, (2, 3, 8)),
    "conv2d+relu": (lambda: layers(nn.Conv2d(4, 8, 3), nn.ReLU()), (2, 4, 9, 9)),
    "1x1+relu": (lambda: layers(nn.Conv2d(4, 8, 1), nn.ReLU()), (2, 4, 9, 9)),
    "conv1d": (lambda: layers(nn.Conv1d(4, 8, 3)), (2, 4, 9)),
    "gru": (lambda: nn.GRU(8, 256), (3, 2, 8)),
}


@pytest.mark.parametrize("backend", ["x86", "reference"])
def test_what_is_not_finite_stays_so(backend: str) -> None:
    model = Branches(seeded(make) for make, _ in NOT_FINITE.values())
    inputs = [randn(*shape) for _, shape in NOT_FINITE.values()]
    qmodel = qfx.quantize(model, (inputs,), method="dynamic", backend=backend)
    for value in (torch.nan, torch.inf, -torch.inf):
        for x in inputs:
            x.view(-1)[5] = value
        for name, y in zip(NOT_FINITE, qmodel(inputs), strict=True):
            assert (y[0] if name == "gru" else y).isnan().all(), (name, value)


@pytest.mark.slow
def test_what_is_not_finite_stays_so_when_compiled() -> None:
    names = ("linear+relu", "conv1d", "conv2d+relu")
    model = Branches(seeded(NOT_FINITE[name][0]) for name in names)
    inputs = [randn(*NOT_FINITE[name][1]) for name in names]
    qmodel = qfx.quantize(model, (inputs,), method="dynamic", backend="x86")
    compiled = torch.compile(qmodel, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs), qmodel(inputs))
    for name, y in zip(names, compiled([x.fill_(torch.nan) for x in inputs]), strict=True):
        assert y.isnan().all(), name
