"""compare and bisect: which operation departs from the float model, and who made it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.errors import ConfigError
from qfx.numerics.bisection import bisect
from qfx.numerics.comparison import compare


class Net(nn.Module):
    """Convolutions with all that gets fused, in place, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.relu(self.bn(self.conv1(x)))
        x = torch.tanh(self.conv2(x)) + x
        x = self.conv3(x)
        return {"logits": self.fc(x.mean((2, 3)))}


@pytest.fixture(scope="module")
def model() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 12, 12, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def qmodel(model: Net, data: list[Tensor]) -> qfx.QuantizedModel:
    return qfx.quantize(model, data[0], calibration_data=data, backend="reference")


def test_compare_has_a_row_for_every_value(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    comparison = compare(model, qmodel, data)
    names = [site.node for site in comparison]
    assert "relu" in names
    assert "conv1" not in names  # fused: it has no value of its own
    assert set(names) <= {site.node for site in qmodel.report.sites}
    assert all(20 < site.sqnr < 80 for site in comparison if site.decision == "quantized")
    assert comparison["conv3"].module_path == "conv3"
    assert comparison.output.sqnr > 25
    assert comparison.output.cosine > 0.99


def test_compare_measures_the_model_as_it_runs(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    pairs = [(model(x)["logits"].detach(), qmodel(x)["logits"]) for x in data]
    reference, actual = (torch.cat(side) for side in zip(*pairs, strict=True))
    expected = 10 * math.log10(
        float(reference.double().square().sum())
        / float((actual.double() - reference.double()).square().sum())
    )
    assert compare(model, qmodel, data).output.sqnr == pytest.approx(expected, abs=1e-6)


def test_table_is_sorted_worst_first(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    comparison = compare(model, qmodel, data)
    lines = str(comparison).splitlines()
    assert lines[0].split()[:3] == ["site", "SQNR", "dB"]
    shown = [line.split()[0] for line in lines[2:]]
    assert shown == [s.node for s in comparison.worst_first] + ["output"]
    assert comparison.worst_first[0].sqnr == min(s.sqnr for s in comparison)
    with pytest.raises(ConfigError, match="no site 'nonsense' was compared"):
        comparison["nonsense"]


def test_neither_model_is_touched(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    before = copy.deepcopy(model.state_dict()), str(qmodel.graph), str(qmodel.reference.graph)
    compare(model, qmodel, data)
    bisect(model, qmodel, data)
    assert (str(qmodel.graph), str(qmodel.reference.graph)) == before[1:]
    assert all(torch.equal(before[0][name], value) for name, value in model.state_dict().items())


def test_sound_model_has_no_culprit(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    found = bisect(model, qmodel, data)
    assert not found.stands_out
    assert str(found).startswith("No operation stands out: the error is spread over")


@pytest.mark.parametrize("backend", ["x86", "fbgemm"])
def test_lowered_values_are_matched(model: Net, data: list[Tensor], backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"{backend} does not run here")
    lowered = qfx.quantize(model, data[0], calibration_data=data, backend=backend)
    found = bisect(model, lowered, data)
    assert found.pass_name == "reference"
    assert compare(model, lowered, data).output.sqnr == pytest.approx(found.output)


def scaled(qmodel: qfx.QuantizedModel, graph_module: fx.GraphModule, origin: str) -> None:
    """Double the scale that the integers of an operation are read with."""
    from qfx.numerics.observation import computed_origin

    for node in graph_module.graph.nodes:
        activation = vocab.is_op(node, vocab.DEQUANTIZE) and isinstance(node.args[1], float)
        if activation and computed_origin(node) == origin:
            node.args = (node.args[0], node.args[1] * 2, *node.args[2:])
    graph_module.recompile()


def test_finds_a_wrong_scale(model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]) -> None:
    broken = copy.deepcopy(qmodel)
    scaled(broken, broken.reference, "relu")
    scaled(broken, broken, "relu")
    found = bisect(model, broken, data)
    assert found.site is not None
    assert (found.site.node, found.pass_name, found.stands_out) == ("relu", "reference", True)
    assert found.sqnr == pytest.approx(0.0, abs=0.5)
    assert str(found).startswith("The error enters at relu (relu, ")


def test_finds_a_fault_of_lowering(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    broken = copy.deepcopy(qmodel)
    scaled(broken, broken, "relu")
    found = bisect(model, broken, data)
    assert found.site is not None
    assert (found.site.node, found.pass_name) == ("relu", "lower")


@qfx.rewrite(qfx.Op(vocab.TANH, qfx.Any("x")))
def tanh_to_relu(match: qfx.Match, rw: qfx.Rewriter) -> fx.Node:
    return rw.call(vocab.RELU, match["x"])


class Sabotage(qfx.PatternPass):
    """Computes something else."""

    name = "sabotage"
    patterns = (tanh_to_relu,)


def test_finds_the_pass_that_computes_something_else(model: Net, data: list[Tensor]) -> None:
    pipeline = qfx.pipelines.static().insert_after("canonicalize", Sabotage())
    broken = qfx.quantize(
        model, data[0], calibration_data=data, backend="reference", pipeline=pipeline, check=False
    )
    found = bisect(model, broken, data)
    assert found.site is not None
    assert found.site.op == "tanh"
    assert found.pass_name == "sabotage"
    assert "sabotage/tanh_to_relu" in [maker.replace("-", "_") for maker in found.makers]


def test_labels_and_keywords_are_taken_as_in_calibration(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    plain = compare(model, qmodel, data)
    assert compare(model, qmodel, [{"x": x} for x in data]) == plain
    with pytest.warns(qfx.QfxWarning, match="labels"):
        assert compare(model, qmodel, [(x, 3) for x in data]) == plain


def test_refusals(model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]) -> None:
    with pytest.raises(ConfigError, match="no data to compare"):
        compare(model, qmodel, [])
    with pytest.raises(ConfigError, match=r"what qfx\.quantize returned"):
        compare(model, model, data)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be the float model"):
        bisect(qmodel, qmodel, data)
    with pytest.raises(ConfigError, match=r"call model\.eval"):
        compare(copy.deepcopy(model).train(), qmodel, data)
    with pytest.raises(ConfigError, match="was not made from this float model"):
        compare(nn.Sequential(nn.Conv2d(3, 1, 1)).eval(), qmodel, data)
    with pytest.raises(ConfigError, match="was not made from this float model, which has no"):
        compare(nn.Sequential(nn.Conv2d(7, 1, 1)).eval(), qmodel, data)  # which data doesn't fit
    with pytest.raises(ConfigError, match="does not take batch 0 of data: give batches as"):
        compare(model, qmodel, [torch.zeros(2, 5, 12, 12)])
    with pytest.raises(ConfigError, match=r"^data is one tensor.*Write data=\[tensor\]"):
        compare(model, qmodel, data[0])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(50, 16), nn.LSTM(16, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(self.embedding(x))
        made: Tensor = self.second(self.first(y).relu())
        return made


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_values_that_are_measured_are_compared(backend: str) -> None:
    torch.manual_seed(0)
    model, x = Tagger().eval(), torch.randint(0, 50, (5, 2))
    qmodel = qfx.quantize(model, x, method="dynamic", backend=backend)
    numerics = qfx.compare(model, qmodel, [x])
    assert [site.op for site in numerics] == ["Embedding", "getitem", "relu", "Linear"]
    assert all(30 < site.sqnr < 70 for site in numerics)


def test_a_model_with_other_weights_is_asked_about(model: Net, data: list[Tensor]) -> None:
    qmodel = qfx.quantize(model, data[0], backend="reference")
    for found in (qfx.compare(model, qmodel, data), qfx.bisect(model, qmodel, data)):
        assert found.doubt == ""
    torch.manual_seed(7)
    other = Net().eval()
    for found in (qfx.compare(other, qmodel, data), qfx.bisect(other, qmodel, data)):
        assert "Is this the float model that it was made from, with the same weights" in str(found)
        assert str(found).startswith("The outputs have little in common (")


def test_two_quantized_models_are_compared_with_one_another(
    model: Net, qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    """What both do alike is no difference, and where one is float is told."""
    mapping = qfx.get_default_qconfig_mapping("reference", "static").set_module_name("conv3", None)
    other = qfx.quantize(
        model, data[0], calibration_data=data, backend="reference", qconfig=mapping
    )
    found = compare(qmodel, other, data)
    assert found["relu"].sqnr == math.inf
    assert found["conv3"].decision == "quantized -> float"
    assert 10 < found["conv3"].sqnr < math.inf
    assert found["relu"].decision == "quantized"
    assert found.output.sqnr == pytest.approx(found["fc"].sqnr)
    assert found.doubt == ""
    assert str(found).splitlines()[2].startswith(found.worst_first[0].label)
    itself = compare(qmodel, qmodel, data)
    assert {site.sqnr for site in (*itself, itself.output)} == {math.inf}


def test_two_quantized_models_of_other_models_are_refused(
    qmodel: qfx.QuantizedModel, data: list[Tensor]
) -> None:
    stranger = qfx.quantize(nn.Conv2d(3, 4, 1).eval(), data[0], backend="reference")
    with pytest.raises(ConfigError, match="were not made from the same float model: only one has"):
        compare(qmodel, stranger, data)
