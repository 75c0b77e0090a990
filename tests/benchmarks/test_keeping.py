"""What the commands that save and load compare and count; nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from benchmarks import building, loading, roundtrip
from benchmarks.roundtrip_worker import digest


def test_digests_tell_bits_shapes_and_structures_apart() -> None:
    one = torch.tensor([0.0, 1.0])
    others = (-one, one.double(), one[:1], one.reshape(2, 1), (one,), {"a": one})
    assert digest(one.clone()) == digest(one)
    assert digest(one) not in {digest(other) for other in others}


@pytest.fixture
def qmodel() -> qfx.QuantizedModel:
    torch.manual_seed(0)
    return qfx.quantize(nn.Sequential(nn.Linear(8, 4)).eval(), torch.randn(2, 8), check=False)


def test_needed_are_integers_scales_zero_points_and_bias(qmodel: qfx.QuantizedModel) -> None:
    assert roundtrip.needed_bytes(qmodel) == 4 * 8 + 4 * 4 + 4 + 4 * 4


def test_packing_is_a_part_of_loading(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    assert min(loading.packing(path)) > 0


def test_compiling_is_timed_with_and_without_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(building.SWITCH, "off")
    found = building.seconds("toy", "eager", torch.get_num_threads())
    assert len(found) == len(building.TIMES)
    assert min(found) > 0
