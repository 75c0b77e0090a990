"""Small mistakes are typed errors that say what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.linear(x)
        return y if mask is None else y + mask.abs()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4)).eval()


class Nothing(qfx.Pass):
    name = "nothing"

    def run(self, graph: fx.Graph, ctx: qfx.PassContext) -> None: ...


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qfx.quantize(model(), X, example_kwargs=3), "example_kwargs is int"),
        (lambda: qfx.calibrate(qfx.prepare(model(), X), [X], steps=-1), "steps=-1"),
        (lambda: qfx.snapshot(model()), "expected a torch.fx.GraphModule, got a Sequential"),
        (lambda: qfx.snapshot(fx.symbolic_trace(model()).graph), "graph.owning_module"),
        (lambda: qfx.diff(qfx.snapshot(fx.symbolic_trace(model())), model()), "got a Sequential"),
        (lambda: qfx.run_passes(model(), Nothing(), X), "give a list of passes"),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(qfx.ConfigError, match=message):
        call()


def test_a_snapshot_is_immutable() -> None:
    view = qfx.snapshot(fx.symbolic_trace(model()))
    digest = view.digest
    with pytest.raises(AttributeError, match="immutable"):
        view.foo = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="immutable"):
        del view._records
    assert view.digest == digest


def test_nan_in_the_examples_is_said_to_be_there() -> None:
    with pytest.raises(qfx.CalibrationError, match=r"^the example inputs: at .*NaN"):
        qfx.quantize(model(), X * float("nan"), backend="reference")


def test_a_tensor_that_is_left_out() -> None:
    qmodel = qfx.quantize(Masked().eval(), (X, X), backend="reference")
    for inputs in ((X,), (X, None)):
        with pytest.raises(qfx.ConfigError, match="called without mask"):
            qmodel(*inputs)


def test_parts_of_attention_name_the_module_to_name() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8).eval()
    mapping = qfx.get_default_qconfig_mapping("reference")
    mapping.set_module_name("self_attn.out_proj", None).set_module_name("linear3", None)
    with pytest.warns(qfx.QfxWarning) as caught:
        qfx.quantize(layer, torch.randn(2, 3, 4), backend="reference", qconfig=mapping)
    first, second = sorted(str(warning.message) for warning in caught)
    assert first.endswith("set_module_name('linear3') matches no operation")
    assert "name 'self_attn' instead" in second
