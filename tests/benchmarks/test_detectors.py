"""The detectors of benchmarks.in_place find what was planted, with noise and quantized, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import qfx
from tests.examples.test_in_place_examples import _torchvision


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@torch.no_grad()
def test_boxes_of_a_fitted_detector() -> None:
    reason = _torchvision()
    if reason:
        pytest.skip(reason)
    from benchmarks.detectors import Fixture
    from benchmarks.fitting import with_noise
    from examples.detect import found_again

    made = Fixture("ssdlite320_mobilenet_v3_large")
    others = [[scene.image for scene in each] for each in made.others]
    quantized: Any = qfx.quantize(
        made.model, (others[0],), calibration_data=[(each,) for each in others], progress=False
    )
    assert quantized.report.coverage == 1
    for scenes in made.seen:
        images = [scene.image for scene in scenes]
        expected = made.model(images)
        for found in (expected, with_noise(made.model, 1, 0.01)(images), quantized(images)):
            again = [found_again(*pair) for pair in zip(expected, found, strict=True)]
            assert [len(each) for each in again] == [7, 7, 7]
            assert torch.cat(again).float().mean() >= 0.95
