"""Two quantized variants of one model: what each site has in the one and in the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)).relu())


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def quantized() -> qfx.QuantizedModel:
    return qfx.quantize(Net().eval(), X, backend="reference", effort="fast")


def test_a_model_is_no_variant_of_itself(quantized: qfx.QuantizedModel) -> None:
    found = qfx.variants(quantized, quantized)
    assert not found
    assert str(found) == f"{len(found.sites)} of {len(found.sites)} sites are alike"
    by_label = {site.label: site for site in found.sites}
    assert by_label["x (input)"].result[0].startswith("u8 0..255 scale ")
    assert by_label["first"].weight[0].startswith("i8 -128..127 8 scales ")


def test_what_is_float_in_one_and_other_scales_are_told(quantized: qfx.QuantizedModel) -> None:
    mapping = qfx.get_default_qconfig_mapping("reference", "static").set_module_name("second", None)
    data = [2 * X]
    other = qfx.quantize(
        Net().eval(), X, calibration_data=data, backend="reference", effort="fast", qconfig=mapping
    )
    found = {site.label: site for site in qfx.variants(quantized, other).changed}
    assert found["second"].decision == ("quantized", "float")
    assert found["second"].runs_as == ("reference", "qconfig-none")
    assert found["second"].weight[1] == ""
    before, after = (float(text.split()[3]) for text in found["x (input)"].result)
    assert after == pytest.approx(2 * before, rel=1e-4)
    text = str(qfx.variants(quantized, other))
    heads = ["site", "decision", "runs", "as", "result", "weight", "constants"]
    assert text.splitlines()[0].split() == heads
    assert "quantized -> float" in text


def test_codes_that_differ_are_counted() -> None:
    changed = Net()
    with torch.no_grad():
        changed.last.weight[0, 0] *= 0.5
    mine, theirs = (
        qfx.quantize(net.eval(), X, backend="reference", method="weight_only")
        for net in (Net(), changed)
    )
    found = qfx.variants(mine, theirs)
    assert str(found).endswith(found.doubt)
    (site,) = found.changed
    assert site.label == "last"
    assert site.weight[1].endswith("1 of 16 codes differ")


def test_other_weights_are_told_however_little_they_differ(quantized: qfx.QuantizedModel) -> None:
    nudged = Net()
    with torch.no_grad():
        nudged.second.weight[3, 1] *= 1.01
    theirs, again = (
        qfx.quantize(net.eval(), X, backend="reference", method="weight_only")
        for net in (nudged, Net())
    )
    for found in (qfx.compare(quantized, theirs, [X]), qfx.variants(quantized, theirs)):
        assert found.doubt.startswith("The two were made of float models with other weights")
        assert found.doubt in str(found)
    for found in (qfx.compare(quantized, again, [X]), qfx.variants(quantized, again)):
        assert found.doubt == ""


def test_training_makes_other_weights() -> None:
    prepared = qfx.prepare(Net(), X, method="qat", backend="reference")
    qfx.calibrate(prepared, [X])
    mine = qfx.convert(prepared)
    with torch.no_grad():
        prepared.get_parameter("first.bias").add_(0.5)
    theirs = qfx.convert(prepared)
    plain = qfx.quantize(Net().eval(), X, backend="reference", effort="fast")
    assert "trained in between" in qfx.compare(mine, theirs, [X]).doubt
    assert plain.report.made_of == mine.report.made_of != ""


def test_strangers_are_refused(quantized: qfx.QuantizedModel) -> None:
    stranger = qfx.quantize(nn.Linear(4, 4).eval(), X, backend="reference")
    with pytest.raises(qfx.ConfigError, match="were not made from the same float model: only one"):
        qfx.variants(quantized, stranger)


def test_constants_in_float_are_compared(quantized: qfx.QuantizedModel) -> None:
    """Biases, which a calibrated conversion corrects, and whatever a float site reads."""
    corrected = qfx.quantize(Net().eval(), X, backend="reference")
    found = {site.label: site for site in qfx.variants(quantized, corrected).changed}
    assert found["first"].constants[0] == "bias [8]"
    assert "of 8 values differ, by " in found["first"].constants[1]
    moved = Net()
    with torch.no_grad():
        moved.last.bias[1] += 5
        moved.first.weight[0] *= 2
    mapping = qfx.get_default_qconfig_mapping("reference", "weight_only")
    mapping = mapping.set_module_name("first", None)
    mine, theirs = (
        qfx.quantize(net.eval(), X, backend="reference", method="weight_only", qconfig=mapping)
        for net in (Net(), moved)
    )
    first, last = qfx.variants(mine, theirs).changed
    told = "weight [8, 4], 4 of 32 values differ, by "
    assert first.constants[1].startswith(told)
    assert last.constants == ("bias [2]", "bias [2], 1 of 2 values differ, by 5 at most")


def test_the_argument_that_is_no_quantized_model_is_told(quantized: qfx.QuantizedModel) -> None:
    with pytest.raises(qfx.ConfigError, match=r"the first argument must be what .* not Net"):
        qfx.variants(Net(), quantized)  # type: ignore[arg-type]
    with pytest.raises(qfx.ConfigError, match=r"the second argument must be what .* not Net"):
        qfx.variants(quantized, Net())  # type: ignore[arg-type]
