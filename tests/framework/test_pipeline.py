import dataclasses
import sys
import warnings
from enum import Enum
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from qfx.errors import ConfigError, QfxWarning
from qfx.framework import registry
from qfx.framework.levels import Level
from qfx.framework.pass_base import Pass, PatternPass
from qfx.framework.pipeline import CALIBRATE, Pipeline


class Mode(Enum):
    FAST = 1
    EXACT = 2


class Canon(Pass):
    name = "canon"
    requires, produces = Level.CAPTURED, Level.CANONICAL


class Fuse(Pass):
    name = "fuse"
    requires, produces = Level.CANONICAL, Level.FUSED
    limit: int | None = None
    ratio: float = 0.5
    dtypes: tuple[torch.dtype, ...] = (torch.int8,)
    label: str = ""
    exact: bool = True
    mode: Mode = Mode.FAST


class Observe(Pass):
    name = "observe"
    requires, produces = Level.FUSED, Level.OBSERVED


class Written(Pass):
    name = "written"
    requires = Level.CAPTURED


class Anywhere(Pass):
    name = "anywhere"


class Needy(Pass):
    name = "needy"
    count: int


# -- passes ----------------------------------------------------------------------------------------


def test_subclass_is_a_frozen_dataclass() -> None:
    step = Fuse(limit=3)
    assert step == Fuse(3)
    assert step != Fuse()
    assert hash(step) == hash(Fuse(limit=3))
    assert dataclasses.replace(step, limit=4).limit == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.limit = 5


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Fuse(), "fuse"),
        (Fuse(limit=3), "fuse{limit=3}"),
        (Fuse(exact=False, ratio=1e-3), "fuse{ratio=0.001, exact=false}"),
        (Fuse(label="it's, {odd}"), 'fuse{label="it\'s, {odd}"}'),
        (Fuse(dtypes=()), "fuse{dtypes=()}"),
        (Fuse(dtypes=(torch.uint8,)), "fuse{dtypes=(torch.uint8,)}"),
        (Fuse(ratio=float("-inf"), mode=Mode.EXACT), "fuse{ratio=-inf, mode=EXACT}"),
    ],
)
def test_text_round_trips(step: Pass, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_all", lambda: iter([(Fuse, "here")]))
    assert str(step) == text
    assert registry.parse_pass(text) == step
    assert registry.parse_pass(f" {text} ") == step


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fuse{", "cannot read 'fuse{' as a pass"),
        ("fuse{limit=}", "cannot read the options"),
        ("fuse{3}", "cannot read the options"),
        ("fuse{**x}", "cannot read the options"),
        ("fuse{limits=3}", "no option 'limits'; its options are: limit, ratio"),
        ("fuse{limit=open('x')}", "no value of an option"),
        ("fuse{limit=torch.load}", "no value of an option"),
        ("fuse{mode=SLOW}", "no value of an option"),
        ("fusee", "no pass called 'fusee' is installed; did you mean fuse"),
    ],
)
def test_bad_text(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_all", lambda: iter([(Fuse, "here")]))
    with pytest.raises(ConfigError, match=message):
        registry.parse_pass(text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "My Pass"}, "lower-case words joined by dashes"),
        ({"__annotations__": {"name": str}, "name": "x"}, "annotated as an option"),
        ({"name": "x", "requires": "FUSED"}, "no qfx.Level"),
    ],
)
def test_bad_declarations_fail_at_the_class(body: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        type("Bad", (Pass,), body)


def test_patterns_must_be_rules() -> None:
    with pytest.raises(ConfigError, match=r"must be a tuple of rules made with @qfx\.rewrite"):
        type("Bad", (PatternPass,), {"name": "bad", "patterns": (print,)})


# -- pipelines -------------------------------------------------------------------------------------


def names(pipeline: Pipeline) -> list[str]:
    return [step.name for step in pipeline]


BASE = Pipeline((Canon(), Fuse(), Observe()))


def test_edits_give_new_pipelines() -> None:
    assert names(BASE.insert_after("fuse", Anywhere())) == ["canon", "fuse", "anywhere", "observe"]
    assert names(BASE.insert_before("fuse", Anywhere)) == ["canon", "anywhere", "fuse", "observe"]
    assert BASE.replace("fuse", Fuse(limit=1))["fuse"] == Fuse(limit=1)
    assert names(Pipeline((Canon(), Anywhere())).without("anywhere")) == ["canon"]
    assert names(BASE) == ["canon", "fuse", "observe"]


def test_reads_as_a_list() -> None:
    assert str(BASE.replace("fuse", Fuse(limit=1))) == "canon\nfuse{limit=1}\nobserve"


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no pass called 'fuze'; did you mean fuse\\?"):
        BASE.without("fuze")
    with pytest.raises(ConfigError, match=r"no pass called 'zz'; it has: canon, fuse, observe$"):
        BASE.without("zz")
    with pytest.raises(ConfigError, match=r"no pass called 'zz'; it is empty$"):
        Pipeline(()).without("zz")


def test_the_place_for_data_is_no_pass() -> None:
    pipeline = Pipeline((Canon(), CALIBRATE, Anywhere()))
    for edit in (pipeline.without, lambda name: pipeline.replace(name, Fuse())):
        with pytest.raises(ConfigError, match=r"`calibrate` is where data runs .*qfx.run_passes"):
            edit("calibrate")
    assert names(pipeline.insert_after("calibrate", Fuse()))[1:3] == ["calibrate", "fuse"]


def test_ambiguous_name() -> None:
    twice = Pipeline((Canon(), Anywhere(), Anywhere()))
    with pytest.raises(ConfigError, match="has 2 passes called 'anywhere'"):
        twice.without("anywhere")


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ((Fuse(), Canon()), "pass fuse needs .* CANONICAL, .* put fuse after canon"),
        (
            (Fuse(),),
            "pass fuse needs .* CANONICAL, .*no pass of the pipeline",
        ),
        ((Canon(), Fuse(), Observe(), Fuse()), "pass fuse .* FUSED, and observe has .* OBSERVED"),
        ((Canon(), Written()), "pass written .* CAPTURED, and canon has already .*before canon"),
        ((Canon(), CALIBRATE, CALIBRATE), "calibrates once"),
        ((Needy,), "pass needy: missing a required argument: "),
        (("fuse",), "expected a pass, got 'fuse'"),
    ],
)
def test_misordered_pipelines_fail_when_built(passes: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(passes)


def test_edit_that_breaks_the_order_fails() -> None:
    with pytest.raises(ConfigError, match="observe needs a graph at level FUSED") as found:
        BASE.without("fuse")
    assert found.value.pass_name == "observe"


def test_fits_again_at_the_same_level() -> None:
    assert Pipeline((Written(), Canon(), Canon(), Fuse(), Anywhere(), Fuse())).end is Level.FUSED


def test_splits_at_calibrate() -> None:
    whole = Pipeline((Canon(), Fuse(), CALIBRATE, Observe()), backend="x86", method="static")
    before, after = whole.split()
    assert (names(before), names(after)) == (["canon", "fuse"], ["observe"])
    assert (after.start, after.end) == (Level.FUSED, Level.OBSERVED)
    assert (before.backend, after.method) == ("x86", "static")
    assert names(whole.insert_before("calibrate", Anywhere()))[2] == "anywhere"


def test_without_a_marker_all_is_before() -> None:
    before, after = BASE.split()
    assert (names(before), names(after)) == (names(BASE), [])


@pytest.mark.parametrize(
    ("own", "asked", "result"),
    [(None, "x86", "x86"), ("x86", "auto", "x86"), ("x86", "x86", "x86"), (None, "auto", "auto")],
)
def test_backend_of_the_call(own: str | None, asked: str, result: str) -> None:
    assert Pipeline((Canon(),), backend=own).reconcile(asked) == result


def test_backend_conflict() -> None:
    with pytest.raises(ConfigError, match='made for backend "x86" and the call asks for "fbgemm"'):
        Pipeline((Canon(),), backend="x86").reconcile("fbgemm")


# -- registry --------------------------------------------------------------------------------------


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


def test_builtin_passes_are_listed() -> None:
    listed = registry.list_passes()
    assert "canonicalize" in listed
    assert list(listed) == sorted(listed)
    for name in listed:
        assert registry.get_pass(name).name == name


def test_installed_passes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [entry("one", f"{__name__}:Anywhere"), entry("all", f"{__name__}:BUNDLE")]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    assert registry.get_pass("anywhere") is Anywhere
    assert registry.get_pass("fuse") is Fuse
    assert registry.parse_pass("needy{count=3}") == Needy(3)


BUNDLE = (Fuse, Needy)


def test_a_distribution_on_the_path_brings_its_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "acme_passes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-passes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[qfx.passes]\nacme = acme_passes:PASSES\n")
    (tmp_path / "acme_passes.py").write_text(ACME)
    assert "acme-flip" not in registry.list_passes()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_passes", raising=False)
    assert "acme-flip" in registry.list_passes()
    step = registry.parse_pass("acme-flip{times=3}")
    assert str(step) == "acme-flip{times=3}"
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4)
    pipeline = qfx.pipelines.static().insert_after("canonicalize", step)
    qmodel = qfx.quantize(model, x, backend="reference", pipeline=pipeline)
    flips = [n for n in qmodel.graph.nodes if n.target is qfx.vocab.FLIP]
    assert len(flips) == 6
    _, history = qfx.run_passes(model, [qfx.get_pass("acme-flip")()], x)
    assert history[-1].name == "acme-flip"


ACME = """
import qfx
from qfx import vocab
from qfx.graph import meta

class Flip(qfx.Pass):
    name = "acme-flip"
    times: int = 2

    def run(self, graph, ctx):
        rw = ctx.rewriter
        for node in [n for n in graph.nodes if vocab.is_op(n, vocab.LINEAR)]:
            value = meta.value_of(node)
            for _ in range(2 * self.times):
                with rw.at(node.next):
                    rw.replace(node, rw.call(vocab.FLIP, node, dims=(0,), value=value))

PASSES = (Flip,)
"""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Pass", "fails to load: ModuleNotFoundError"),
        (f"{__name__}:Mode", "is no pass"),
        (f"{__name__}:Impostor", "pass 'canonicalize' of .* is ignored: the name is taken"),
    ],
)
def test_faulty_plugins_are_warned_of(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry("bad", value)])
    with pytest.warns(QfxWarning, match=message):
        found = registry.get_pass("canonicalize")
    assert found.__module__ == "qfx_passes.canonical.canonicalize"


class Impostor(Pass):
    name = "canonicalize"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Pass", "'bad' is installed, and .* fails to load: ModuleNotFoundError"),
        (f"{__name__}:Named", "no pass is called 'bad': .*:Named .* yields 'well-named'"),
    ],
)
def test_an_entry_point_without_a_pass_of_its_name_says_why(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry("bad", value)])
    warnings.simplefilter("ignore", QfxWarning)  # until the test ends
    with pytest.raises(ConfigError, match=message):
        registry.get_pass("bad")


class Named(Pass):
    name = "well-named"
