"""flatten-constants: what a graph reads has names at the root; the tensors are the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded
from tests.passes.stages import change, quantized

AFTER = """\
- %conv_weight_1 : f32[4,3,3,3] = dequantize(@conv.weight_q, @conv.weight_scale, @conv.weight_zero_point, axis=0)
- %conv_relu : f32[2,4,4,4] = conv2d+relu(%x_3, %conv_weight_1, @conv.bias_1)
+ %conv_weight_1 : f32[4,3,3,3] = dequantize(@conv_weight_q, @conv_weight_scale, @conv_weight_zero_point, axis=0)
+ %conv_relu : f32[2,4,4,4] = conv2d+relu(%x_3, %conv_weight_1, @conv_bias_1)
- %fc_weight_1 : f32[2,4] = dequantize(@fc.weight_q, @fc.weight_scale, @fc.weight_zero_point, axis=0)
- %fc : f32[2,2] = linear(%mean_3, %fc_weight_1, @fc.bias_1)
+ %fc_weight_1 : f32[2,4] = dequantize(@fc_weight_q, @fc_weight_scale, @fc_weight_zero_point, axis=0)
+ %fc : f32[2,2] = linear(%mean_3, %fc_weight_1, @fc_bias_1)
"""  # noqa: E501

NAMES = ("weight_q", "weight_scale", "weight_zero_point", "bias_1")


def saved(qmodel: qfx.QuantizedModel) -> dict[str, Tensor]:
    with pytest.warns(qfx.QfxWarning, match="state_dict"):
        return qmodel.state_dict()


def test_the_graph_before_and_after() -> None:
    qmodel = quantized()
    assert change(qmodel.history, "flatten-constants") == AFTER
    stage = qmodel.history["flatten-constants"]
    assert {event.rule for event in stage.events} == {"flatten-constants"}
    assert all(not event.is_rewrite for event in stage.events)
    layers = {f"{layer}_{name}" for layer in ("conv", "fc") for name in NAMES}
    assert set(saved(qmodel)) == layers
    assert not list(qmodel.children())


class Held(nn.Module):
    """Reads a parameter of its own, two of a part, one of them under a name that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Module()
        self.part.shift = nn.Parameter(torch.ones(4))
        self.part.scale = nn.Parameter(torch.full((4,), 2.0))
        self.part_shift = nn.Parameter(torch.full((4,), 3.0))
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).tanh() * self.part.scale + self.part_shift + self.part.shift
        return torch.cumsum(y, 1) * self.part.scale


def test_a_name_that_is_taken_gets_an_underscore() -> None:
    stages = quantized_held().history
    before, after = (stages[at].snapshot for at in ("keep-contiguous", "flatten-constants"))
    moved = {r.path: after[r.name].path for r in before if r.op == "get_attr"}
    assert moved["part_shift"] == "part_shift"
    assert moved["part.shift"] == "part_shift_"
    assert moved["part.scale"] == "part_scale"


def quantized_held(**options: object) -> qfx.QuantizedModel:
    return qfx.quantize(seeded(Held), randn(3, 4), backend="reference", **options)  # type: ignore[arg-type]


def test_what_has_no_dot_in_its_name_is_left_alone() -> None:
    qmodel = quantized_held()
    changed = {
        name for event in qmodel.history["flatten-constants"].events for name in event.changed
    }
    assert "part_shift" not in changed
    _, history = qfx.run_passes(qmodel, [qfx.get_pass("flatten-constants")], randn(3, 4))
    assert history[-1].events == ()
    assert history[-1].snapshot == history[-2].snapshot


def test_the_tensors_are_those_of_the_reference_form() -> None:
    qmodel = quantized_held()
    theirs = dict(qmodel.reference.named_parameters()) | dict(qmodel.reference.named_buffers())
    ours = dict(qmodel.named_parameters()) | dict(qmodel.named_buffers())
    assert len(ours) == len(theirs)
    assert {id(tensor) for tensor in ours.values()} == {id(tensor) for tensor in theirs.values()}
    assert "part.shift" in theirs


def test_a_model_made_without_it_computes_the_same() -> None:
    x = randn(3, 4)
    pipeline = qfx.pipelines.static(backend="reference").without("flatten-constants")
    dotted, flat = quantized_held(pipeline=pipeline), quantized_held()
    assert "fc.weight_q" in saved(dotted)
    for model in (dotted, copy.copy(dotted), copy.deepcopy(dotted), dotted.to(torch.float32)):
        assert torch.equal(model(x), flat(x))


class Counting(nn.Module):
    """Two buffers that forward writes to; their order by name depends on the dot."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.fc = nn.Module(), nn.Linear(4, 4)
        self.h.register_buffer("z", torch.zeros(4))
        self.register_buffer("h2", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.h.z.add_(1)
        self.h2.add_(2)
        y: Tensor = self.fc(x) + self.h.z
        return y


def test_what_forward_writes_to_is_told_apart_under_both_names() -> None:
    qmodel = qfx.quantize(seeded(Counting), randn(3, 4), backend="reference")
    stage = qmodel.history["flatten-constants"].snapshot
    assert {r.path for r in stage if r.op == "get_attr"} >= {"h_z", "h2"}
    qmodel(randn(3, 4))
    held = dict(qmodel.named_buffers())
    assert (held["h_z"].tolist(), held["h2"].tolist()) == ([1.0] * 4, [2.0] * 2)


@pytest.mark.skipif("x86" not in qfx.backends.available(), reason="no x86")
def test_packed_weights_are_no_part_of_state_dict() -> None:
    qmodel, x = qfx.quantize(seeded(Held), randn(3, 4), backend="x86"), randn(5, 4)
    assert "packed_weight" in dict(qmodel.named_buffers())
    assert "packed_weight" not in saved(qmodel)
    assert torch.equal(qmodel(x), copy.deepcopy(qmodel)(x))
