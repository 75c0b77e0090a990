"""Forms that round more: which an engine has, when one agrees all the same, when it is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.engines import BuildSettings, Built, Piece, compiling, registry
from qfx.engines.assembly import plan_for
from qfx.engines.candidates import Candidate, rank
from qfx.engines.workers import Worker
from qfx.export.onnx.forms import OnnxForm
from qfx.export.onnx.seen import see
from qfx.export.onnx.trials import run_unrounded
from tests.support.engines import Fake, Residuals

pytest.importorskip("onnx_ir")


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
        ("openvino", {OnnxForm.INTEGER, OnnxForm.SCORES, OnnxForm.ATTENTION}),
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


def test_forms_for_attention_are_tried_where_there_is_some() -> None:
    engine, tokens = registry.named("openvino"), torch.randn(2, 5, 8)
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    qmodel = qfx.quantize(model, (tokens, tokens, tokens), progress=False, check=False)
    (piece,) = plan_for(engine, qmodel.reference).pieces  # type: ignore[arg-type]
    names = (str(n.target) for n in qmodel.reference.graph.find_nodes(op="placeholder"))
    piece.seen = see(qmodel.reference, dict(zip(names, (tokens,) * 3, strict=False)))
    tried = engine.forms(piece)  # type: ignore[attr-defined]
    assert tuple(tried) == (
        OnnxForm.INTEGER, OnnxForm.ATTENTION, OnnxForm.SCORES, OnnxForm.EXACT
    )  # fmt: skip


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
