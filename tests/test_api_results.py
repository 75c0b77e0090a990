"""Steps, coverage, reports, pipelines and compiled code of one call."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.quant.observers import Observer
from tests.cases.flow import BACKENDS, randn, run, seeded
from tests.support.nets import Net, X, net, scales
from tests.support.untouched import assert_untouched, state_of


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_equal_one_call(backend: str) -> None:
    prepared = qfx.prepare(net(), X, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(prepared(X), net()(X), rtol=1e-5, atol=1e-5)
    prepared = qfx.calibrate(qfx.prepare(net(), X, backend=backend), [X])
    qmodel = qfx.convert(prepared)
    assert torch.equal(run(qmodel, (X,)), run(qfx.quantize(net(), X, backend=backend), (X,)))


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_convert_never_mutates_prepared(backend: str) -> None:
    prepared = qfx.calibrate(qfx.prepare(net(), X, backend=backend), [X])
    text, before = prepared.code, state_of(prepared)
    stages = len(prepared.history)
    first = qfx.convert(prepared)
    assert prepared.code == text
    assert len(prepared.history) == stages
    assert_untouched(prepared, before)
    qfx.calibrate(prepared, [4 * X])
    second = qfx.convert(prepared)
    assert scales(first) != scales(second)
    again = qfx.convert(qfx.calibrate(qfx.prepare(net(), X, backend=backend), [X]))
    assert torch.equal(run(again, (X,)), run(first, (X,)))


def test_convert_in_either_mode() -> None:
    prepared = qfx.calibrate(qfx.prepare(net(), X, backend="x86"), [X])
    expected = run(qfx.convert(prepared), (X,))
    assert torch.equal(run(qfx.convert(prepared.train()), (X,)), expected)


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_convert_without_calibration_names_each_site(backend: str) -> None:
    prepared = qfx.prepare(net(), X, backend=backend)
    with pytest.raises(qfx.CalibrationError) as caught:
        qfx.convert(prepared)
    text = str(caught.value)
    observers = [n for n in prepared.graph.nodes if is_observed(prepared, n)]
    assert text.startswith(f"{len(observers)} observer(s) have seen no data")
    assert "input x" in text
    assert "qfx.calibrate" in text
    assert text.count("nets.py") >= 1


def is_observed(prepared: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(
        prepared.get_submodule(str(node.target)), Observer
    )


def test_convert_wants_a_prepared_model() -> None:
    with pytest.raises(qfx.ConfigError, match=r"not a Net.*qfx\.prepare"):
        qfx.convert(net())  # type: ignore[arg-type]
    with pytest.raises(qfx.ConfigError, match=r"calibrate takes.*not a Net.*qfx\.prepare"):
        qfx.calibrate(net(), [X])  # type: ignore[arg-type]


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_state_dict_of_prepared_round_trips(backend: str) -> None:
    prepared = qfx.calibrate(qfx.prepare(net(), X, backend=backend), [X, 2 * X])
    state = copy.deepcopy(prepared.state_dict())
    fresh = qfx.prepare(seeded(Net, seed=1), X, backend=backend)
    fresh.load_state_dict(state)
    assert torch.equal(run(qfx.convert(fresh), (X,)), run(qfx.convert(prepared), (X,)))


def test_deepcopy_of_prepared() -> None:
    prepared = qfx.calibrate(qfx.prepare(net(), X, backend="x86"), [X])
    twin = copy.deepcopy(prepared)
    qfx.calibrate(twin, [9 * X])
    assert scales(qfx.convert(twin)) != scales(qfx.convert(prepared))


def test_min_coverage() -> None:
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("conv", None)
    with pytest.raises(qfx.CoverageError, match=r"min_coverage=0\.99(.|\n)*qconfig-none") as caught:
        qfx.quantize(net(), X, backend="x86", qconfig=mapping, min_coverage=0.99)
    assert "set_module_name('conv')" in str(caught.value)
    qmodel = qfx.quantize(net(), X, backend="x86", qconfig=mapping, min_coverage=0.001)
    assert 0 < (qmodel.report.coverage or 0) < 0.05
    assert qfx.quantize(net(), X, backend="x86", min_coverage=1.0).report.coverage == 1.0


def test_nothing_quantized_is_an_error() -> None:
    with pytest.raises(qfx.CoverageError, match=r"nothing was quantized(.|\n)*qconfig-none"):
        qfx.quantize(net(), X, backend="x86", qconfig=qfx.QConfigMapping())


def test_report() -> None:
    qmodel = qfx.quantize(net(), X, backend="x86")
    report = qmodel.report
    by_node = {s.node: s for s in report.sites}
    assert list(by_node) == ["conv", "bn", "relu", "act", "drop", "mean", "view", "fc"]
    conv, gelu, drop = by_node["conv"], by_node["act"], by_node["drop"]
    assert (conv.decision, conv.kernel, conv.reason) == ("quantized", "onednn.qconv2d", "")
    assert conv.macs == 2 * 4 * 64 * 27
    assert (gelu.decision, gelu.kernel, gelu.reason) == ("float", "", "no-kernel")
    assert gelu.module_path == "act"
    lines, first = inspect.getsourcelines(Net.forward)
    line = first + next(i for i, text in enumerate(lines) if "self.act" in text)
    assert gelu.source == f"tests/support/nets.py:{line}"
    assert gelu.message
    assert gelu.remedy
    assert (drop.decision, drop.reason) == ("float", "removed")
    assert report.coverage == 1.0
    before, after = report.size_bytes
    assert before == sum(
        t.numel() * t.element_size() for t in (*net().parameters(), *net().buffers())
    )
    assert 0 < after < before
    text = str(report)
    for piece in ("x86", "onednn.qconv2d", "no-kernel", "100.0%", "nets.py", gelu.remedy):
        assert piece in text


def test_coverage_is_none_without_macs() -> None:
    class OnlyAdd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.flip(0)

    qmodel = qfx.quantize(OnlyAdd().eval(), randn(4, 4), backend="fbgemm", min_coverage=1.0)
    assert qmodel.report.coverage is None
    assert "no MACs" in str(qmodel.report)


def test_history() -> None:
    history = qfx.quantize(net(), X, backend="x86").history
    names = [stage.name for stage in history]
    assert names[0] == "capture"
    follow = ["merge-products", "reuse-accumulators", "overwrite-operands", "leave-single-rows"]
    assert names[-7:] == ["lower", *follow, "keep-contiguous", "flatten-constants"]
    assert names.index("fuse-conv-bn") < names.index("annotate") < names.index("reference")
    assert [stage.index for stage in history] == list(range(len(history)))


def test_pipeline_inherits_the_backend() -> None:
    qmodel = qfx.quantize(net(), X, backend="fbgemm", pipeline=qfx.pipelines.static())
    assert qmodel.backend == "fbgemm"
    own = qfx.quantize(net(), X, pipeline=qfx.pipelines.static(backend="fbgemm"))
    assert own.backend == "fbgemm"


def test_pipeline_for_another_backend_is_an_error() -> None:
    pipeline = qfx.pipelines.static(backend="x86")
    with pytest.raises(qfx.ConfigError, match=r'made for backend "x86".*asks for "fbgemm"'):
        qfx.quantize(net(), X, backend="fbgemm", pipeline=pipeline)


@pytest.mark.parametrize(
    ("made", "asked"), [("static", "dynamic"), ("dynamic", "static"), ("static", "weight_only")]
)
def test_pipeline_for_another_method_is_an_error(made: str, asked: str) -> None:
    pipeline = getattr(qfx.pipelines, made)()
    match = rf"made for method '{made}' and the call asks for '{asked}': say method='{made}', or"
    for call in (qfx.quantize, qfx.prepare):
        with pytest.raises(qfx.ConfigError, match=match):
            call(net(), X, method=asked, pipeline=pipeline)


def test_pipeline_of_ones_own_is_for_any_method() -> None:
    made = qfx.pipelines.dynamic()
    pipeline = qfx.Pipeline(made.passes)
    assert qfx.quantize(net(), X, method="dynamic", pipeline=pipeline).report.coverage
    assert qfx.quantize(net(), X, method="dynamic", pipeline=made).report.coverage


def test_pass_in_front_of_canonicalize_that_can_never_fire_is_a_warning() -> None:
    def never(match: qfx.Match, rw: qfx.Rewriter) -> qfx.Mismatch:
        return qfx.Mismatch("never")

    class Early(qfx.PatternPass):
        name = "early"
        patterns = (qfx.rewrite(qfx.Op(vocab.RELU, qfx.Any("x")))(never),)

    class AsWritten(qfx.PatternPass):
        name = "as-written"
        patterns = (qfx.rewrite(qfx.Module(nn.Conv2d, qfx.Any("x")))(never),)

    pipeline = qfx.pipelines.static()
    with pytest.warns(
        qfx.QfxWarning, match=r'pass early .* before canonicalize, .*insert_after\("canonicalize"'
    ):
        report = qfx.quantize(
            net(), X, pipeline=pipeline.insert_before("canonicalize", Early())
        ).report
    assert any("pass early" in warning for warning in report.warnings)
    qfx.quantize(net(), X, pipeline=pipeline.insert_before("canonicalize", AsWritten()))
    qfx.quantize(net(), X, pipeline=pipeline.insert_after("canonicalize", Early()))


def test_pass_of_ones_own() -> None:
    @qfx.rewrite(qfx.Op(vocab.GELU, qfx.Any("x")))
    def gelu_to_relu(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
        return rw.call(vocab.RELU, match["x"])

    class Cheaper(qfx.PatternPass):
        name = "cheaper"
        patterns = (gelu_to_relu,)
        keeps_values = False

    pipeline = qfx.pipelines.static().insert_after("fuse-conv-bn", Cheaper())
    qmodel = qfx.quantize(net(), X, backend="x86", pipeline=pipeline)
    assert "cheaper" in [stage.name for stage in qmodel.history]
    assert vocab.GELU not in [n.target for n in qmodel.graph.nodes]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.max_pool2d(F.relu(self.second(x) + x), 2)
        return self.fc(x.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_compiles(compiler: str) -> None:
    qmodel = qfx.quantize(seeded(Residual), X, backend="x86")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(qmodel, backend=compiler)
        torch.testing.assert_close(compiled(X), qmodel(X), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


def test_exports() -> None:
    qmodel = qfx.quantize(seeded(Residual), X, backend="x86")
    with torch.no_grad():
        exported = torch.export.export(qmodel, (X,)).module()
        torch.testing.assert_close(exported(X), qmodel(X), rtol=1e-5, atol=1e-5)


def test_passes_in_place_of_a_pipeline_are_an_error_that_says_how_to_edit_one() -> None:
    for given in ([qfx.get_pass("canonicalize")()], (), "static"):
        with pytest.raises(qfx.ConfigError, match=r"qfx\.pipelines\.static\(\)\.insert_after\("):
            qfx.quantize(nn.Linear(2, 2).eval(), torch.randn(1, 2), pipeline=given)  # type: ignore[arg-type]
