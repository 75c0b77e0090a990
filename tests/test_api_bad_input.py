"""What users pass wrongly is an error that says what to pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import qfx
from tests.cases.flow import BACKENDS, randn
from tests.support.nets import UINT8, X, net
from tests.support.untouched import assert_untouched, state_of


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
        ({"inputs": randn(2, 5, 8, 8)}, qfx.QfxError, r"conv.*nets\.py:\d+(.|\n)*3 channels"),
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
