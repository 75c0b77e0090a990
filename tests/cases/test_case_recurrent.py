"""Dynamic quantization of recurrent layers: LSTM, GRU, RNN and their cells."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qfx
from qfx import vocab
from qfx.backends import resolve_backend
from qfx.backends.onednn import recurrent as x86_recurrent
from qfx.backends.onednn import recurrent_calls
from qfx.backends.onednn import recurrent_emitters as x86_recurrent_emit
from qfx.backends.onednn.as_convolutions import is_convolution
from qfx.graph.macs import macs
from tests.cases.flow import Branches, randn, run, seeded, sqnr, targets, tensors
from tests.cases.recurrent import (
    BACKENDS,
    LAYERS,
    Wrapped,
    check,
    check_results,
    dynamic,
    has_kernel,
    state_of,
)


@pytest.fixture(autouse=True)
def _kernels_for_small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers here are small, and their integer kernels are what is tested."""
    monkeypatch.setattr(x86_recurrent_emit, "FEWEST_UNITS", 0)


@pytest.mark.sweep
@pytest.mark.parametrize(("hidden", "in_integers"), [(16, True), (15, False)])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_few_hidden_units_run_in_float_over_int8_weights(
    kind: str, hidden: int, in_integers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(x86_recurrent_emit, "FEWEST_UNITS", 16)
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
    model = seeded(lambda: layer(8, hidden, num_layers=2, bidirectional=True))
    x = randn(5, 3, 8)
    qmodel = qfx.quantize(model, x, method="dynamic", backend="x86")
    site = qmodel.report.sites[0]
    assert site.decision == "quantized"
    assert (site.reason == "") is in_integers
    assert "dynamic" not in site.remedy  # it is that already
    assert (qmodel.report.coverage == 1.0) is in_integers
    before, after = qmodel.report.size_bytes
    assert after < before / 2
    for inputs in (x, randn(9, 1, 8)):
        expected, actual = tensors(run(model, (inputs,))), tensors(run(qmodel, (inputs,)))
        assert all(sqnr(e, a) > 25 for e, a in zip(expected, actual, strict=True))
    assert (site.kernel == "dequantized int8 weights") is not in_integers


CELLS: dict[str, type[nn.Module]] = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "rnn": nn.RNNCell,
}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 3, "dropout": 0.5},
    "both ways": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True, "bidirectional": True},
    "no biases": {"bias": False, "num_layers": 2},
}


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, backend: str) -> None:
    if not has_kernel(kind, backend):
        pytest.skip("a near-miss, below")
    layers = Branches(
        seeded(lambda options=options: LAYERS[kind](8, 16, **options))
        for options in OPTIONS.values()
    )
    x = randn(5, 3, 8)
    qmodel = dynamic(layers, [x] * len(OPTIONS), backend=backend)
    assert qmodel.report.coverage == 1.0
    sites = [(s.decision, s.op) for s in qmodel.report.sites if s.macs]
    assert sites == [("quantized", LAYERS[kind].__name__)] * len(OPTIONS)
    for inputs in (x, randn(9, 1, 8), 5 * x, x[:1], x[:, 0]):  # lengths, batches, none, scales
        args = ([inputs] * len(OPTIONS),)
        results = (run(m, args) for m in (layers, qmodel, qmodel.reference))
        for each in zip(*results, strict=True):
            check_results(*each, qmodel)


def of_backend(backend: str) -> list[str]:
    """The kinds that it has kernels of; the others are near-misses, below."""
    return [kind for kind in LAYERS if has_kernel(kind, backend)]


class Calls(nn.Module):
    """Layers side by side, each called with arguments of its own."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.eval()

    def forward(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        return [layer(*args) for layer, args in zip(self.layers, calls, strict=True)]


def check_calls(model: nn.Module, qmodel: qfx.QuantizedModel, calls: list[Any]) -> None:
    results = (run(m, (calls,)) for m in (model, qmodel, qmodel.reference))
    for each in zip(*results, strict=True):
        check_results(*each, qmodel)


def first_of(batch: Any, dim: int = 0) -> Any:
    return pytree.tree_map(lambda x: x.select(dim, 0), batch)


@pytest.mark.sweep
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
def test_initial_states(batched: bool, backend: str) -> None:
    kinds = of_backend(backend)
    model = Calls(
        seeded(lambda kind=kind: LAYERS[kind](8, 16, 2, bidirectional=True, batch_first=True))
        for kind in kinds
    )
    calls = [(randn(2, 5, 8), state_of(kind, 4, 2, 16)) for kind in kinds]
    if not batched:
        calls = [(x[0], first_of(state, 1)) for x, state in calls]
    check_calls(model, dynamic(model, calls, backend=backend), calls)


def every_cell(backend: str, *shape: int) -> tuple[nn.Module, list[Any]]:
    """Of each kind, with and without biases and states, and what they are called with."""
    cases = list(product(of_backend(backend), (True, False), (True, False)))
    model = Calls(seeded(lambda k=kind, b=bias: CELLS[k](8, 16, b)) for kind, bias, _ in cases)
    x = randn(*shape, 8)
    return model, [
        (x, state_of(k, *shape, 16)) if with_state else (x,) for k, _, with_state in cases
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_cells(backend: str) -> None:
    model, calls = every_cell(backend, 3)
    qmodel = dynamic(model, calls, backend=backend)
    assert qmodel.report.coverage == 1.0
    check_calls(model, qmodel, calls)
    check_calls(model, qmodel, first_of(calls))


def test_cells_without_a_batch() -> None:
    model, calls = every_cell("x86")
    qmodel = dynamic(model, calls)
    check_calls(model, qmodel, calls)
    check_calls(model, qmodel, every_cell("x86", 3)[1])


@pytest.mark.parametrize("make", [nn.RNN, nn.RNNCell])
def test_relu_as_nonlinearity(make: type[nn.Module]) -> None:
    layer = seeded(lambda: make(8, 16, nonlinearity="relu"))
    check(layer, dynamic(layer, randn(5, 8)), randn(5, 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decoder_that_loops_over_a_cell(backend: str) -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h, c = self.cell(x)
            for _ in range(3):
                h, c = self.cell(self.head(h), (h, c))
            return h

    model = seeded(Decoder)
    qmodel = dynamic(model, randn(2, 8), backend=backend)
    check(model, qmodel, randn(2, 8))
    integers = [t for t in qmodel.reference.state_dict().values() if t.dtype == torch.int8]
    assert len([t for t in integers if t.dim() == 2]) == 3  # each weight once, however often read


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_are_handed_from_layer_to_layer(backend: str) -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.LSTM(8, 16), nn.LSTM(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            _, state = self.encoder(x)
            y, (h, _) = self.decoder(x, state)
            return y + h

    model = seeded(Autoencoder)
    check(model, dynamic(model, randn(5, 2, 8), backend=backend), randn(4, 3, 8))


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_weights_per_tensor(backend: str) -> None:
    weight = qfx.QuantSpec(torch.int8, symmetric=True, quant_min=-127)
    activation = qfx.get_default_qconfig(backend, "dynamic").activation
    layer = seeded(lambda: nn.LSTM(8, 16, 2))
    options = {"qconfig": qfx.QConfig(activation=activation, weight=weight)}
    qmodel = dynamic(layer, randn(5, 2, 8), backend=backend, **options)
    check(layer, qmodel, randn(5, 2, 8))


@pytest.mark.sweep
@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("kind", LAYERS)
def test_directions_are_packed_as_one_for_small_batches(
    monkeypatch: pytest.MonkeyPatch, kind: str, batch: int, saturates: bool
) -> None:
    """Either form runs any batch; where products saturate, it is a convolution of two groups."""
    monkeypatch.setattr(x86_recurrent_emit, "saturates", lambda: saturates)
    layer = seeded(lambda: LAYERS[kind](8, 16, 2, bidirectional=True))
    most = 4 * layer.weight_hh_l0.numel()
    monkeypatch.setattr(x86_recurrent_emit, "GROUPED_PRODUCTS", most)
    qmodel = dynamic(layer, randn(5, batch, 8))
    (call,) = (n for n in qmodel.graph.nodes if n.target is recurrent_calls.sequence)
    recurrent = {part.target for part in call.args[3][3 :: x86_recurrent.PARTS]}
    assert len(recurrent) == (2 if batch == 2 else 4)
    if batch == 2:
        packed = [qmodel.get_buffer(name) for name in recurrent]
        assert all(is_convolution(each) == saturates for each in packed)
    for other in (1, 2, 20):
        check(layer, qmodel, randn(3, other, 8))


def test_activations_of_seven_bits() -> None:
    default = qfx.get_default_qconfig("x86", "dynamic")
    spec = qfx.QuantSpec(torch.uint8, dynamic=True, symmetric=True, quant_max=127)
    layer = seeded(lambda: nn.GRU(8, 16, 2))
    options = {"qconfig": qfx.QConfig(activation=spec, weight=default.weight)}
    check(layer, dynamic(layer, randn(5, 2, 8), **options), randn(5, 2, 8), bound=25.0)


def test_rules_name_recurrent_modules_as_any_other() -> None:
    """A dynamic LSTM in a static model; what is left out by type or by name stays float."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.LSTM(8, 16), nn.GRU(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x)[0])[0])

    model, x = seeded(Stack), randn(5, 2, 8)
    spec = qfx.get_default_qconfig("x86", "dynamic")
    mixed = qfx.get_default_qconfig_mapping("x86").set_object_type(nn.LSTM, spec)
    without = qfx.get_default_qconfig_mapping("x86", "dynamic").set_module_name("second", None)
    calls: list[tuple[dict[str, Any], list[str]]] = [
        ({"qconfig": mixed}, ["", "no-kernel", ""]),
        ({"qconfig": without, "method": "dynamic"}, ["", "qconfig-none", ""]),
        ({"types": {nn.LSTM}, "method": "dynamic"}, ["", "not-in-types", "not-in-types"]),
    ]
    for options, reasons in calls:
        qmodel = qfx.quantize(model, x, backend="x86", **options)
        assert [s.reason for s in qmodel.report.sites if s.macs] == reasons
        assert sqnr(run(model, (x,)), run(qmodel, (x,))) > 25


@pytest.mark.sweep(first=2)
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "reference"])
def test_states_of_other_shapes_are_refused(backend: str) -> None:
    layer, zeros = seeded(lambda: nn.LSTM(8, 16)), (torch.zeros(1, 2, 16), torch.zeros(1, 2, 16))
    x = (randn(5, 2, 8), zeros)
    qmodel = qfx.quantize(layer, x, method="dynamic", backend=backend)
    wrong = tuple(state.repeat(1, 2, 1) for state in zeros)
    with pytest.raises(qfx.ConfigError, match=r"of shape \(1, 4, 16\) where it takes \(1, 2, 16\)"):
        qmodel(randn(5, 2, 8), wrong)
    without = dynamic(layer, randn(5, 2, 8), backend=backend)
    with pytest.raises(
        qfx.ConfigError, match=r"\(a tensor of torch\.float32, \(1, 2, 16\), a tens"
    ):
        without(randn(5, 2, 8), zeros)


# -- the graph -------------------------------------------------------------------------------------
def test_one_operation_reads_weights_under_their_own_names() -> None:
    layer = seeded(lambda: Wrapped(nn.LSTM(8, 16, 2, bidirectional=True), 32))
    prepared = qfx.prepare(layer, randn(5, 3, 8), method="dynamic", backend="x86")
    parameters = {name for name, _ in prepared.named_parameters()}
    assert parameters == layer.state_dict().keys()
    (node,) = (n for n in prepared.graph.nodes if n.target is vocab.LSTM)
    assert [str(w.target) for w in node.args[1]] == [
        f"layer.weight_{part}_l{depth}{way}"
        for depth in range(2)
        for way in ("", "_reverse")
        for part in ("ih", "hh")
    ]
    assert node.kwargs == {"num_layers": 2, "bidirectional": True}
    assert macs(node) == 5 * 3 * (2 * 4 * 16 * (8 + 16) + 2 * 4 * 16 * (32 + 16))


def test_reference_form_says_how_hidden_states_are_rounded() -> None:
    layer = seeded(lambda: nn.GRU(8, 16))
    reference = dynamic(layer, randn(5, 3, 8)).reference
    (node,) = (n for n in reference.graph.nodes if n.target is vocab.GRU)
    highest = 127 if resolve_backend("x86").saturates else 255
    assert node.kwargs["measured"] == (torch.uint8, 0, highest, False)
    assert all(w.target is vocab.DEQUANTIZE for w in node.args[1])
    assert targets(reference).count(vocab.DYNAMIC_QPARAMS) == 1


def test_copies_sizes_and_stages() -> None:
    layer = seeded(lambda: Wrapped(nn.LSTM(32, 64, 2, bidirectional=True), 128))
    x = randn(5, 2, 32)
    qmodel = dynamic(layer, x)
    before, after = qmodel.report.size_bytes
    assert before / after > 3.5
    copied = copy.deepcopy(qmodel)
    assert all(map(torch.equal, tensors(run(copied, (x,))), tensors(run(qmodel, (x,)))))
    assert copied.report.sites == qmodel.report.sites
    assert "lstm(" in qmodel.history["reference"].snapshot.to_text()
    assert [s.stage for s in qmodel.history.blame("layer").steps][-1] == "lower"
    assert str(qfx.compare(layer, qmodel, [(x,)]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_code_gives_the_same(kind: str) -> None:
    layer = seeded(lambda: Wrapped(LAYERS[kind](8, 16, 2, bidirectional=True), 32))
    cell = seeded(lambda: CELLS[kind](8, 16))
    model = Calls([layer, copy.deepcopy(layer), cell])
    calls = [(randn(5, 2, 8),), (randn(5, 9, 8),), (randn(2, 8),)]
    qmodel = dynamic(model, calls)
    torch._dynamo.reset()  # counts recompilations of whatever is compiled
    compiled = torch.compile(qmodel, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        ours, theirs = tensors(compiled(calls)), tensors(qmodel(calls))
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))
