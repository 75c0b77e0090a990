"""The contract of the public calls: what they take, refuse, leave alone and hand back."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, TensorDataset

import qfx
from tests.cases.flow import BACKENDS, randn, run, seeded, sqnr
from tests.support.nets import X, net, scales
from tests.support.untouched import assert_untouched, state_of


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) + self.right(b)


AB = (randn(4, 4), randn(4, 4, seed=1))


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
        qfx.CalibrationError, match=r"the example inputs: at .*\(conv.*nets\.py:\d+\)"
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
@pytest.mark.sweep(first=1)
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


@pytest.mark.sweep
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


@pytest.mark.sweep(first=1)
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


@pytest.mark.sweep(first=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_same_signature(backend: str) -> None:
    qmodel = qfx.quantize(seeded(TwoInputs), AB, backend=backend)
    assert isinstance(qmodel, fx.GraphModule)
    expected = run(qmodel, AB)
    assert torch.equal(qmodel(b=AB[1], a=AB[0]), expected)
    with pytest.raises(TypeError):
        qmodel(*AB, None)


@pytest.mark.sweep(first=1)
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


@pytest.mark.sweep(first=1)
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
