"""Models of several regions are compiled region by region, in place."""

from __future__ import annotations

import copy

import pytest
import torch

import qfx
from qfx.engines.compiled import CompiledModel
from tests.cases.regions import Branches, Decoder

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFX_CACHE_DIR", "off")


def test_each_region_is_compiled_in_place() -> None:
    torch.manual_seed(2)
    model, images = Branches().eval(), torch.randn(4, 3, 16, 16)
    quantized = qfx.quantize(model, images)
    fast = qfx.compile(quantized, engine="onnxruntime")
    assert type(fast) is Branches
    assert list(fast.regions) == ["backbone", "head", "again"]
    assert all(isinstance(each, CompiledModel) for each in fast.regions.values())
    assert fast.regions["head"].engine == "onnxruntime"
    assert isinstance(quantized.head, qfx.QuantizedModel)
    for batch in (images, torch.randn(2, 3, 20, 24)):
        found, expected = fast(batch)["logits"], quantized(batch)["logits"]
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    again = copy.deepcopy(fast)
    assert again.regions["head"] is again.head
    assert torch.equal(again(images)["logits"], fast(images)["logits"])


def test_a_model_that_generates_goes_on() -> None:
    torch.manual_seed(1)
    model, ids = Decoder().eval(), torch.randint(0, 50, (2, 7))
    quantized = qfx.quantize(model, ids, method="dynamic", regions=("feed", "head"))
    fast = qfx.compile(quantized, ids, engine="eager")
    assert torch.equal(fast.generate(ids), quantized.generate(ids))


def test_a_region_that_the_examples_do_not_reach() -> None:
    torch.manual_seed(2)
    model = Branches().eval()
    quantized = qfx.quantize(model, torch.randn(4, 3, 16, 16))

    quantized.__dict__["forward"] = lambda image: image
    with pytest.raises(qfx.ConfigError, match="region 'backbone' is not called"):
        qfx.compile(quantized, torch.randn(4, 3, 16, 16), engine="eager")
