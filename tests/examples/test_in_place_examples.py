"""The examples of models that are quantized where they live: loops, generation, detectors.

Those of transformers and torchvision need these packages; where one is missing, or the operators of
torchvision don't fit this torch, their tests are skipped with that reason.
"""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from examples import loop

TRANSFORMERS = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


def _torchvision() -> str:
    """Why torchvision's detectors can't run here; "" if they can."""
    try:
        importlib.import_module("torchvision.extension")._assert_has_ops()
    except Exception as error:  # whatever a torchvision for another torch raises
        return f"torchvision's operators don't run here: {type(error).__name__}"
    return ""


@pytest.mark.parametrize("method", ["dynamic", "weight_only"])
def test_loop(method: str) -> None:
    numbers = loop.run(words=50, width=16, method=method)
    assert numbers.first_logits > 25
    assert numbers.same > 0
    assert numbers.size[1] < 0.4 * numbers.size[0]
    assert (numbers.coverage > 0) is (method == "dynamic")  # of the GRU only where that is wide


@TRANSFORMERS
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_generate() -> None:
    from examples import generate

    rows = {row.name: row for row in generate.run(hidden=128, layers=1, tokens=8)}
    assert rows["float"].same == 8
    assert rows["qfx dynamic int8"].logits > 25
    assert rows["qfx weights int8"].logits > 30
    assert rows["qfx weights int4"].logits > 10
    for row in rows.values():
        assert row.same == 8 or row.doubt < 0.5
    sizes = [rows[f"qfx weights {kind}"].size for kind in ("int8", "int4")]
    assert sizes[1] < 0.75 * sizes[0]  # type: ignore[operator]


@TRANSFORMERS
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_transcribe() -> None:
    from examples import transcribe

    numbers = transcribe.run(width=64, layers=1, tokens=8)
    assert numbers.logits > 25
    assert numbers.coverage > 0.95
    assert numbers.size[1] < 0.4 * numbers.size[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn"])
def test_detect(name: str) -> None:
    reason = _torchvision()
    if reason:
        pytest.skip(reason)
    from examples import detect

    numbers = detect.run(name, size=160)
    assert numbers.coverage > 0.99
    assert numbers.boxes > 0
    assert numbers.found >= (0.85 if name.startswith("ssd") else 0.0)  # of two stages: random ones
