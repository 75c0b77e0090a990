"""A model that was saved and loaded is the model that was saved."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.storage.files import load_buffer
from tests.storage.test_hostile import told
from tests.support.nets import seeded

CASES = (
    ("x86", "static"),
    ("fbgemm", "static"),
    ("qnnpack", "static"),
    ("reference", "static"),
    ("x86", "dynamic"),
    ("fbgemm", "dynamic"),
    ("x86", "weight_only"),
)


def small() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for backend, method in CASES:
        if backend in qfx.backends.available():
            qmodel = qfx.quantize(small(), X, backend=backend, method=method, check=False)
            path = qfx.save(qmodel, folder / f"{backend}.{method}.qfx")
            made[backend, method] = (qmodel, path, qfx.load(path))
    return made


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_equal(case: tuple[str, str], saved: dict[tuple[str, str], Any]) -> None:
    qmodel, _, loaded = saved[case]
    for x in (X, torch.cat([X, X + 1])):
        assert torch.equal(loaded(x), qmodel(x))
        assert torch.equal(loaded.reference(x), qmodel.reference(x))


@pytest.mark.parametrize("case", CASES)
def test_graphs_and_report_are_equal(
    case: tuple[str, str], saved: dict[tuple[str, str], Any]
) -> None:
    qmodel, _, loaded = saved[case]
    assert qfx.snapshot(loaded).to_json() == qfx.snapshot(qmodel).to_json()
    assert qfx.snapshot(loaded.reference).to_json() == qfx.snapshot(qmodel.reference).to_json()
    assert loaded.report == qmodel.report
    assert loaded.backend == qmodel.backend
    assert str(loaded.report) == str(qmodel.report)


def test_what_is_loaded_is_saved_to_the_same_bytes(
    saved: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    for _, path, loaded in saved.values():
        assert qfx.save(loaded, tmp_path / "again.qfx").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bits(
    saved: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    qmodel, path, _ = saved["x86", "static"]
    torch.save(X, tmp_path / "x.pt")
    script = (
        "import torch, qfx, sys; m = qfx.load(sys.argv[1]); "
        "print(m(torch.load(sys.argv[2], weights_only=True)).flatten().tolist())"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "x.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(qmodel(X).flatten().tolist())


def test_the_file_is_little_more_than_its_tensors(saved: dict[tuple[str, str], Any]) -> None:
    for qmodel, path, _ in saved.values():
        held = (*qmodel.reference.parameters(), *qmodel.reference.buffers())
        needed = sum(t.numel() * t.element_size() for t in held)
        assert path.stat().st_size < needed + 16_000


def test_the_field_s_own_reader_reads_it(saved: dict[tuple[str, str], Any]) -> None:
    safetensors = pytest.importorskip("safetensors")
    qmodel, path, _ = saved["x86", "static"]
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "qfx"
        assert set(dict(qmodel.reference.named_buffers())) < set(file.keys())


def names(model: qfx.QuantizedModel) -> list[str]:
    with pytest.warns(qfx.QfxWarning, match="state_dict"):
        return list(model.state_dict())


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_before_flatten_constants_is_read_as_it_was(
    case: tuple[str, str], saved: dict[tuple[str, str], Any]
) -> None:
    qmodel, path, _ = saved[case]
    older = told(path.read_bytes(), lambda content: content["model"]["lowering"].pop())
    loaded = load_buffer(older)
    assert isinstance(loaded, qfx.QuantizedModel)
    assert torch.equal(loaded(X), qmodel(X))
    assert names(loaded) == names(qmodel)
    assert qfx.snapshot(loaded).to_json() == qfx.snapshot(qmodel).to_json()


def test_a_prepared_model_of_before_flatten_constants_is_read_as_it_was(tmp_path: Path) -> None:
    prepared = qfx.prepare(small(), X)
    qfx.calibrate(prepared, [X])
    path = qfx.save(prepared, tmp_path / "m.qfx")
    older = told(path.read_bytes(), lambda content: content["model"]["rest"].pop())
    now, before = (qfx.convert(load_buffer(data)) for data in (bytearray(path.read_bytes()), older))
    assert names(before) == names(now)
    assert torch.equal(before(X), now(X))


def test_the_original_may_be_overwritten_while_it_is_mapped(tmp_path: Path) -> None:
    first, second = (qfx.quantize(seeded(nn.Linear, 6, 3, seed=s), X[0, 0, :, :6]) for s in (0, 1))
    path = qfx.save(first, tmp_path / "model.qfx")
    loaded = qfx.load(path)
    qfx.save(second, path)
    assert torch.equal(loaded.reference(X[0, 0, :, :6]), first.reference(X[0, 0, :, :6]))


def test_history_is_kept_where_it_is_asked_for(
    saved: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    qmodel, _, loaded = saved["x86", "static"]
    assert len(loaded.history) == 0
    kept = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx", history=True))
    assert isinstance(kept, qfx.QuantizedModel)
    assert str(kept.history) == str(qmodel.history)
    for ours, theirs in zip(kept.history, qmodel.history, strict=True):
        assert ours == theirs
        assert ours.near_misses == theirs.near_misses
        assert ours.snapshot.to_json() == theirs.snapshot.to_json()
    node = kept.report.sites[0].node
    assert str(kept.history.blame(node)) == str(qmodel.history.blame(node))


def test_a_copy_of_a_loaded_model_is_one(saved: dict[tuple[str, str], Any]) -> None:
    qmodel, _, loaded = saved["x86", "static"]
    assert torch.equal(copy.deepcopy(loaded)(X), qmodel(X))


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Result:
    logits: Tensor
    hidden: Tensor | None = None


class Structured(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(4, 4), kind

    def forward(self, x: dict[str, Tensor], *, scale: float = 2.0, mask: Any = None) -> Any:
        y = self.linear(x["a"] + x["b"]) * scale
        if self.kind == "dict":
            return {"y": y, "nested": [y, (None, y + 1)], 3: y}
        if self.kind == "ordered":
            return OrderedDict(y=y, z=y * 2)
        if self.kind == "pair":
            return Pair(y, y + 1)
        if self.kind == "size":
            return y.shape, y.max(dim=1)
        return Result(y)


BATCH = {"a": X[0, 0, :, :4], "b": X[0, 1, :, :4]}


@pytest.mark.parametrize("kind", ["dict", "ordered", "size"])
def test_structures_come_back_by_themselves(kind: str, tmp_path: Path) -> None:
    qmodel = qfx.quantize(Structured(kind).eval(), (BATCH,))
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    expected, found = qmodel(BATCH, scale=3.0), loaded(BATCH, scale=3.0)
    assert repr(found) == repr(expected)
    assert type(found) is type(expected)
    with pytest.raises(TypeError):
        loaded(BATCH, 3.0)  # scale is given by keyword only, as the model says


@pytest.mark.parametrize(("kind", "cls"), [("pair", Pair), ("dataclass", Result)])
def test_classes_of_the_user_s_are_handed_in(kind: str, cls: type, tmp_path: Path) -> None:
    qmodel = qfx.quantize(Structured(kind).eval(), (BATCH,))
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    with pytest.raises(qfx.FormatError, match=rf"{cls.__qualname__}.*types=\[TheClass\]"):
        qfx.load(path)
    loaded = qfx.load(path, types=[cls])
    assert type(loaded(BATCH)) is cls
    assert repr(loaded(BATCH)) == repr(qmodel(BATCH))


def test_a_file_that_is_read_whole_may_be_written_over(tmp_path: Path) -> None:
    qmodel = qfx.quantize(small(), X, check=False)
    path = qfx.save(qmodel, tmp_path / "m.qfx")
    loaded = qfx.load(path, mmap=False)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(0)
    assert torch.equal(loaded(X), qmodel(X))


def test_a_file_that_is_mapped_may_be_replaced(tmp_path: Path) -> None:
    qmodel = qfx.quantize(small(), X, check=False)
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    qfx.save(qfx.quantize(small(), 2 * X, check=False), tmp_path / "m.qfx")
    assert torch.equal(loaded(X), qmodel(X))


def test_where_no_file_can_be(tmp_path: Path) -> None:
    qmodel = qfx.quantize(small(), X, check=False)
    with pytest.raises(FileNotFoundError, match=r"there is no such folder: .*missing'"):
        qfx.save(qmodel, tmp_path / "missing" / "m.qfx")
    with pytest.raises(IsADirectoryError, match="a folder, not a file"):
        qfx.save(qmodel, tmp_path)
    with pytest.raises(IsADirectoryError, match=r"no file of qfx\.save"):
        qfx.load(tmp_path)


HISTORY_ASKS: dict[str, Callable[[nn.Module, qfx.QuantizedModel, Path], object]] = {
    "index": lambda model, loaded, folder: loaded.history[0],
    "name": lambda model, loaded, folder: loaded.history["fuse-conv-bn"],
    "diff": lambda model, loaded, folder: loaded.history.diff(0),
    "blame": lambda model, loaded, folder: loaded.history.blame("x"),
    "to_text": lambda model, loaded, folder: loaded.history.to_text(),
    "dump": lambda model, loaded, folder: loaded.history.dump(folder / "stages"),
    "bisect": lambda model, loaded, folder: qfx.bisect(model, loaded, [X]),
    "save": lambda model, loaded, folder: qfx.save(loaded, folder / "m", history=True),
}


def test_a_history_that_was_not_kept_says_so(tmp_path: Path) -> None:
    model = small()
    read = qfx.load(qfx.save(qfx.quantize(model, X, check=False), tmp_path / "m.qfx"))
    says = "the file was saved without its history"
    for loaded in (read, copy.deepcopy(read)):
        assert not list(loaded.history)
        assert says in str(loaded.history)
        assert says in repr(loaded.history)
        for ask in HISTORY_ASKS.values():
            with pytest.raises(qfx.ConfigError, match=says):
                ask(model, loaded, tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": 3}, "model is int, not an nn.Module"),
        ({"modules": [nn.ReLU()]}, "modules is list; give a dict"),
        ({"types": OrderedDict}, "give a list of classes"),
        ({"types": [3]}, "give a list of classes"),
    ],
)
def test_what_load_can_t_take(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(qfx.ConfigError, match=says):
        qfx.load(tmp_path / "m.qfx", **given)


def test_the_reference_form_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4))
    loaded = qfx.load(qfx.save(qmodel, tmp_path / "m.qfx"))
    assert isinstance(loaded, qfx.QuantizedModel)
    assert not isinstance(vars(loaded)["_reference"], torch.fx.GraphModule)
    copied = copy.copy(loaded)
    x = torch.randn(3, 4)
    assert torch.equal(loaded.reference(x), qmodel.reference(x))
    assert loaded.reference is loaded.reference
    assert not any(t.requires_grad for t in loaded.reference.parameters())
    assert qfx.save(copied, tmp_path / "c.qfx").read_bytes() == (tmp_path / "m.qfx").read_bytes()
