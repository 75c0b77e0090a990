"""A model of several regions is one file; the code around them is handed in again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.graph.ways import ways_of
from qfx.numerics.measures import sqnr
from qfx.storage.container import Container, container_parts
from qfx.storage.documents import MODEL, pack, unpack
from qfx.storage.files import load_buffer
from tests.cases.regions import Branches

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def hooked() -> nn.Module:
    """A module that is not looked into, and whose code no file brings."""
    module = nn.Linear(8, 8)
    module.register_forward_hook(lambda module, args, y: 2 * y)
    return module


class Decides(nn.Module):
    """Decides by data; a region and what is outside share a weight."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(8, 8, bias=False)
        self.register_buffer("offset", torch.rand(8))
        self.head.weight = self.body[0].weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.norm(self.body(x))) + self.offset
        return y if y.sum() > 0 else -y


def decides(seed: int = 0, **options: int) -> Decides:
    torch.manual_seed(seed)
    return Decides(**options)


@pytest.fixture(scope="module")
def quantized() -> Any:
    return qfx.quantize(decides().eval(), X, regions=("body",), min_coverage=None)


@pytest.fixture(scope="module")
def path(quantized: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qfx.save(quantized, tmp_path_factory.mktemp("m") / "m.qfx")


def test_it_is_the_model_that_was_saved(quantized: Any, path: Path, tmp_path: Path) -> None:
    built = decides(seed=7)  # whose weights are others, and in training mode
    before = copy.deepcopy(built.state_dict())
    loaded: Any = qfx.load(path, model=built)
    assert type(loaded) is Decides
    assert isinstance(loaded.regions["body"], qfx.QuantizedModel)
    assert loaded.regions["body"] is loaded.body
    for x in (X, -X):
        assert torch.equal(loaded(x), quantized(x))
    assert not any(module.training for module in loaded.modules())
    assert loaded.report == quantized.report
    assert str(loaded.regions) == str(quantized.regions)
    assert len(loaded.history) == 0
    assert qfx.save(loaded, tmp_path / "again.qfx").read_bytes() == path.read_bytes()
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())


def test_regions_all_over(tmp_path: Path) -> None:
    torch.manual_seed(2)
    qmodel: Any = qfx.quantize(Branches().eval(), IMAGES)
    saved = qfx.save(qmodel, tmp_path / "m.qfx", history=True)
    loaded: Any = qfx.load(saved, model=Branches())
    assert torch.equal(loaded(IMAGES)["logits"], qmodel(IMAGES)["logits"])
    assert loaded.describe() == qmodel.describe()
    assert str(loaded.history[-1].snapshot) == str(qmodel.history[-1].snapshot)
    assert [s.name for s in loaded.history] == [s.name for s in qmodel.history]
    assert str(loaded.report.explain("backbone.2.conv")) == str(
        qmodel.report.explain("backbone.2.conv")
    )
    anywhere: Any = qfx.load(saved, model=Branches(), backend="reference")
    assert {graph.backend for graph in anywhere.regions.values()} == {"reference"}


def test_what_no_graph_takes_the_module_answers_over_the_same_codes(
    quantized: Any, path: Path
) -> None:
    loaded: Any = qfx.load(path, model=decides(seed=7))
    insides = [ways_of(each.body).inside for each in (loaded, quantized)]
    for ours, theirs in zip(*insides, strict=True):
        for name in ("weight", "bias") if isinstance(ours, nn.Linear) else ():
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert torch.equal(insides[0](X), insides[1](X))


class TwoWays(Decides):
    """Calls a part in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.part(x, flag=False) if x.sum() > 0 else self.part(x, flag=True))


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, *, flag: bool) -> Tensor:
        return self.one(x) + self.two(x) if flag else self.one(x)


class Both(TwoWays):
    """Calls it in both in every run."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(-x)


def test_each_way_through_a_part_has_its_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    qmodel: Any = qfx.quantize(Both().eval(), X, min_coverage=None)
    assert "part#2" in qmodel.regions
    saved = qfx.save(qmodel, tmp_path / "m.qfx", history=True)
    loaded: Any = qfx.load(saved, model=Both())
    for x in (X, -X):
        assert torch.equal(loaded(x), qmodel(x))
    assert list(loaded.regions) == list(qmodel.regions)
    assert loaded.report == qmodel.report
    assert loaded.report.warnings == qmodel.report.warnings
    assert loaded.report.size_bytes == qmodel.report.size_bytes
    again = qfx.save(loaded, tmp_path / "again.qfx", history=True)
    assert again.read_bytes() == saved.read_bytes()


def test_attributes_that_were_set_since(tmp_path: Path) -> None:
    qmodel: Any = qfx.quantize(decides().eval(), X, regions=("body", "head"), min_coverage=None)
    qmodel.head.in_features = 9
    with pytest.raises(qfx.FormatError, match="region 'head': its attribute 'in_features' was set"):
        qfx.save(qmodel, tmp_path / "m.qfx")


def test_compiling_asks_for_examples(path: Path) -> None:
    with pytest.raises(qfx.ConfigError, match="example_inputs"):
        qfx.compile(qfx.load(path, model=decides()))


def test_modules_of_unknown_code_come_from_the_model(tmp_path: Path) -> None:
    model, built = decides(), decides(seed=7)
    model.body.append(hooked())
    qmodel = qfx.quantize(model.eval(), X, regions=("body",), min_coverage=None)
    saved = qfx.save(qmodel, tmp_path / "m.qfx")
    built.body.append(hooked())
    assert torch.equal(qfx.load(saved, model=built)(X), qmodel(X))
    with pytest.raises(qfx.FormatError, match="whose code is not in the file"):
        qfx.load(saved, model=decides())


def test_calibration_goes_on(tmp_path: Path) -> None:
    prepared = qfx.calibrate(qfx.prepare(decides().eval(), X, regions=("body",)), [X])
    loaded = qfx.load(qfx.save(prepared, tmp_path / "m.qfx"), model=decides(seed=7))
    for each in (prepared, loaded):
        qfx.calibrate(each, [2 * X])
    one, other = (qfx.convert(each, min_coverage=None) for each in (prepared, loaded))
    assert torch.equal(one(X), other(X))
    assert one.report.sites == other.report.sites


def test_what_is_called_in_several_ways_trains_in_parts_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Both().train()
    prepared: Any = qfx.prepare(model, X, method="qat")
    assert {"part.one", "part.two"} < set(prepared.regions)
    assert "several ways, and what is trained has one graph" in str(prepared.regions)
    before = copy.deepcopy(prepared.state_dict())
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        prepared(X).pow(2).mean().backward()
        optimizer.step()
    assert all(p.grad is not None for p in prepared.parameters())
    loaded = qfx.load(qfx.save(prepared, tmp_path / "m.qfx"), model=Both())
    assert not torch.equal(loaded.get_parameter("part.two.weight"), before["part.two.weight"])
    one, other = (qfx.convert(each.eval(), min_coverage=None) for each in (prepared, loaded))
    again = qfx.load(qfx.save(one, tmp_path / "q.qfx"), model=Both())
    with torch.no_grad():
        assert sqnr(prepared(X), one(X)) > 60
        assert torch.equal(one(X), other(X))
        assert torch.equal(one(-X), again(-X))


def test_training_goes_on(tmp_path: Path) -> None:
    prepared = qfx.prepare(decides().train(), X, method="qat", regions=("body",))
    prepared.norm.weight.requires_grad_(False)
    schedule = qfx.QATSchedule(prepared, freeze_observers=2)

    def train(model: nn.Module, steps: Any, *seeds: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for seed in seeds:
            optimizer.zero_grad()
            model(X + seed).pow(2).mean().backward()
            optimizer.step()
            steps.step()

    train(prepared, schedule, 1)
    saved = qfx.save(prepared, tmp_path / "m.qfx", schedule=schedule)
    loaded: Any = qfx.load(saved, model=decides(seed=7))
    assert loaded.head.weight is loaded.get_parameter("body.0.weight")
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in prepared.named_parameters()]
    assert loaded.training
    assert not loaded.norm.weight.requires_grad
    train(prepared, schedule, 2, 3)
    train(loaded, loaded.regions.schedule, 2, 3)
    assert repr(loaded.regions.schedule) == repr(schedule)
    state = loaded.state_dict()
    for name, value in prepared.state_dict().items():
        assert torch.equal(state[name], value), name
    one, other = (qfx.convert(each.eval(), min_coverage=None) for each in (prepared, loaded))
    assert torch.equal(one(X), other(X))
    stranger = qfx.QATSchedule(qfx.prepare(decides(), X, method="qat", regions=("body",)))
    with pytest.raises(qfx.ConfigError, match="another model"):
        qfx.save(prepared, tmp_path / "m.qfx", schedule=stranger)


# -- what is refused -----------------------------------------------------------------------------
def test_the_model_must_be_given_and_be_alike(path: Path, quantized: Any) -> None:
    with pytest.raises(qfx.FormatError, match=r"regions \(body\) of a .*Decides.*model=float_m"):
        qfx.load(path)
    with pytest.raises(qfx.FormatError, match=r"norm\.weight', which is in no region, differs"):
        qfx.load(path, model=decides(width=1))
    with pytest.raises(qfx.FormatError, match="the model has no module of that name"):
        qfx.load(path, model=Branches())
    other = decides()
    other.body = nn.ModuleList([nn.Linear(8, 8)])  # type: ignore[assignment]
    with pytest.raises(qfx.FormatError, match="a Sequential, and the model has a ModuleList"):
        qfx.load(path, model=other)
    with pytest.raises(qfx.ConfigError, match="give the float model"):
        qfx.load(path, model=quantized)


def test_a_model_without_memory_is_refused_and_an_empty_one_is_not(
    path: Path, quantized: Any
) -> None:
    with pytest.raises(qfx.FormatError, match=r"on the meta device.*to_empty\(device='cpu'\)"):
        qfx.load(path, model=decides().to("meta"))
    model = decides().to("meta").to_empty(device="cpu")
    assert torch.equal(qfx.load(path, model=model)(X), quantized(X))


def _copied(content: Any, **changes: str) -> Any:
    return {**json.loads(json.dumps(content)), **changes}


def _held(model: Any) -> Any:
    return model["regions"][0]["ways"]["inside"]["held"]["0.weight"]


@pytest.mark.parametrize(("change", "match"), [
    (lambda m: m["regions"].append(_copied(m["regions"][0])), "same name"),
    (lambda m: m["regions"].append(_copied(m["regions"][0], name="body.0", kind="Linear")), "part"),
    (lambda m: m["regions"][0].update(name=""), "no module of that name"),
    (lambda m: m["regions"][0].update(name="__class__"), "no module of that name"),
    (lambda m: m.update(work={}), "work.body"),
    (lambda m: m.update(regions=[]), "are none"),
    (lambda m: m["state"].update({"norm.bias": "head.weight"}), "differs"),
    (lambda m: m["state"].update({"norm.bias": "nowhere"}), "the file has not"),
    (lambda m: m["state"].update({"__class__": "offset"}), "differs"),
    (lambda m: m["regions"][0]["model"].update(kind="regions"), "none of prepared, quantized"),
    (lambda m: _held(m).update(node="input_1"), "restored by no node"),
    (lambda m: _held(m).update(graph=3), "a graph that the region has not"),
    (lambda m: _held(m).update(dtype="float64"), "of a region differs"),
    (lambda m: _held(m).update(rows="offset"), "scales of another shape"),
    (lambda m: m["regions"][0]["ways"].update(forms=[[{"type": "eval"}, 0]]), "no form of a call"),
    (lambda m: m["regions"][0]["ways"].update(forms=[[[], 1]]), "not so many graphs"),
    (lambda m: m["regions"][0]["ways"]["inside"]["state"].clear(), "of a region differs"),
])  # fmt: skip
def test_files_that_lie(change: Callable[[Any], None], match: str, path: Path) -> None:
    container = Container(bytearray(path.read_bytes()))
    content: Any = unpack(container, MODEL)
    content["model"].pop("work", None)
    change(content["model"])
    held = {n: container.tensor(n) for n in container.entries if not n.startswith("__qfx")}
    more, said = pack(MODEL, content)
    data = b"".join(map(bytes, container_parts(held | more, {**container.metadata, **said})))
    with pytest.raises(qfx.FormatError, match=match):
        load_buffer(bytearray(data), model=decides())
