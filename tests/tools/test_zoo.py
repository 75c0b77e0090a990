"""The table of models, on toys: what is run, what counts as trouble, what an explanation covers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests.tools.fates import fate
from tools import zoo
from tools.collection import images, measure, row
from tools.collection.children import Limits, Lost, run_each
from tools.collection.explained import EXPLAINED, Explanation
from tools.collection.row import Row, Trouble
from tools.collection.subject import Call, Entry, Subject, seeded

GOOD = Row("timm/good/static", "", 4, 9, 1.0, 31.0, 30.0, 30.0, 45.0, 2.0, 1.5)


def small(name: str) -> Subject:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return images.subject(nn.Sequential(*layers, nn.Linear(32, 8)).eval(), (8, 12))


def branches(name: str) -> Subject:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    return Subject(Net().eval(), (Call("", (seeded(1, 3),)),))


def guarded(name: str) -> Subject:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if x.shape[0] < 3 else x

    return Subject(Net().eval(), tuple(Call(f"batch {n}", (seeded(n, 8),)) for n in (2, 1, 4)))


def missing(name: str) -> Subject:
    raise ValueError(f"no model {name}")


TOYS = [
    Entry("timm", name, "static", build)
    for name, build in {"small": small, "branches": branches, "missing": missing}.items()
]


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs on the toys, in this process."""
    module = ModuleType("toys")
    module.entries = lambda: iter(TOYS)  # type: ignore[attr-defined]
    monkeypatch.setattr(zoo.importlib, "import_module", lambda name: module)

    def here(function, things, **options) -> Iterator[tuple[Entry, Row]]:
        return ((thing, function(thing)) for thing in things)

    monkeypatch.setattr(zoo, "run_each", here)


def test_measures_a_model() -> None:
    found = measure.measure(TOYS[0])
    assert not found.error
    assert not found.troubles
    assert found.calls == 4
    assert found.parameters == 3 * 8 * 9 + 8 + 32 * 8 + 8
    assert found.coverage == 1.0
    assert found.sqnr >= found.worst > 25
    assert found.kernels > 35
    assert found.seconds > 0
    assert found.speed > 0


def test_in_short() -> None:
    found = measure.measure(TOYS[0], short=True)
    assert (found.calls, found.troubles) == (1, ())
    assert math.isnan(found.speed)


def test_what_fails_is_a_row_too() -> None:
    assert measure.measure(TOYS[1]).error.startswith("CaptureError: ")
    assert measure.measure(TOYS[2]).error == "can't be built: ValueError: no model missing"


def test_a_size_that_a_guard_refuses_leaves_the_others() -> None:
    found = measure.measure(Entry("timm", "guarded", "dynamic", guarded))
    assert found.calls == 2
    assert found.worst > 20
    assert found.refused.startswith("batch 4: ConfigError: the model was captured with")
    assert found.troubles == (Trouble.REFUSES,)


def test_images_of_the_sizes_that_a_model_takes() -> None:
    def shapes(model: nn.Module, *sizes: int) -> list[tuple[int, ...]]:
        return [tuple(c.args[0].shape) for c in images.subject(model, sizes).calls]

    any_size = shapes(nn.Conv2d(3, 4, 5), 4, 8, 16)
    assert any_size == [(2, 3, 8, 8), (1, 3, 8, 8), (3, 3, 8, 8), (1, 3, 16, 16)]
    one_size = shapes(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), 4, 8, 16)
    assert one_size == [(2, 3, 8, 8), (1, 3, 8, 8), (3, 3, 8, 8), (4, 3, 8, 8)]
    with pytest.raises(ValueError, match="takes no images of 4, 8 pixels"):
        images.subject(nn.Linear(3, 3), (4, 8))


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"error": "CaptureError: no"}, Trouble.FAILS),
        ({"worst": 19.9, "reference": 20.0}, Trouble.NOISY),
        ({"worst": math.nan, "reference": math.nan}, Trouble.NOISY),
        ({"reference": 33.5}, Trouble.KERNELS),
        ({"coverage": 0.94}, Trouble.COVERAGE),
        ({"uncounted": "_grouped_mm"}, Trouble.COVERAGE),
        ({"seconds": 61.0}, Trouble.SLOW),
        ({"regions": "2 regions: it loops"}, Trouble.REGIONS),
    ],
)
def test_troubles(change: dict[str, float], trouble: Trouble) -> None:
    assert GOOD.troubles == ()
    assert trouble in dataclasses.replace(GOOD, **change).troubles


class TwoHalves(nn.Module):
    """Python decides by values between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.second(x if x.sum() > 1e9 else x * 2)


def test_a_model_in_regions_is_measured_and_said_to_be_one() -> None:
    call = Call("two", (seeded(2, 8),))
    entry = Entry("own", "halves", "dynamic", lambda _: Subject(TwoHalves().eval(), (call,)))
    found = measure.measure(entry)
    assert found.error == ""
    assert found.regions.startswith("2 regions: the model (")
    assert "depends on the contents" in found.regions
    assert found.reference > 25
    assert found.kernels > found.reference
    assert found.troubles == (Trouble.REGIONS,)


@pytest.mark.parametrize(
    "change", [{"coverage": None}, {"seconds": 99.0, "parameters": 10**9}, {"worst": math.inf}]
)
def test_no_troubles(change: dict[str, float]) -> None:
    assert dataclasses.replace(GOOD, **change).troubles == ()


def test_an_explanation_is_about_one_trouble_and_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        Explanation(Trouble.NOISY, "timm/go*/static", "it is chaotic"),
        Explanation(Trouble.FAILS, "timm/good/*", "it branches", error="CaptureError"),
    )
    monkeypatch.setattr(zoo, "EXPLAINED", table)
    noisy = dataclasses.replace(GOOD, worst=10.0, reference=10.0)
    assert zoo.explanations(noisy, table) == [table[0]]
    both = dataclasses.replace(noisy, coverage=0.5)
    assert [e.trouble for e in zoo.explanations(both, table)] == [Trouble.NOISY]
    crashed = Row(GOOD.key, error="its process ended with status -11")
    assert zoo.explanations(crashed, table) == []
    assert zoo.explanations(Row(GOOD.key, error="CaptureError: x"), table) == [table[1]]
    gone = zoo.stale({GOOD.key: GOOD}, table)
    assert [line.split(";")[0] for line in gone] == [
        "no longer noisy: timm/go*/static", "no longer fails: timm/good/*",
    ]  # fmt: skip
    assert zoo.stale({GOOD.key: noisy}, table[:1]) == []


def test_the_checked_in_explanations_are_sentences_about_something() -> None:
    for each in EXPLAINED:
        assert len(each.reason) > 20, each
        assert each.pattern.split("/")[0] in zoo.LIBRARIES, each
        assert each.pattern.count("/") == 2, each


@pytest.mark.usefixtures("toys")
def test_writes_tables_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--library", "timm"]
    assert zoo.main([*arguments, "--only", "small"]) == 0
    assert "timm, static: 1 models, 1 quantized and run, 1 all right" in capsys.readouterr().out
    assert zoo.main([*arguments, "--list"]) == 0
    assert capsys.readouterr().out.split() == ["timm/branches/static", "timm/missing/static"]
    assert zoo.main(arguments) == 1, "two are neither all right nor explained"
    printed = capsys.readouterr().out
    assert "FAILS: CaptureError" in printed
    assert "3 models, 1 quantized and run, 1 all right, 0 explained, 2 neither" in printed
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [entry.key for entry in TOYS]
    table = (tmp_path / "zoo.tsv").read_text().splitlines()
    assert [line.count("\t") for line in table] == [len(row.HEAD) - 1] * 4
    assert table[1].split("\t")[:2] == ["timm/small", "static"]
    assert "| timm/small | static |" in (tmp_path / "zoo.md").read_text()
    zoo.main([*arguments, "--again"])
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 5, "the two again"


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.LIBRARIES, "timm", "no_such_module")
    with pytest.raises(SystemExit, match="install timm"):
        zoo.entries(["timm"])


def test_each_has_a_process_of_its_own() -> None:
    """A crash, a loop without an end and too much memory end nothing else."""
    things = ["sleep", "crash", "hog", "well"]
    limits = Limits(seconds=3, memory=32)
    results = dict(run_each(fate, things, workers=4, limits=limits))
    assert results == {
        "well": "well",
        "crash": Lost("its process ended with status -6"),
        "hog": Lost("its process ended with status 1"),
        "sleep": Lost("took over 3 s"),
    }
