"""Programs of torch.export compute what the quantized model means, and keep what it knows."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.export.pt2e.graph import ProgramModule, Trace
from qfx.export.pt2e.table import EMITTERS
from qfx.numerics.measures import sqnr
from qfx.vocab import Kind

BATCH = ({0: torch.export.Dim.DYNAMIC},)


def g(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.side = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, gain: float = 1.0) -> dict[str, Tensor]:
        y = self.stem(x)
        z = torch.cat([y + self.side(y), y], 1).mean((2, 3))
        return {"logits": self.head(z) * gain, "features": z}


class Linears(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 5))


def reloaded(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def operators(program: torch.export.ExportedProgram) -> dict[str, int]:
    """How often each operator of quantized_decomposed is called."""
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        space, _, name = str(node.target).partition(".")
        if space == "quantized_decomposed":
            found[name] = found.get(name, 0) + 1
    return found


def run(model: Callable[..., Any], *args: Any) -> Any:
    with torch.no_grad():
        return model(*args)


@pytest.fixture(scope="module")
def static() -> tuple[qfx.QuantizedModel, torch.export.ExportedProgram]:
    qmodel = qfx.quantize(Net().eval(), g(2, 3, 8, 8), check=False)
    return qmodel, qfx.export_pt2e(qmodel, g(2, 3, 8, 8), BATCH)


def test_static_is_equal_after_a_round_trip_at_another_batch(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    qmodel, program = static
    for x in (g(2, 3, 8, 8, seed=1), g(5, 3, 8, 8, seed=2)):
        expected = run(qmodel.reference, x)
        for made in (program, reloaded(program)):
            found = run(made.module(), x)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_static_is_written_with_their_operators(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    found = operators(static[1])
    assert found["dequantize_per_channel.default"] == 3
    assert found["quantize_per_tensor.default"] >= 3
    assert set(found) <= {
        "quantize_per_tensor.default",
        "dequantize_per_tensor.default",
        "dequantize_per_channel.default",
    }


def test_weights_stay_integers_under_their_names(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    qmodel, program = static
    state: Mapping[str, Tensor] = program.state_dict
    kept = {name: tensor for name, tensor in state.items() if name.endswith("_q")}
    assert {name.rpartition(".")[0] for name in kept} == {"stem.0", "side", "head"}
    assert all(tensor.dtype == torch.int8 for tensor in kept.values())
    buffers = dict(qmodel.reference.named_buffers())
    assert all(tensor is buffers[name] for name, tensor in kept.items())
    assert not any(t.is_floating_point() and t.dim() > 1 for t in state.values())


def test_nodes_say_where_they_come_from(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    for program in (static[1], reloaded(static[1])):
        (linear,) = [n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]
        assert linear.meta["custom"]["qfx.module"] == "head"
        assert linear.meta["nn_module_stack"]["L__self__.head"] == (
            "head",
            "torch.nn.modules.linear.Linear",
        )
        source = linear.meta["custom"]["qfx.source"]
        assert "test_export.py:" in source
        assert f"line {source.rpartition(':')[2]}, in head" in linear.meta["stack_trace"]
        traces = [node.meta.get("stack_trace") or "" for node in program.graph.nodes]
        assert not any("qfx/export" in trace for trace in traces)


def test_the_model_is_as_before(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    reference = static[0].reference
    assert not any("custom" in node.meta for node in reference.graph.nodes)
    assert reference.get_buffer("head.weight_zero_point").dtype == torch.int8


FOUR = qfx.QuantSpec(torch.int8, quant_min=-8, quant_max=7, per_channel=True, axis=0, group_size=32)
LOPSIDED = qfx.QuantSpec(torch.int8, symmetric=False, per_channel=True, axis=0)


@pytest.mark.parametrize(
    ("method", "weight", "names"),
    [
        ("dynamic", None, {"choose_qparams.tensor", "quantize_per_tensor.tensor"}),
        ("weight_only", None, {"dequantize_per_channel.default"}),
        ("weight_only", FOUR, {"dequantize_per_channel_group.default"}),
        ("weight_only", LOPSIDED, {"dequantize_per_channel.default"}),
    ],
)
def test_linears(method: str, weight: qfx.QuantSpec | None, names: set[str]) -> None:
    qconfig = None if weight is None else qfx.QConfig(activation=None, weight=weight)
    model, x = Linears().eval(), g(3, 64)
    dict(model.named_parameters())[
        "0.weight"
    ].data += 0.3  # codes on one side of zero: zero points far from 0
    qmodel = qfx.quantize(model, x, method=method, qconfig=qconfig, check=False)
    program = qfx.export_pt2e(qmodel, (x,), BATCH)
    assert names <= set(operators(program))
    others = g(7, 64, seed=3)
    expected, found = run(qmodel.reference, others), run(program.module(), others)
    # scales that are measured may differ in their last bit
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if method == "dynamic" else 0)


def test_packed_codes_stay_packed() -> None:
    qconfig = qfx.QConfig(activation=None, weight=FOUR)
    qmodel = qfx.quantize(
        nn.Linear(64, 8).eval(), g(2, 64), method="weight_only", qconfig=qconfig, check=False
    )
    program = qfx.export_pt2e(qmodel, g(2, 64))
    (packed,) = [t for t in program.state_dict.values() if t.dtype == torch.uint8]
    assert packed.shape == (8, 32)


@pytest.mark.parametrize("symmetric", [True, False])
def test_measured_numbers_are_in_range_of_the_codes(symmetric: bool) -> None:
    """choose_qparams_symmetric takes zero point 128 whatever the codes: not written for 7 bits."""
    spec = qfx.QuantSpec(torch.uint8, quant_min=0, quant_max=127, symmetric=symmetric, dynamic=True)
    weight = qfx.get_default_qconfig("reference", "dynamic").weight
    qmodel = qfx.quantize(
        nn.Linear(64, 8).eval(),
        g(2, 64),
        method="dynamic",
        backend="reference",
        qconfig=qfx.QConfig(activation=spec, weight=weight),
        check=False,
    )
    program = qfx.export_pt2e(qmodel, g(2, 64), BATCH)
    x = g(5, 64, seed=1)
    torch.testing.assert_close(
        run(program.module(), x), run(qmodel.reference, x), rtol=0, atol=1e-5
    )
    assert ("choose_qparams.tensor" in operators(program)) == (not symmetric)


def test_nothing_but_the_rounding_of_halves_differs_from_the_reference() -> None:
    """Halfway between codes, an odd zero point apart: round(x) + 127 and round(x + 127)."""
    activation = qfx.QuantSpec(torch.uint8, observer="minmax")
    weight = qfx.get_default_qconfig("reference", "static").weight
    qconfig = qfx.QConfig(activation=activation, weight=weight)
    model, ends = nn.Linear(2, 2, bias=False).eval(), torch.tensor([[-127.0, 128.0]])
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    qmodel = qfx.quantize(model, ends, backend="reference", qconfig=qconfig, check=False)
    reference, halves = qmodel.reference, torch.arange(-50.0, 50.0).reshape(50, 2) + 0.5
    written = run(ProgramModule(reference, Trace()), halves)
    assert torch.equal((written - run(reference, halves)).abs(), torch.ones(50, 2))
    rounding = {op: emitter for op, emitter in EMITTERS.items() if op is not vocab.QUANTIZE}
    assert torch.equal(
        run(ProgramModule(reference, Trace(), rounding), halves), run(reference, halves)
    )
    others = torch.arange(-50.0, 50.0).reshape(50, 2) + 0.25
    assert torch.equal(run(ProgramModule(reference, Trace()), others), run(reference, others))


def test_every_operation_of_quantization_has_a_row() -> None:
    ops = {op for op in vars(vocab).values() if isinstance(op, vocab.OpDef)}
    plain = {vocab.UNPACK, vocab.WIDEN}  # bits are moved: operators of PyTorch
    of_packed = {vocab.PACK_PADDED, vocab.PAD_PACKED, *vocab.SEQUENCES}
    assert {op for op in ops if op.kind is Kind.QUANT} | of_packed == set(EMITTERS) | plain


# -- what can't be said ----------------------------------------------------------------------------
def test_groups_in_convolutions_are_a_reason_for_each_site() -> None:
    spec = qfx.QuantSpec(torch.int8, per_channel=True, axis=0, group_size=8)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    qconfig = qfx.QConfig(activation=None, weight=spec)
    qmodel = qfx.quantize(
        model,
        g(2, 8, 5, 5),
        method="weight_only",
        backend="reference",
        qconfig=qconfig,
        check=False,
    )
    with pytest.raises(qfx.ExportError, match="groups of 8 in a weight of shape") as caught:
        qfx.export_pt2e(qmodel, g(2, 8, 5, 5))
    assert [each.module_path for each in caught.value.problems] == ["0", "2"]
    assert "Choose a group_size that divides" in caught.value.problems[0].remedy


def test_codes_of_32_bits_are_a_reason() -> None:
    weight = qfx.QuantSpec(torch.int8, per_channel=True, axis=0)
    qconfig = qfx.QConfig(activation=qfx.QuantSpec(torch.int32), weight=weight)
    model, x = nn.Linear(8, 4).eval(), g(2, 8)
    qmodel = qfx.quantize(model, x, backend="reference", qconfig=qconfig, check=False)
    with pytest.raises(qfx.ExportError, match=r"codes of 32 bits.*16 bits or fewer"):
        qfx.export_pt2e(qmodel, x)


def test_what_torch_export_can_not_trace_names_the_node() -> None:
    """A hook that asks for data stays Python, which torch.export can't run without data."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model[1].register_forward_hook(lambda _, __, y: y * 2 if float(y.sum()) > 0 else y)
    qmodel = qfx.quantize(model, g(2, 8), method="dynamic", check=False)
    with pytest.raises(qfx.ExportError, match=r"can't trace the model at %_1 \(1"):
        qfx.export_pt2e(qmodel, g(2, 8))


@pytest.mark.parametrize("both_ways", [True, False])
def test_hidden_states_are_rounded_anew_at_each_step_whatever_the_batch(both_ways: bool) -> None:
    model = nn.LSTM(16, 8, batch_first=True, bidirectional=both_ways).eval()
    qmodel = qfx.quantize(model, g(2, 5, 16), method="dynamic", check=False)
    program = reloaded(qfx.export_pt2e(qmodel, g(2, 5, 16), BATCH)).module()
    with torch.no_grad():
        for x in (g(2, 5, 16, seed=1), g(7, 5, 16, seed=2)):
            (want, _), (have, _) = qmodel.reference(x), program(x)
            assert sqnr(want, have) > 90  # scales that are measured may differ in their last bit


def test_a_size_that_can_not_differ_is_an_export_error(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    channels = {"x": {1: torch.export.Dim.DYNAMIC}}
    with pytest.raises(qfx.ExportError, match="leave sizes out of dynamic_shapes"):
        qfx.export_pt2e(static[0], g(2, 3, 8, 8), channels)


def test_a_float_model_is_a_config_error() -> None:
    with pytest.raises(qfx.ConfigError, match="takes a quantized model, not Linear"):
        qfx.export_pt2e(nn.Linear(2, 2), g(1, 2))  # type: ignore[arg-type]


# -- PyTorch with and without ----------------------------------------------------------------------
WITHOUT = """
import sys
sys.modules["torch.ao.quantization.fx._decomposed"] = None
import torch, qfx
from torch import nn
torch.manual_seed(0)
spec = qfx.QuantSpec(torch.int8, quant_min=-8, quant_max=7, per_channel=True, axis=0, group_size=32)
four = qfx.QConfig(activation=None, weight=spec)
model, x = nn.Linear(64, 8).eval(), torch.randn(2, 64)
for options in ({}, {"method": "dynamic"}, {"method": "weight_only", "qconfig": four}):
    qmodel = qfx.quantize(model, x, check=False, **options)
    program = qfx.export_pt2e(qmodel, x, ({0: torch.export.Dim.DYNAMIC},))
    assert "quantized_decomposed" in str(program.graph)
    y = torch.randn(5, 64)
    with torch.no_grad():
        assert torch.equal(program.module()(y), qmodel.reference(y)), options
print("equal")
"""


@pytest.mark.slow
def test_operators_are_defined_where_pytorch_lacks_them() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # Inductor's own
def test_inductor_compiles_a_program(
    static: tuple[qfx.QuantizedModel, torch.export.ExportedProgram],
) -> None:
    qmodel, program = static
    x = g(2, 3, 8, 8, seed=1)
    compiled = torch.compile(program.module(), backend="inductor")
    found, expected = run(compiled, x), run(qmodel.reference, x)
    error = (found["logits"] - expected["logits"]).abs().max()
    assert error <= 0.05 * expected["logits"].abs().max()
