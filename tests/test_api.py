"""The contract of the public calls: what they take, refuse, leave alone and hand back."""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, TensorDataset

import qfx
from qfx import vocab
from qfx.backends import resolve_backend
from qfx.quant.observers import Observer
from tests.cases.flow import BACKENDS, quantized, randn, run, seeded, sqnr
from tests.support.untouched import assert_untouched, state_of

UINT8 = qfx.QuantSpec(torch.uint8)
INT8 = qfx.QuantSpec(torch.int8, symmetric=True)


class Net(nn.Module):
    """A bit of everything: batch norm, dropout, a shape that depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.drop = nn.GELU(), nn.Dropout()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = self.drop(self.act(x))
        return self.fc(x.mean((2, 3)).view(x.shape[0], -1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) + self.right(b)


X = randn(2, 3, 8, 8)
AB = (randn(4, 4), randn(4, 4, seed=1))


def net() -> nn.Module:
    return seeded(Net)


def scales(qmodel: qfx.QuantizedModel) -> list[object]:
    """The activation scales of the reference form: what calibration decided."""
    return [n.args[1:3] for n in qmodel.reference.graph.nodes if n.target is vocab.QUANTIZE]


# -- calibration data -----------------------------------------------------------------------------
def test_example_inputs_calibrate_by_default() -> None:
    with_data = qfx.quantize(net(), X, backend="x86", calibration_data=[X])
    without = qfx.quantize(net(), X, backend="x86")
    assert scales(with_data) == scales(without) != []


@pytest.mark.parametrize(
    "batches",
    [
        [AB],
        [list(AB)],
        ({"a": AB[0], "b": AB[1]},),
        (batch for batch in [AB]),
        DataLoader(TensorDataset(*AB), batch_size=4),
    ],
    ids=["tuple", "list", "dict", "generator", "DataLoader"],
)
def test_forms_of_batches(batches: Any) -> None:
    expected = qfx.quantize(seeded(TwoInputs), AB, backend="fbgemm")
    qmodel = qfx.quantize(seeded(TwoInputs), AB, backend="fbgemm", calibration_data=batches)
    assert scales(qmodel) == scales(expected)


def test_tensors_as_batches() -> None:
    wider = qfx.quantize(net(), X, backend="x86", calibration_data=[X, 3 * X])
    assert scales(wider) != scales(qfx.quantize(net(), X, backend="x86"))
    assert wider(3 * X).shape == (2, 5)


def test_keyword_model() -> None:
    a, b = AB
    by_kwargs = qfx.quantize(
        seeded(TwoInputs),
        a,
        example_kwargs={"b": b},
        backend="x86",
        calibration_data=[{"a": a, "b": b}],
    )
    torch.testing.assert_close(
        by_kwargs(a, b=b), qfx.quantize(seeded(TwoInputs), AB, backend="x86")(a, b), rtol=0, atol=0
    )


def test_labels_are_dropped_with_one_warning() -> None:
    data = DataLoader(TensorDataset(randn(6, 3, 8, 8), torch.arange(6)), batch_size=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        qfx.quantize(net(), X, backend="x86", calibration_data=data)
    mine = [w for w in caught if issubclass(w.category, qfx.QfxWarning)]
    assert [str(w.message) for w in mine] == [
        "the batches of calibration_data have 2 elements and the model takes 1: the rest is taken "
        "for labels and dropped"
    ]
    assert mine[0].filename == __file__


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (X, qfx.ConfigError, r"one tensor.*Write calibration_data=\[tensor\]"),
        ([], qfx.CalibrationError, "calibration data is empty.*at least one"),
        (iter(()), qfx.CalibrationError, "already consumed"),
        (7, qfx.ConfigError, "int; it must be an iterable of batches"),
        ({"x": X}, qfx.ConfigError, "dict; it must be an iterable of batches"),
        ([X, "text"], qfx.ConfigError, "batch 1 of calibration_data is str"),
        ([X, randn(2, 5, 8, 8)], qfx.ConfigError, r"batch 1 does not fit.*\n.*\[2,5,8,8\].*\[2,3"),
        ([{"y": X}], qfx.ConfigError, r"batch 0 does not fit.*'y', which forward does not.*\(x\)"),
        ([()], qfx.ConfigError, "batch 0 does not fit"),
    ],
    ids=["tensor", "empty", "consumed", "int", "dict", "str", "shape", "keyword", "no arguments"],
)
def test_calibration_data_that_is_wrong(data: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        qfx.quantize(net(), X, backend="x86", calibration_data=data)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_calibration_names_the_site(backend: str, bad: float) -> None:
    poisoned = X.clone()
    poisoned[0, 0, 0, 0] = bad
    with pytest.raises(qfx.CalibrationError, match=r"batch 1: at .*input x.*(NaN|infinite)"):
        qfx.quantize(net(), X, backend=backend, calibration_data=[X, poisoned])


def test_overflow_inside_names_module_and_line() -> None:
    model = net()
    with torch.no_grad():
        model.conv.bias[0] = float("inf")
    with pytest.raises(
        qfx.CalibrationError, match=r"the example inputs: at .*\(conv.*test_api\.py:\d+\)"
    ):
        qfx.quantize(model, X, backend="fbgemm")


def test_steps_limit_calibration() -> None:
    taken = []

    def batches() -> Iterator[Tensor]:
        for i in range(5):
            taken.append(i)
            yield X

    prepared = qfx.prepare(net(), X, backend="x86")
    assert qfx.calibrate(prepared, batches(), steps=2) is prepared
    assert taken == [0, 1]


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    qfx.quantize(net(), X, backend="x86", calibration_data=[X], progress=False)
    assert capsys.readouterr().err == ""
    qfx.quantize(net(), X, backend="x86", calibration_data=[X], progress=True)
    assert "calibrating" in capsys.readouterr().err


# -- bad input ------------------------------------------------------------------------------------
class Breaks(qfx.Pass):
    """A pass of a user's that leaves a reader before what it reads."""

    name = "breaks"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        nodes = [n for n in graph.nodes if n.op == "call_function"]
        nodes[0].append(graph.call_function(torch.relu, (nodes[-1],)))


BROKEN = qfx.pipelines.static().insert_after("fuse-conv-bn", Breaks())


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"inputs": randn(2, 5, 8, 8)}, qfx.QfxError, r"conv.*test_api\.py:\d+(.|\n)*3 channels"),
        ({"inputs": (X, X)}, qfx.QfxError, "argument"),
        ({"inputs": [X]}, qfx.ConfigError, r"example_inputs is a list.*\(the_list,\)"),
        ({"inputs": X.double()}, qfx.QfxError, "(?i)float64|double"),
        ({"training": True}, qfx.ConfigError, r"training mode.*model\.eval\(\)"),
        ({"backend": "x68"}, qfx.BackendError, "unknown backend 'x68'; did you mean 'x86'?"),
        ({"method": "magic"}, qfx.ConfigError, "method 'magic' does not exist; choose.*static"),
        ({"qconfig": UINT8}, qfx.ConfigError, "qconfig is QuantSpec; give a qfx.QConfig"),
        ({"pipeline": BROKEN}, qfx.PassError, "breaks"),
        ({"min_coverage": 1.5}, qfx.ConfigError, "min_coverage"),
        ({"types": nn.Linear}, qfx.ConfigError, "types"),
    ],
    ids=[
        "shape", "count", "list", "double", "training", "backend", "method", "qconfig", "pass",
        "min_coverage", "types",
    ],
)  # fmt: skip
def test_bad_input_is_a_typed_error_and_the_model_is_untouched(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = net().train(arguments.pop("training", False))
    before = state_of(model)
    inputs = arguments.pop("inputs", X)
    with pytest.raises(kind, match=message):
        qfx.quantize(model, inputs, **{"backend": "x86", **arguments})
    assert_untouched(model, before)


def test_model_that_is_no_module() -> None:
    with pytest.raises(qfx.ConfigError, match=r"function, not a torch\.nn\.Module; wrap"):
        qfx.quantize(lambda x: x, X)  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [qfx.quantize, qfx.prepare])
def test_model_that_is_done_already(made: Any) -> None:
    with pytest.raises(qfx.ConfigError, match="already; start again from the float model"):
        qfx.quantize(made(net(), X, backend="reference"), X, backend="x86")


def test_model_without_values() -> None:
    with pytest.raises(qfx.ConfigError, match=r"meta device.*load its weights"):
        qfx.quantize(net().to("meta"), X.to("meta"))


def test_model_with_values_in_part() -> None:
    model = net()
    model.fc.to("meta")
    with pytest.raises(
        qfx.ConfigError, match=r"fc\.weight is on the meta device.*load its weights"
    ):
        qfx.quantize(model, X)
    assert {t.device.type for t in model.parameters()} == {"cpu", "meta"}


@pytest.mark.parametrize("made", [qfx.quantize, qfx.prepare])
@pytest.mark.parametrize("backend", BACKENDS)
def test_model_on_two_devices(backend: str, made: Any) -> None:
    model = net()
    with FakeTensorMode():  # stands for a device that this machine need not have
        model.bn.register_buffer("running_mean", torch.zeros(4, device="cuda"))
    before = dict(model.named_buffers())
    message = r"spread over cpu \(conv\.weight\) and cuda:0 \(bn\.running_mean\); move it"
    with pytest.raises(qfx.ConfigError, match=message):
        made(model, X, backend=backend)
    assert all(t is before[name] for name, t in model.named_buffers())


def test_contradicting_spec_fails_when_it_is_made() -> None:
    with pytest.raises(qfx.ConfigError, match=r"quant_min=10.*choose"):
        qfx.QuantSpec(torch.uint8, quant_min=10, quant_max=5)
    with pytest.raises(ValueError, match="axis=1 means nothing per tensor"):
        qfx.QuantSpec(torch.int8, axis=1)


def test_broken_pass_keeps_the_last_valid_graph() -> None:
    with pytest.raises(qfx.PassError) as caught:
        qfx.quantize(net(), X, pipeline=BROKEN, backend="x86")
    error = caught.value
    assert error.pass_name == "breaks"
    assert error.graph_module is not None
    torch.testing.assert_close(error.graph_module(X), net()(X), rtol=1e-5, atol=1e-5)


# -- the model is never mutated -------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_is_never_mutated(backend: str) -> None:
    model = net()
    model.fc.requires_grad_(False)
    calls: list[str] = []
    model.fc.register_full_backward_hook(lambda *_: None)
    model.drop.register_forward_hook(lambda *_: calls.append("drop"))
    model.register_forward_pre_hook(lambda *_: calls.append("pre"))
    before = state_of(model)
    expected = run(model, (X,))
    qmodel = qfx.quantize(model, X, backend=backend, calibration_data=[X, 2 * X])
    assert_untouched(model, before)
    torch.testing.assert_close(run(model, (X,)), expected, rtol=0, atol=0)
    calls.clear()
    assert sqnr(expected, run(qmodel, (X,))) > 25
    assert calls == ["pre", "drop"]  # hooks go along, as they do with copy.deepcopy
    with torch.no_grad():  # and the result holds no tensor of the model's
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    assert sqnr(expected, run(qmodel, (X,))) > 25


def test_example_inputs_are_never_mutated() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor, extra: list[Tensor]) -> Tensor:
            x.add_(1)
            extra[0].mul_(2)
            return self.fc(x) + extra[0]

    x, extra = randn(4, 3), [randn(4, 3, seed=1)]
    copies = x.clone(), extra[0].clone()
    qfx.quantize(seeded(InPlace), (x, extra), backend="x86")
    assert torch.equal(x, copies[0])
    assert torch.equal(extra[0], copies[1])


# -- threads and global state ---------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_six_threads_give_what_one_gives(backend: str) -> None:
    expected = qfx.quantize(net(), X, backend=backend)
    models, results = [net() for _ in range(6)], {}

    def work(index: int) -> None:
        results[index] = qfx.quantize(models[index], X, backend=backend)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(6))
    assert torch.backends.mha.get_fastpath_enabled()
    reference = run(expected, (X,))
    for qmodel in results.values():
        assert torch.equal(run(qmodel, (X,)), reference)
        assert [s.kernel for s in qmodel.report.sites] == [s.kernel for s in expected.report.sites]
        assert qmodel.history[-1].snapshot.to_text() == expected.history[-1].snapshot.to_text()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_global_state_is_as_before(backend: str, grad: bool) -> None:
    def state() -> list[object]:
        return [
            torch.random.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.backends.quantized.engine,
            torch.get_num_threads(),
            torch.backends.mha.get_fastpath_enabled(),
            list(warnings.filters),
            torch.are_deterministic_algorithms_enabled(),
            nn.Module.__call__,
            nn.Module.__getattr__,
        ]

    model = net()
    with torch.set_grad_enabled(grad):
        before = state()
        qmodel = qfx.quantize(model, X, backend=backend)
        qmodel(X)
        assert state() == before


@pytest.mark.parametrize(
    "context",
    [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["inference_mode", "autocast"],
)
def test_ambient_modes_change_nothing(context: Any) -> None:
    expected = run(qfx.quantize(net(), X, backend="x86"), (X,))
    with context():
        qmodel = qfx.quantize(net(), X, backend="x86")
        prepared = qfx.prepare(net(), X, backend="x86")
    assert torch.equal(run(qmodel, (X,)), expected)
    assert torch.equal(run(qfx.convert(qfx.calibrate(prepared, [X])), (X,)), expected)


def test_modes_of_modules_are_kept() -> None:
    """A model in eval mode may hold a module in training mode, and then means it."""
    model = net()
    model.bn.train()
    model.drop.train()
    before = state_of(model)
    qmodel = qfx.quantize(model, X, backend="x86")
    assert_untouched(model, before)
    assert {s.node: s.reason for s in qmodel.report.sites}["bn"] == "opaque-module"
    assert not torch.equal(run(qmodel, (X,)), run(qmodel, (X,)))
    model.drop.eval()
    assert sqnr(run(model, (X,)), run(qfx.quantize(model, X, backend="x86"), (X,))) > 25


# -- the result -----------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_batch_and_spatial_sizes(backend: str) -> None:
    model = net()
    qmodel = qfx.quantize(model, X, backend=backend)
    for shape in [(1, 3, 8, 8), (5, 3, 8, 8), (2, 3, 15, 9), (3, 3, 32, 6)]:
        x = randn(*shape, seed=2)
        actual = run(qmodel, (x,))
        assert actual.shape == (shape[0], 5)
        assert sqnr(run(model, (x,)), actual) > 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_signature(backend: str) -> None:
    qmodel = qfx.quantize(seeded(TwoInputs), AB, backend=backend)
    assert isinstance(qmodel, fx.GraphModule)
    expected = run(qmodel, AB)
    assert torch.equal(qmodel(b=AB[1], a=AB[0]), expected)
    with pytest.raises(TypeError):
        qmodel(*AB, None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_deepcopy_keeps_everything(backend: str) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    expected = run(qmodel, (X,))
    twin = copy.deepcopy(qmodel)
    assert torch.equal(run(twin, (X,)), expected)
    assert twin.report == qmodel.report
    assert len(twin.history) == len(qmodel.history)
    assert twin.history[-1].snapshot.to_text() == qmodel.history[-1].snapshot.to_text()
    assert twin.backend == backend
    assert torch.equal(run(twin.reference, (X,)), run(qmodel.reference, (X,)))
    with pytest.warns(qfx.QfxWarning, match="lacks what is a part of its graph"):
        state = twin.state_dict()  # without packed weights, which copies share
    with torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
    assert torch.equal(run(qmodel, (X,)), expected)
    assert torch.equal(run(copy.deepcopy(copy.deepcopy(qmodel)), (X,)), expected)


def cuda(module: nn.Module) -> nn.Module:
    return module.to("cuda")


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_cpu_results_stay_on_the_cpu(backend: str) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    expected = run(qmodel, (X,))
    for move in (lambda m: m.to("meta"), cuda):
        with pytest.raises(qfx.BackendError, match=rf"lowered for {backend}.*backend='reference'"):
            move(qmodel)
    assert torch.equal(run(qmodel.to("cpu").float(), (X,)), expected)


def test_reference_moves() -> None:
    qmodel = qfx.quantize(net(), X, backend="reference").to("meta")
    assert {t.device.type for t in (*qmodel.parameters(), *qmodel.buffers())} == {"meta"}
    assert qmodel(X.to("meta")).shape == (2, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_train_changes_nothing(backend: str) -> None:
    qmodel = qfx.quantize(net(), X, backend=backend)
    assert not qmodel.training
    expected = run(qmodel, (X,))
    with pytest.warns(qfx.QfxWarning, match=r"train\(\) changes nothing"):
        assert qmodel.train().training
    assert torch.equal(run(qmodel, (X,)), expected)


def test_float_in_float_out_under_grad() -> None:
    output = qfx.quantize(net(), X, backend="x86")(X)
    assert output.dtype is torch.float32
    assert not output.requires_grad


# -- in steps -------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_equal_one_call(backend: str) -> None:
    prepared = qfx.prepare(net(), X, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(prepared(X), net()(X), rtol=1e-5, atol=1e-5)
    prepared = qfx.calibrate(qfx.prepare(net(), X, backend=backend), [X])
    qmodel = qfx.convert(prepared)
    assert torch.equal(run(qmodel, (X,)), run(qfx.quantize(net(), X, backend=backend), (X,)))


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
    assert text.count("test_api.py") >= 1


def is_observed(prepared: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(
        prepared.get_submodule(str(node.target)), Observer
    )


def test_convert_wants_a_prepared_model() -> None:
    with pytest.raises(qfx.ConfigError, match=r"not a Net.*qfx\.prepare"):
        qfx.convert(net())  # type: ignore[arg-type]
    with pytest.raises(qfx.ConfigError, match=r"calibrate takes.*not a Net.*qfx\.prepare"):
        qfx.calibrate(net(), [X])  # type: ignore[arg-type]


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


# -- coverage -------------------------------------------------------------------------------------
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


# -- configuration --------------------------------------------------------------------------------
def decisions(qmodel: qfx.QuantizedModel) -> dict[str, str]:
    return {s.node: s.reason or "quantized" for s in qmodel.report.sites}


def test_types_restrict() -> None:
    qmodel = qfx.quantize(net(), X, backend="x86", types={nn.Linear})
    assert decisions(qmodel)["conv"] == "not-in-types"
    assert decisions(qmodel)["fc"] == "quantized"


def test_types_take_functional_twins() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.conv(x.unsqueeze(-1)).squeeze(-1), self.weight)

    qmodel = qfx.quantize(seeded(Functional), randn(8, 4), backend="fbgemm", types=[nn.Linear])
    assert decisions(qmodel)["linear"] == "quantized"
    assert decisions(qmodel)["conv"] == "not-in-types"


def test_mapping_precedence() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.last = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.block(x))

    default = qfx.get_default_qconfig("fbgemm")
    mapping = (
        qfx.QConfigMapping()
        .set_global(default)
        .set_object_type(nn.Linear, None)
        .set_module_name_regex(r"block\.\d", default)
        .set_module_name("block.1", None)
    )
    qmodel = qfx.quantize(seeded(Three), randn(8, 4), backend="fbgemm", qconfig=mapping)
    assert decisions(qmodel) == {
        "block_0": "quantized",
        "block_1": "qconfig-none",
        "last": "qconfig-none",
    }
    assert "set_object_type" in qmodel.report.sites[2].message


def test_a_module_own_qconfig_attribute() -> None:
    model = net()
    model.conv.qconfig = None
    assert decisions(qfx.quantize(model, X, backend="x86"))["conv"] == "qconfig-none"
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name(
        "conv", qfx.get_default_qconfig("x86")
    )
    assert decisions(qfx.quantize(model, X, backend="x86", qconfig=mapping))["conv"] == "quantized"


def test_rules_that_match_nothing_are_named() -> None:
    mapping = (
        qfx.get_default_qconfig_mapping("x86")
        .set_module_name("convv", None)
        .set_object_type(nn.Conv3d, None)
    )
    with pytest.warns(qfx.QfxWarning) as caught:
        qmodel = qfx.quantize(net(), X, backend="x86", qconfig=mapping)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 2
    assert any("set_module_name('convv')" in t for t in texts)
    assert any("Conv3d" in t for t in texts)
    assert {w.filename for w in caught} == {__file__}
    assert tuple(texts) == qmodel.report.warnings
    assert all(t in str(qmodel.report) for t in texts)


def test_attributes_that_are_no_qconfig_are_named() -> None:
    model = net()
    model.conv.qconfig = "int8"
    with pytest.warns(qfx.QfxWarning, match="'conv' has a qconfig attribute of type str") as caught:
        qmodel = qfx.quantize(model, X, backend="x86")
    assert tuple(str(w.message) for w in caught) == qmodel.report.warnings
    assert {w.filename for w in caught} == {__file__}


def test_rules_that_the_backend_cannot_honour_are_named() -> None:
    signed = qfx.QConfig(qfx.QuantSpec(torch.int8), INT8)
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("conv", signed)
    with pytest.warns(qfx.QfxWarning, match=r"set_module_name\('conv'\)") as caught:
        qmodel = qfx.quantize(net(), X, backend="x86", qconfig=mapping)
    assert decisions(qmodel)["conv"] not in ("quantized", "qconfig-none")
    assert str(caught[0].message) in qmodel.report.warnings


def test_one_qconfig_for_everything() -> None:
    qconfig = qfx.QConfig(qfx.QuantSpec(torch.uint8, observer="minmax"), INT8)
    qmodel = qfx.quantize(net(), X, backend="fbgemm", qconfig=qconfig)
    low, high = float(X.min()), float(X.max())
    ((scale, _), *_) = scales(qmodel)
    codes = 127 if resolve_backend("fbgemm").saturates else 255
    assert scale == pytest.approx((high - low) / codes, rel=1e-5)


@pytest.mark.parametrize("backend", [*BACKENDS, "qnnpack"])
def test_one_scale_for_the_whole_weight(backend: str) -> None:
    qconfig = qfx.QConfig(UINT8, INT8)
    qmodel = quantized(net(), X, backend, bound=25, qconfig=qconfig)
    assert qmodel.report.coverage == 1.0


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_weight_scales_along_another_axis(backend: str) -> None:
    across = qfx.QuantSpec(torch.int8, symmetric=True, per_channel=True, axis=1)
    mapping = qfx.get_default_qconfig_mapping(backend).set_module_name(
        "conv", qfx.QConfig(UINT8, across)
    )
    with pytest.warns(qfx.QfxWarning, match=r"set_module_name\('conv'\).*axis 0.*not axis 1"):
        qmodel = qfx.quantize(net(), X, backend=backend, qconfig=mapping)
    assert decisions(qmodel)["conv"] == "config-unfit"
    assert decisions(qmodel)["fc"] == "quantized"


def test_a_rule_that_fits_nothing_of_a_backend_is_told_once() -> None:
    signed = qfx.QConfig(qfx.QuantSpec(torch.int8), INT8)
    with (
        pytest.warns(
            qfx.QfxWarning, match=r"QConfig given as qconfig=.*uint8 activations"
        ) as caught,
        pytest.raises(qfx.CoverageError, match="config-unfit"),
    ):
        qfx.quantize(net(), X, backend="x86", qconfig=signed)
    assert len(caught) == 1
    quantized(net(), X, "reference", bound=25, qconfig=signed)


def test_qconfig_without_sides_leaves_float() -> None:
    mapping = qfx.get_default_qconfig_mapping("x86").set_module_name("conv", qfx.QConfig())
    assert decisions(qfx.quantize(net(), X, backend="x86", qconfig=mapping))["conv"] == (
        "qconfig-none"
    )


# -- stubs ----------------------------------------------------------------------------------------
class Stubbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.inside, self.after = (nn.Linear(4, 4) for _ in range(3))
        self.quant, self.dequant = qfx.QuantStub(), qfx.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(self.before(x))
        x = self.dequant(self.inside(x))
        return self.after(x)


@pytest.mark.parametrize(
    ("backend", "counts"), [("fbgemm", (1, 1)), ("x86", (1, 0)), ("reference", (2, 2))]
)
def test_stubs_delimit_the_region(backend: str, counts: tuple[int, int]) -> None:
    qmodel = quantized(
        seeded(Stubbed), randn(8, 4), backend, quantize=counts[0], dequantize=counts[1]
    )
    found = decisions(qmodel)
    assert (found["before"], found["inside"], found["after"]) == (
        "outside-stubs",
        "quantized",
        "outside-stubs",
    )


# -- report ---------------------------------------------------------------------------------------
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
    assert gelu.source == f"tests/test_api.py:{line}"
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
    for piece in ("x86", "onednn.qconv2d", "no-kernel", "100.0%", "test_api.py", gelu.remedy):
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
    follow = ["lower", "merge-products", "reuse-accumulators", "overwrite-operands"]
    assert names[-5:] == [*follow, "keep-contiguous"]
    assert names.index("fuse-conv-bn") < names.index("annotate") < names.index("reference")
    assert [stage.index for stage in history] == list(range(len(history)))


# -- pipelines ------------------------------------------------------------------------------------
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


# -- torch.compile --------------------------------------------------------------------------------
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.max_pool2d(F.relu(self.second(x) + x), 2)
        return self.fc(x.mean((2, 3)))


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
