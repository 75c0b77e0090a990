"""Dynamic LSTMs on ONNX Runtime: an operator of its own, which measures each direction alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.engines import BuildSettings, registry
from qfx.engines.agreement import compare
from qfx.engines.assembly import plan_for

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Tagger(nn.Module):
    """Words, a recurrent layer that may be given states, a classifier of each step."""

    def __init__(self, **layout: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 24)
        self.lstm = nn.LSTM(24, 16, **layout)
        self.head = nn.Linear(16 * (2 if layout.get("bidirectional") else 1), 5)

    def forward(
        self, words: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, (h, c) = self.lstm(self.words(words), hx)
        return self.head(y), (h, c)


def words(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "layout",
    [
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True, "bidirectional": True},
        {"bias": False},
    ],
    ids=["two layers", "batch first", "no bias"],
)
def test_it_agrees_with_the_reference_at_every_size(layout: dict[str, Any]) -> None:
    x = words(7, 3)
    qmodel = qfx.quantize(Tagger(**layout).eval(), x, method="dynamic", progress=False)
    fast = qfx.compile(qmodel, x, engine="onnxruntime", threads=1, progress=False)
    assert fast.trials[0].macs_inside == 1.0
    for shape in ((7, 3), (2, 1), (12, 4)):
        given = words(*shape, seed=1)
        assert compare(qmodel.reference(given), fast(given)).sqnr > 35
    assert not fast.report.eager


def test_it_takes_initial_states() -> None:
    x, hx = words(6, 2), (noise(2, 2, 16).tanh(), noise(2, 2, 16, seed=1))
    model = Tagger(bidirectional=True).eval()
    qmodel = qfx.quantize(model, (x, hx), method="dynamic", progress=False)
    fast = qfx.compile(qmodel, (x, hx), engine="onnxruntime", threads=1, progress=False)
    other = tuple(state.flip(1) for state in hx)
    assert compare(qmodel.reference(x, other), fast(x, other)).sqnr > 35
    assert compare(qmodel.reference(x, hx), fast(x, other)).sqnr < 20


def built(reference: fx.GraphModule) -> Any:
    """The program of the only piece that ONNX Runtime takes."""
    engine: Any = registry.named("onnxruntime")
    (piece,) = plan_for(engine, reference).pieces
    return engine.build(piece, BuildSettings(threads=1)).program


@pytest.mark.parametrize(("most", "dtype"), [(255, torch.int8), (127, torch.uint8)])
def test_weights_are_unsigned_where_products_saturate(most: int, dtype: torch.dtype) -> None:
    x = noise(6, 2, 24)
    qmodel = qfx.quantize(nn.LSTM(24, 16).eval(), x, method="dynamic", progress=False)
    reference = qmodel.reference
    (layer,) = (n for n in reference.graph.nodes if vocab.is_op(n, vocab.LSTM))
    layer.kwargs = {**layer.kwargs, "measured": (torch.uint8, 0, most, False)}
    reference.recompile()
    program = built(reference)
    import onnx_ir as ir

    graph = ir.from_proto(ir.serde.onnx.load_from_string(program.written.data)).graph
    (node,) = (n for n in graph if n.op_type == "DynamicQuantizeLSTM")
    assert str(node.inputs[1].dtype).lower() == str(dtype).removeprefix("torch.")
    y, (h, c) = reference(x)
    assert compare((y, h, c), tuple(program([x]))).sqnr > 30


@pytest.mark.parametrize("layer", [nn.GRU, nn.RNN])
def test_what_it_has_no_operator_for_is_a_scan(layer: type[nn.RNNBase]) -> None:
    x = noise(6, 2, 24)
    qmodel = qfx.quantize(layer(24, 16).eval(), x, method="dynamic", progress=False)
    fast = qfx.compile(qmodel, x, engine="onnxruntime", progress=False)
    assert compare(qmodel.reference(x), fast(x)).sqnr > 60


def test_other_engines_take_a_scan() -> None:
    x = words(6, 2)
    qmodel = qfx.quantize(Tagger().eval(), x, method="dynamic", progress=False)
    engine: Any = registry.named("openvino")
    assert plan_for(engine, qmodel.reference).outside == ()
