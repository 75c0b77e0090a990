"""Models that can't be captured whole are quantized in regions, in a copy of the user's model."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.errors import CalibrationError, CaptureError, ConfigError, CoverageError
from tests.cases.regions import Block, Branches, Decoder, Detector, LooksInside

torch.manual_seed(2)
MODEL, IMAGES = Branches().eval(), torch.randn(4, 3, 16, 16)
EXPECTED = MODEL(IMAGES)["logits"].detach()


def sqnr(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    noise = (found - expected).pow(2).sum()
    return float(10 * torch.log10(expected.pow(2).sum() / noise))


@pytest.fixture(scope="module")
def quantized() -> qfx.QuantizedModel:
    return qfx.quantize(MODEL, IMAGES)


def test_the_result_is_a_copy_of_the_model(quantized: qfx.QuantizedModel) -> None:
    assert type(quantized) is Branches
    assert quantized.describe() == "Branches with 3 children"
    assert list(quantized.regions) == ["backbone", "head", "again"]
    assert all(quantized.get_submodule(n) is r for n, r in quantized.regions.items())
    assert all(isinstance(r, qfx.QuantizedModel) for r in quantized.regions.values())


def test_values_are_those_of_the_float_model(quantized: qfx.QuantizedModel) -> None:
    assert sqnr(quantized(IMAGES)["logits"], EXPECTED) > 30
    other = torch.randn(2, 3, 24, 20)
    assert sqnr(quantized(other)["logits"], MODEL(other)["logits"]) > 25


def test_python_between_regions_goes_on_deciding(quantized: qfx.QuantizedModel) -> None:
    steps = {int(quantized(scale * IMAGES)["steps"]) for scale in (0.0, 1.0, 30.0)}
    assert {int(MODEL(scale * IMAGES)["steps"]) for scale in (0.0, 1.0, 30.0)} == steps
    assert int(quantized(IMAGES, most=1)["steps"]) == 1


def test_the_report_is_of_the_whole(quantized: qfx.QuantizedModel) -> None:
    report = quantized.report
    assert report.coverage == 1.0
    assert {site.region for site in report.sites} == {"backbone", "head", "again"}
    conv = next(site for site in report.sites if site.module_path == "backbone.2.conv")
    assert (conv.node, conv.label, conv.decision) == (
        "backbone:_2_conv",
        "backbone.2.conv",
        "quantized",
    )
    assert conv.macs == 4 * 16 * 8 * 8 * 8 * 9
    before, after = report.size_bytes
    assert before == sum(t.numel() * t.element_size() for t in MODEL.state_dict().values())
    assert after < before / 2


def test_the_history_addresses_nodes_by_region(quantized: qfx.QuantizedModel) -> None:
    history = quantized.history
    assert history[0].name == "capture"
    assert "backbone:_2_conv" in history[0].snapshot
    assert history["fuse-conv-bn"].fired == {"fuse-conv-bn/fold-batch-norm": 2}
    chain = str(history.blame("backbone.2.conv"))
    assert "regions.py" in chain
    assert "fuse-conv-bn" in chain
    assert "%head:" in history.to_text(0)
    told = str(quantized.report.explain("backbone.2.conv"))
    assert "fold-batch-norm" in told


def test_the_plan_says_why_there_are_several(quantized: qfx.QuantizedModel) -> None:
    text = str(quantized.regions)
    assert "cases/regions.py:" in text
    assert "a branch that depends on the contents of a tensor" in text


def test_copies_have_regions_of_their_own(quantized: qfx.QuantizedModel) -> None:
    copied = copy.deepcopy(quantized)
    assert copied.regions["head"] is copied.head
    assert copied.head is not quantized.head
    assert torch.equal(copied(IMAGES)["logits"], quantized(IMAGES)["logits"])
    assert copied.report.coverage == 1.0


def test_the_model_stays_as_it_was() -> None:
    model = copy.deepcopy(MODEL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    qfx.quantize(model, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.backbone[0]) is Block
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_whole_refuses() -> None:
    with pytest.raises(CaptureError, match="contents of a tensor"):
        qfx.quantize(MODEL, IMAGES, regions="whole")


@pytest.mark.parametrize(("patterns", "names"), [
    (("backbone",), ["backbone"]),
    (("backbone.*",), ["backbone.0", "backbone.2"]),
    (("back*", "head"), ["backbone", "head"]),
])  # fmt: skip
def test_regions_by_name_and_no_others(patterns: tuple[str, ...], names: list[str]) -> None:
    quantized = qfx.quantize(MODEL, IMAGES, regions=patterns)
    assert list(quantized.regions) == names
    assert type(quantized.again) is nn.Linear
    assert sqnr(quantized(IMAGES)["logits"], EXPECTED) > 25


@pytest.mark.parametrize(("regions", "match"), [
    ("backbone", r"regions=\('backbone',\)"),
    (("backbon",), "did you mean 'backbone'"),
    ((), "names of submodules"),
    ((3,), "names of submodules"),
])  # fmt: skip
def test_regions_that_make_no_sense(regions: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        qfx.quantize(MODEL, IMAGES, regions=regions)  # type: ignore[arg-type]


def test_a_region_asked_for_that_cannot_be_one() -> None:
    model = nn.Sequential(copy.deepcopy(MODEL)).eval()
    with pytest.raises(CaptureError, match=r"'0' is asked for as a region.*'0\.\*'"):
        qfx.quantize(model, IMAGES, regions=("0",))


def test_what_is_read_from_outside_splits_a_region() -> None:
    torch.manual_seed(2)
    model = LooksInside().eval()
    quantized = qfx.quantize(model, IMAGES)
    assert list(quantized.regions) == ["backbone.0", "backbone.2", "again"]
    assert isinstance(quantized.backbone[2], Block)
    assert quantized.backbone[2].doubled == 32
    found, expected = quantized(IMAGES), model(IMAGES)
    assert int(found["width"]) == 48
    assert torch.equal(found["first"], expected["first"])
    (left,) = [site for site in quantized.report.sites if site.decision == "float"]
    assert (left.module_path, left.reason) == ("head", "outside-regions")
    assert "'weight'" in left.message
    assert left.macs == 4 * 16 * 8


def test_coverage_counts_what_is_in_no_region() -> None:
    torch.manual_seed(2)
    model = LooksInside().eval()
    with pytest.raises(CoverageError, match="min_coverage=1"):
        qfx.quantize(model, IMAGES, min_coverage=1.0)


def test_in_steps() -> None:
    prepared = qfx.prepare(MODEL, IMAGES)
    assert type(prepared) is Branches
    with pytest.raises(CalibrationError, match="have seen no data"):
        qfx.convert(prepared)
    assert qfx.calibrate(prepared, [IMAGES, 2 * IMAGES]) is prepared
    first, second = qfx.convert(prepared), qfx.convert(prepared)
    assert torch.equal(first(IMAGES)["logits"], second(IMAGES)["logits"])
    assert sqnr(first(IMAGES)["logits"], EXPECTED) > 25
    with pytest.raises(ConfigError, match="quantized already"):
        qfx.convert(first)


def test_training_keeps_names_and_reaches_all_parameters() -> None:
    model = copy.deepcopy(MODEL).train()
    prepared = qfx.prepare(model, IMAGES, method="qat")
    assert [n for n, _ in prepared.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert list(prepared.regions) == ["backbone", "head", "again"]
    prepared(IMAGES)["logits"].pow(2).sum().backward()
    assert all(p.grad is not None for p in prepared.parameters())
    qfx.freeze_observers(prepared)
    qfx.freeze_batchnorm(prepared)
    quantized = qfx.convert(prepared)
    assert quantized.report.coverage == 1.0
    assert sqnr(quantized(IMAGES)["logits"], prepared.eval()(IMAGES)["logits"]) > 60


def test_rules_name_modules_of_the_whole_model() -> None:
    mapping = qfx.QConfigMapping().set_global(qfx.get_default_qconfig("x86", "static"))
    mapping.set_module_name("backbone.2.conv", None).set_module_name("elsewhere", None)
    with pytest.warns(qfx.QfxWarning, match="elsewhere") as warned:
        quantized = qfx.quantize(MODEL, IMAGES, qconfig=mapping)
    assert len(warned) == 1
    conv = next(s for s in quantized.report.sites if s.module_path == "backbone.2.conv")
    assert conv.reason == "qconfig-none"
    assert any("elsewhere" in warning for warning in quantized.report.warnings)


def test_a_model_that_generates_goes_on_generating() -> None:
    torch.manual_seed(1)
    model, ids = Decoder().eval(), torch.randint(0, 50, (2, 7))
    quantized = qfx.quantize(model, ids, method="dynamic")
    assert "attention.query" in quantized.regions
    assert "feed" in quantized.regions
    layers, products = 2 * 7 * 32 * (3 * 32 + 4 * 32 + 50), 2 * 2 * 7 * 7 * 32
    assert quantized.report.coverage == pytest.approx(layers / (layers + products))
    assert sqnr(quantized(ids), model(ids)) > 25
    assert torch.equal(quantized.generate(ids), model.generate(ids))


def test_a_size_that_data_decides_makes_regions() -> None:
    torch.manual_seed(0)
    model = Detector().eval()
    quantized = qfx.quantize(model, torch.randn(1, 3, 12, 12))
    assert list(quantized.regions) == ["backbone", "scores"]
    assert "how many elements" in str(quantized.regions)
    for size in (4, 9, 12):
        image = torch.randn(1, 3, size, size)
        found, expected = quantized(image), model(image)
        assert abs(found.numel() - expected.numel()) <= expected.numel() // 8


def test_many_threads_at_once(quantized: qfx.QuantizedModel) -> None:
    expected, found = quantized(IMAGES)["logits"], []

    def work() -> None:
        found.extend(torch.equal(quantized(IMAGES)["logits"], expected) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40
