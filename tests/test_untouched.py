"""After an error of every kind the user's model, and PyTorch's global state, are as before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from tests.cases.flow import randn, seeded
from tests.support.untouched import assert_untouched, state_of

X = randn(2, 3, 8, 8)


class Net(nn.Module):
    """A batch norm that is folded, a shared weight, a buffer that forward moves, a module float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.second(torch.sigmoid(self.first(torch.relu(self.bn(self.conv(x))))))


class Branches(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum() > 0 else -y


class Fails(qfx.Pass):
    """Raises where it stands."""

    name = "fails"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None:
        for name in dict(ctx.graph_module.named_parameters()):
            ctx.graph_module.get_parameter(name).data.zero_()  # of the copy
        raise KeyError("a bug in a pass")


def failing_after(name: str) -> qfx.Pipeline:
    return qfx.pipelines.static().insert_after(name, Fails())


def breaks_off() -> Iterator[Tensor]:
    yield X
    raise OSError("the disk is gone")


def interrupted() -> Iterator[Tensor]:
    yield X
    raise KeyboardInterrupt


NAN = torch.full_like(X, float("nan"))
NOTHING = qfx.QConfigMapping().set_global(None)
QCONFIG = qfx.QConfig(qfx.QuantSpec(torch.uint8), qfx.QuantSpec(torch.int8, symmetric=True))
CONTRADICTION = qfx.QConfigMapping().set_object_type(torch.sigmoid, QCONFIG)

ERRORS: dict[str, tuple[dict[str, Any], type[BaseException]]] = {
    "nan": ({"calibration_data": [X, NAN]}, qfx.CalibrationError),
    "infinity": ({"calibration_data": [X, X / 0]}, qfx.CalibrationError),
    "no data": ({"calibration_data": []}, qfx.CalibrationError),
    "one tensor": ({"calibration_data": X}, qfx.ConfigError),
    "misfit": ({"calibration_data": [X, X[:, :2]]}, qfx.ConfigError),
    "half data": ({"calibration_data": [X, X.half()]}, qfx.ConfigError),
    "data breaks off": ({"calibration_data": breaks_off}, OSError),
    "interrupted": ({"calibration_data": interrupted}, KeyboardInterrupt),
    "nothing": ({"qconfig": NOTHING}, qfx.CoverageError),
    "too little": ({"types": {nn.Conv2d}, "min_coverage": 0.99}, qfx.CoverageError),
    **{
        f"after {name}": ({"pipeline": failing_after(name)}, qfx.PassError)
        for name in (
            *("canonicalize", "fuse-conv-bn", "place-observers", "record-input-means"),
            *("correct-bias", "reference", "lower"),
        )
    },
}


def global_state() -> list[object]:
    return [
        torch.random.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.quantized.engine,
        nn.Module.__call__,
        nn.Module.__getattr__,
    ]


def check_untouched(model: nn.Module, call: Callable[[], object], kind: type[Any]) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, state = state_of(model), global_state()
    gradients = copy.deepcopy([p.grad for p in model.parameters()])
    with pytest.raises(kind):
        call()
    assert_untouched(model, before)
    assert global_state() == state
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


@pytest.mark.sweep
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
@pytest.mark.parametrize("name", ERRORS)
def test_after_an_error(name: str, backend: str) -> None:
    arguments, kind = ERRORS[name]
    data = arguments.get("calibration_data")
    if callable(data):
        arguments = {**arguments, "calibration_data": data()}
    model = seeded(Net)
    call = lambda: qfx.quantize(model, X, backend=backend, **arguments)  # noqa: E731
    check_untouched(model, call, kind)


@pytest.mark.parametrize("backend", ["fbgemm", "reference"])
def test_after_a_rule_that_contradicts_fixed_qparams(backend: str) -> None:
    model = seeded(Net)
    call = lambda: qfx.quantize(model, X, backend=backend, qconfig=CONTRADICTION)  # noqa: E731
    check_untouched(model, call, qfx.ConfigError)


def test_after_a_model_that_cannot_be_traced() -> None:
    model = seeded(Branches)
    check_untouched(model, lambda: qfx.quantize(model, X, regions="whole"), qfx.CaptureError)


def test_after_a_hook_that_raises() -> None:
    def hook(*_: object) -> None:
        raise RuntimeError("a bug in a hook")

    model = seeded(Net)
    model.second.register_forward_hook(hook)
    check_untouched(model, lambda: qfx.quantize(model, X, backend="x86"), qfx.QfxError)


def test_a_prepared_model_survives_a_failed_conversion() -> None:
    model = seeded(Net)
    prepared = qfx.prepare(model, X, backend="x86", types={nn.Conv2d})
    qfx.calibrate(prepared, [X])
    expected = qfx.convert(prepared)(X)
    check_untouched(prepared, lambda: qfx.convert(prepared, min_coverage=1.0), qfx.CoverageError)
    assert torch.equal(qfx.convert(prepared)(X), expected)
