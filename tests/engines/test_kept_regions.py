"""Compiled models of regions in files: they come back compiled, each region as it was."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qfx
from qfx.engines import kept
from qfx.engines.compiled import CompiledModel
from tests.cases.regions import Branches
from tests.cases.test_case_regions_ways import IDS, Loop
from tests.cases.test_case_regions_ways import MODEL as LOOP
from tests.storage.test_hostile import told


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFX_CACHE_DIR", "off")


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(4, 3, 16, 16)


@pytest.fixture(scope="module")
def fast(images: Tensor) -> Any:
    torch.manual_seed(3)
    return qfx.compile(qfx.quantize(Branches().eval(), images), engine="eager")


def test_it_comes_back_compiled(fast: Any, images: Tensor, tmp_path: Path) -> None:
    qfx.save(fast, tmp_path / "fast.qfx")
    torch.manual_seed(9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again: Any = qfx.load(tmp_path / "fast.qfx", model=Branches().eval())
    assert type(again) is Branches
    assert list(again.regions) == list(fast.regions)
    assert all(isinstance(each, CompiledModel) for each in again.regions.values())
    assert again.regions["head"] is again.head
    assert again.head.trials == fast.head.trials
    assert again.report.coverage == fast.report.coverage
    for batch in (images, images[:2, :, :12]):
        assert torch.equal(again(batch)["logits"], fast(batch)["logits"])
    qfx.save(again, tmp_path / "again.qfx")  # examples of the regions came along


def test_where_versions_differ_regions_are_compiled_anew(
    fast: Any, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qfx.save(fast, tmp_path / "fast.qfx")
    monkeypatch.setattr(kept, "built_with", lambda *_: {"torch": "3.0"})
    with pytest.warns(qfx.QfxWarning, match=r"with torch .* 3\.0: engines are tried anew"):
        again: Any = qfx.load(tmp_path / "fast.qfx", model=Branches().eval())
    assert torch.equal(again(images)["logits"], fast(images)["logits"])


@torch.no_grad()
def test_a_region_with_several_graphs(tmp_path: Path) -> None:
    quantized = qfx.quantize(LOOP, IDS, method="dynamic")
    fast: Any = qfx.compile(quantized, IDS, engine="eager")
    qfx.save(fast, tmp_path / "fast.qfx")
    again: Any = qfx.load(tmp_path / "fast.qfx", model=Loop().eval())
    assert list(again.regions) == list(fast.regions)
    assert "layers.0#2" in again.regions
    for most in (1, 3):
        assert torch.equal(again(IDS, most), quantized(IDS, most))
    assert torch.equal(again.layers[0].query.weight, fast.layers[0].query.weight)


def test_a_region_whose_attribute_was_set_is_not_kept(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(3)
    fast: Any = qfx.compile(qfx.quantize(Branches().eval(), images), engine="eager")
    fast.head.in_features = 5
    with pytest.raises(qfx.FormatError, match="'in_features' was set since"):
        qfx.save(fast, tmp_path / "fast.qfx")


@pytest.mark.parametrize("names", [("head",), ("backbone", "head", "again", "other"), ()])
def test_what_was_compiled_are_not_its_regions(
    fast: Any, tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = qfx.save(fast, tmp_path / "fast.qfx")

    def change(said: Any) -> None:
        said["compiled"] = dict.fromkeys(names, said["compiled"]["head"])

    path.write_bytes(told(path.read_bytes(), change))
    with pytest.raises(qfx.FormatError, match="what it says was compiled are not its regions"):
        qfx.load(path, model=Branches().eval())
