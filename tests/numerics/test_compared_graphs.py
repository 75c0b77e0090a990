"""compare and bisect over a model of several regions: each is given what the float model gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import vocab
from qfx.errors import ConfigError
from qfx.numerics.measures import sqnr
from tests.cases.regions import Branches, Detector
from tests.cases.test_case_regions_ways import IDS
from tests.cases.test_case_regions_ways import MODEL as LOOP

torch.manual_seed(2)
MODEL, IMAGES = Branches().eval(), torch.randn(4, 3, 16, 16)


@pytest.fixture(scope="module")
def quantized() -> qfx.QuantizedModel:
    return qfx.quantize(MODEL, IMAGES)


def test_compare_has_the_sites_of_all_regions(quantized: qfx.QuantizedModel) -> None:
    found = qfx.compare(MODEL, quantized, [IMAGES, IMAGES[:2]])
    assert [site.node for site in found] == [
        *("backbone:relu", "backbone:_1", "backbone:relu_1", "head:linear", "again:linear"),
    ]
    assert found["again:linear"].module_path == "again"
    assert all(20 < site.sqnr < 80 for site in found if site.decision == "quantized")
    assert found.doubt == ""


def test_the_output_is_that_of_the_whole(quantized: qfx.QuantizedModel) -> None:
    whole = sqnr(MODEL(IMAGES), quantized(IMAGES))
    assert qfx.compare(MODEL, quantized, [IMAGES]).output.sqnr == pytest.approx(whole, abs=1e-4)
    assert qfx.bisect(MODEL, quantized, [IMAGES]).output == pytest.approx(whole, abs=1e-4)


def test_each_graph_of_a_region_has_rows() -> None:
    made = qfx.quantize(LOOP, IDS, method="dynamic")
    found = qfx.compare(LOOP, made, [IDS])
    regions = {site.node.partition(":")[0] for site in found}
    assert {"layers.0", "layers.0#2", "head"} <= regions
    assert not qfx.bisect(LOOP, made, [IDS]).stands_out


def test_outputs_that_python_shapes_are_not_compared() -> None:
    torch.manual_seed(0)
    model, image = Detector().eval(), torch.randn(1, 3, 12, 12)
    made = qfx.quantize(model, image)
    found = qfx.compare(model, made, [torch.randn(1, 3, 9, 9) for _ in range(6)])
    assert {site.node.partition(":")[0] for site in found} == {"backbone", "scores"}
    if found.output.sqnr != found.output.sqnr:
        assert "outputs can't be compared" in str(found)


def test_bisect_names_the_region() -> None:
    def shifts(match: qfx.Match, rw: qfx.Rewriter) -> object:
        bias = rw.tensor(match["b"])
        if bias.shape[0] != 16 or bias.abs().max() > 5:
            return qfx.Mismatch("another")
        return rw.call(vocab.LINEAR, match["x"], match["w"], rw.constant("b", bias + 10))

    class Bad(qfx.PatternPass):
        name = "bad-pass"
        pattern = qfx.Op(vocab.LINEAR, qfx.Any("x"), qfx.Attr("w"), qfx.Attr("b"))
        patterns = (qfx.rewrite(pattern, name="bad-rule")(shifts),)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y) if y.sum() != 0 else y

    torch.manual_seed(0)
    model, x = Two().eval(), torch.randn(32, 8)
    pipeline = qfx.pipelines.static().insert_after("canonicalize", Bad())
    made = qfx.quantize(model, x, pipeline=pipeline, check=False)
    found = qfx.bisect(model, made, [x])
    assert found.stands_out
    assert found.site is not None
    assert (found.site.node, found.site.region, found.pass_name) == (
        "second:linear",
        "second",
        "bad-pass",
    )


def test_models_that_do_not_belong_together(quantized: qfx.QuantizedModel) -> None:
    with pytest.raises(ConfigError, match="has no module 'backbone'"):
        qfx.compare(nn.Linear(3, 3).eval(), quantized, [IMAGES])
    with pytest.raises(ConfigError, match="first argument must be the float model"):
        qfx.compare(quantized, quantized, [IMAGES])
    with pytest.raises(ConfigError, match="training mode"):
        qfx.bisect(Branches(), quantized, [IMAGES])
    with pytest.raises(ConfigError, match="does not take batch 0"):
        qfx.compare(MODEL, quantized, [torch.randn(2, 5)])
    with pytest.raises(ConfigError, match="no data"):
        qfx.compare(MODEL, quantized, [])
    wide = Branches()
    wide.head, wide.again = nn.Linear(16, 10), nn.Linear(10, 10)
    with pytest.raises(ConfigError, match="made from this float model"):
        qfx.compare(wide.eval(), quantized, [IMAGES])


class Keeps(nn.Module):
    """Keeps what scores high, as many as the data says, and can be captured whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 40)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.layer(x).flatten()
        return scores[(1000 * scores).sin() > 0]  # of other scores, surely another number


def test_one_graph_of_which_data_decides_the_shape() -> None:
    torch.manual_seed(0)
    model, x = Keeps().eval(), torch.randn(64, 8)
    found = qfx.quantize(model, x)
    assert isinstance(found, qfx.QuantizedModel)
    data = [x, 1.1 * x, 0.9 * x]
    compared, bisected = qfx.compare(model, found, data), qfx.bisect(model, found, data)
    assert 25 < compared["layer"].sqnr < 80
    assert all("outputs can't be compared" in str(each) for each in (compared, bisected))
    assert not bisected.stands_out
