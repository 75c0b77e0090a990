"""Forms that round more: which an engine has, when one agrees all the same, when it is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qfx
from qfx.engines import (
    BuildSettings,
    Built,
    Piece,
    compiling,
    openvino,
    registry,
    writing,
    yardstick,
)
from qfx.engines.agreement import compare
from qfx.engines.assembly import plan_for
from qfx.engines.candidates import Candidate, rank
from qfx.engines.source import source_of
from qfx.engines.workers import Worker
from qfx.engines.yardstick import Yardstick
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.seen import see
from qfx.export.onnx.trials import run_unrounded
from qfx.numerics.measures import sqnr
from tests.support.engines import Fake, Residuals

onnx_ir = pytest.importorskip("onnx_ir")


class Gated(nn.Module):
    """A convolution that its own sigmoid gates, and two results side by side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(torch.cat([y * y.sigmoid(), y], 1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def qmodel(x: Tensor) -> qfx.QuantizedModel:
    return qfx.quantize(Residuals().eval(), x, progress=False, check=False)


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("openvino", {OnnxForm.INTEGER, OnnxForm.SCORES, OnnxForm.ATTENTION, OnnxForm.BFLOAT16}),
        ("onnxruntime", {OnnxForm.FULL, OnnxForm.INTEGER}),
    ],
)
def test_forms_that_round_no_more_are_not_tried(
    name: str, takes: set[OnnxForm], qmodel: qfx.QuantizedModel, x: Tensor
) -> None:
    engine = registry.named(name)
    gated = qfx.quantize(Gated().eval(), x, progress=False, check=False)
    layer = qfx.quantize(nn.Linear(12, 4).eval(), x, method="dynamic", progress=False, check=False)
    expected = {gated: {OnnxForm.FULL}, qmodel: {OnnxForm.FULL, OnnxForm.INTEGER}, layer: set()}
    for model, forms in expected.items():
        (piece,) = plan_for(engine, model.reference).pieces  # type: ignore[arg-type]
        argument = str(next(iter(model.reference.graph.nodes)).target)
        piece.seen = see(model.reference, {argument: x})
        tried = engine.forms(piece)  # type: ignore[attr-defined]
        assert set(tried) == {*(forms & takes), OnnxForm.EXACT}
        assert tried[-1] is OnnxForm.EXACT


class MaskedAttention(nn.Module):
    """Attention to the tokens that a caller names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = (f(x).unflatten(-1, (4, 8)).transpose(1, 2) for f in self.layers())
        return F.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None, :] > 0)

    def layers(self) -> tuple[nn.Module, ...]:
        return self.query, self.key, self.value


class PackedAttention(nn.Module):
    """Attention whose queries, keys and values one layer yields."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.packed, self.out = nn.Linear(32, 96), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.packed(x).chunk(3, -1)
        heads = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self.out(mixed)  # type: ignore[no-any-return]


TOKENS = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0))
MASKED = TOKENS, torch.tensor([[1] * 8 + [0] * 2])


def forms_of(model: fx.GraphModule, inputs: Sequence[Tensor]) -> list[OnnxForm]:
    """What OpenVINO is given of a model."""
    engine = registry.named("openvino")
    (piece,) = plan_for(engine, model).pieces  # type: ignore[arg-type]
    names = (str(n.target) for n in model.graph.find_nodes(op="placeholder"))
    piece.seen = see(model, dict(zip(names, inputs, strict=False)))
    return list(engine.forms(piece))  # type: ignore[attr-defined]


IN_CODES = (OnnxForm.ATTENTION, OnnxForm.SCORES)


@pytest.mark.parametrize(("bfloat16", "forms"), [(True, [OnnxForm.BFLOAT16]), (False, IN_CODES)])
def test_forms_for_attention_are_tried_where_there_is_some(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, forms: Sequence[OnnxForm]
) -> None:
    monkeypatch.setattr(openvino, "_multiplies_bfloat16", lambda: bfloat16)
    fused = qfx.quantize(MaskedAttention().eval(), MASKED, progress=False, check=False)
    assert forms_of(fused.reference, MASKED) == [OnnxForm.INTEGER, *forms, OnnxForm.EXACT]
    by_hand = nn.MultiheadAttention(32, 4, batch_first=True).eval()  # yields its weights, too
    written = qfx.quantize(by_hand, (TOKENS,) * 3, progress=False, check=False)
    found = forms_of(written.reference, (TOKENS,) * 3)
    assert found == [OnnxForm.INTEGER, *IN_CODES, OnnxForm.EXACT]


@pytest.mark.slow  # builds
def test_openvino_is_given_large_weights_where_they_lie() -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(256, 300), nn.ReLU(), nn.Linear(300, 8)).eval(),
        torch.randn(4, 256),
    )
    qmodel = qfx.quantize(model, x, progress=False, check=False)
    engine = registry.named("openvino")
    (piece,) = plan_for(engine, qmodel.reference).pieces  # type: ignore[arg-type]
    whole = writing.onnx_model(piece, OnnxForm.EXACT, piece.shapes)
    apart = writing.onnx_model(piece, OnnxForm.EXACT, piece.shapes, apart=True)
    ((name, array),) = apart.weights.items()
    assert array.nbytes == 256 * 300
    assert len(apart.data) < len(whole.data) - array.nbytes
    assert (apart.inputs, apart.outputs) == (whole.inputs, whole.outputs)
    assert name not in apart.inputs
    free = [writing.onnx_model(piece, OnnxForm.EXACT, apart=each) for each in (True, False)]
    assert [bool(each.weights) for each in free] == [True, False]
    assert len(free[0].data) < len(free[1].data) - array.nbytes
    fast = qfx.compile(qmodel, x, engine="openvino", progress=False)
    assert sqnr(qmodel.reference(x), fast(x)) > 35


def test_activations_that_are_float_stay_so() -> None:
    model = MaskedAttention().eval()
    weights = qfx.quantize(model, MASKED, method="weight_only", progress=False)
    assert forms_of(weights.reference, MASKED) == [OnnxForm.EXACT]


@pytest.mark.slow  # builds
@pytest.mark.parametrize("form", [OnnxForm.SCORES, OnnxForm.ATTENTION, OnnxForm.BFLOAT16])
def test_openvino_multiplies_masked_attention(
    monkeypatch: pytest.MonkeyPatch, form: OnnxForm
) -> None:
    pytest.importorskip("openvino")
    qmodel = qfx.quantize(MaskedAttention().eval(), MASKED, progress=False, check=False)
    monkeypatch.setattr(openvino.OpenVINO, "forms", lambda self, piece: (form,))
    monkeypatch.setattr(Yardstick, "reason_against", lambda *args: "")
    fast = qfx.compile(qmodel, MASKED, engine="openvino", progress=False)
    (trial,) = fast.trials
    assert trial.form == form.value
    assert sqnr(qmodel.reference(*MASKED), fast(*MASKED)) > 25  # behind the product it was 1 dB


def test_parts_of_a_layer_are_layers_of_their_own(tmp_path: Path) -> None:
    qmodel = qfx.quantize(PackedAttention().eval(), TOKENS, progress=False, check=False)
    kinds: dict[str, list[str]] = {}
    for form in ("exact", "bfloat16"):
        qfx.export_onnx(qmodel, tmp_path / "packed.onnx", form=form, example_inputs=TOKENS)
        written = onnx_ir.load(tmp_path / "packed.onnx").graph
        kinds[form] = sorted(node.op_type for node in written)
    assert "Split" in kinds["exact"]
    assert not {"Split", "Concat"} & set(kinds["bfloat16"])
    assert kinds["bfloat16"].count("MatMul") == kinds["exact"].count("MatMul") + 2


@pytest.mark.slow  # builds
def test_openvino_runs_the_parts_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    qmodel = qfx.quantize(PackedAttention().eval(), TOKENS, progress=False, check=False)
    monkeypatch.setattr(openvino.OpenVINO, "forms", lambda self, piece: (OnnxForm.BFLOAT16,))
    fast = qfx.compile(qmodel, TOKENS, engine="openvino", progress=False)
    (trial,) = fast.trials
    assert trial.form == "bfloat16"
    assert sqnr(qmodel.reference(TOKENS), fast(TOKENS)) > 35
    longer = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(1))
    assert sqnr(qmodel.reference(longer), fast(longer)) > 35


class Unrounded(Fake):
    """In the integer form yields what the piece does without rounding, at once; else waits."""

    def forms(self, piece: Piece) -> Sequence[OnnxForm]:
        return (OnnxForm.INTEGER, OnnxForm.EXACT)

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        names = [str(node.target) for node in piece.graph_module.graph.nodes]

        def program(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            if settings.form is OnnxForm.EXACT:
                time.sleep(0.02)
                return tuple(piece.graph_module(*inputs))
            made = run_unrounded(piece.graph_module, dict(zip(names, inputs, strict=False)))
            return [self.spoil(each) for each in made]

        return Built(program, lambda shapes: True)


class Rough(Unrounded):
    """Is as far from the model as what is not rounded, and further from that than the model."""

    def spoil(self, made: Tensor) -> Tensor:
        noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
        return made + 0.08 * made.std() * noise


@pytest.mark.parametrize(("fake", "expected"), [(Unrounded(), "integer"), (Rough(), "exact")])
def test_a_form_agrees_that_is_as_near_to_unrounded_activations(
    monkeypatch: pytest.MonkeyPatch,
    qmodel: qfx.QuantizedModel,
    x: Tensor,
    fake: Fake,
    expected: str,
) -> None:
    monkeypatch.setattr(compiling, "named", lambda name: fake)
    fast = qfx.compile(qmodel, 1.3 * x, engine="fake")  # beyond the range of the codes
    (trial,) = fast.trials
    assert trial.form == expected
    if expected == "integer":
        assert 15 < trial.sqnr < 35  # which is no agreement of its own


@pytest.mark.parametrize(
    ("form", "why"), [(OnnxForm.EXACT, ""), (OnnxForm.INTEGER, "disagrees with the reference: 2")]
)
def test_that_the_model_is_sensitive_excuses_nothing_that_rounds_more(
    monkeypatch: pytest.MonkeyPatch, qmodel: qfx.QuantizedModel, x: Tensor, form: OnnxForm, why: str
) -> None:
    source = source_of(qmodel, x)
    wanted = qmodel.reference(x)
    noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0)) * wanted.std()
    monkeypatch.setattr(yardstick, "run_moved", lambda *args: wanted + 0.03 * noise)
    held = Yardstick(source)
    made = wanted + 0.05 * noise
    reason = held.reason_against(compare(wanted, made), made, form)
    assert reason.startswith(why)
    assert bool(reason) == bool(why)


def test_what_rounds_more_must_be_faster() -> None:
    worker = Worker("test")
    exact = Candidate(Fake(), OnnxForm.EXACT, worker, times=[1.0])
    rounded = Candidate(Fake(), OnnxForm.INTEGER, worker, times=[0.98])
    assert min(exact, rounded, key=rank) is exact
    rounded.times = [0.9]
    assert min(exact, rounded, key=rank) is rounded
    worker.close()


def test_codes_are_not_multiplied_in_float(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    """Of MatMul and Add of known sizes ONNX Runtime would make a Gemm, in float."""
    runtime = pytest.importorskip("onnxruntime")
    opened: list[dict[str, object]] = []
    session = runtime.InferenceSession

    def spying(*args: object, **options: object) -> object:
        opened.append(options)
        return session(*args, **options)

    monkeypatch.setattr(runtime, "InferenceSession", spying)
    layer = nn.Linear(12, 4).eval()
    qmodel = qfx.quantize(layer, x, progress=False, check=False)
    for model in (qmodel, layer):
        fast = qfx.compile(model, x, engine="onnxruntime", dynamic=False)
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=2e-2)
    of_codes, of_floats = opened[0], opened[-1]
    assert of_codes["disabled_optimizers"] == ["MatMulAddFusion"]
    assert of_floats["disabled_optimizers"] == []
