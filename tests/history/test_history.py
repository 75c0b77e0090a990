from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import fx

import qfx
from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.history.events import Event
from qfx.history.history import History
from qfx.history.snapshot import Snapshot, snapshot
from qfx.history.stage import Stage
from tests.history.views import Builder


def build(form: str) -> fx.GraphModule:
    """conv, relu, tanh: as written, canonical, or fused, with a quantize before it."""
    b = Builder()
    x, w = b.input("x"), b.weight("conv.weight")
    source = "model.py:5"
    if form == "written":
        y = b.call(torch.conv2d, x, w, name="conv", source=source)
        y = b.call(torch.relu, y, name="relu", source="model.py:6")
    elif form == "canonical":
        y = b.call(vocab.CONV2D, x, w, name="conv", source=source)
        y = b.call(vocab.RELU, y, name="relu", source="model.py:6")
    else:
        if form == "quantized":
            x = b.call(vocab.QUANT_STUB, x, name="stub", origins=())
        post = (("relu",),)
        y = b.call(vocab.CONV2D, x, w, name="conv_relu", origins=("conv", "relu"), post=post)
    return b.done(b.call(vocab.TANH, y, name="tanh"))


def history() -> History:
    found = History()
    events = {
        "fused": (Event("fuse-conv-relu/conv_relu", ("conv", "relu"), ("conv_relu",)),),
        "quantized": (Event("place-stubs/entry", (), ("stub",)),),
    }
    forms = {
        "written": "capture", "canonical": "canonicalize", "fused": "fuse-conv-relu",
        "same": "nothing", "quantized": "place-stubs",
    }  # fmt: skip
    previous: Snapshot | None = None
    for index, (form, name) in enumerate(forms.items()):
        gm = build("fused" if form == "same" else form)
        previous = snapshot(gm, previous=previous)
        found.append(Stage(index, name, previous, events.get(form, ()), 0.123456))
    return found


def test_is_a_sequence_of_stages() -> None:
    stages = history()
    assert len(stages) == 5
    assert [s.index for s in stages] == [0, 1, 2, 3, 4]
    assert stages[2] is stages["fuse-conv-relu"]
    assert stages[-1].name == "place-stubs"
    assert stages[1:3] == [stages[1], stages[2]]
    assert "canonicalize" in stages
    assert stages[0] in stages
    assert "nope" not in stages


def test_unknown_stage_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no stage called 'nope'; the stages are: capture, can"):
        history()["nope"]
    with pytest.raises(IndexError):
        history()[5]


def test_a_name_used_twice_is_the_last_stage() -> None:
    stages = history()
    stages.append(Stage(5, "nothing", stages[-1].snapshot))
    assert stages["nothing"].index == 5


def test_stages_are_appended_in_order() -> None:
    stages = history()
    with pytest.raises(ConfigError, match="stage '9 late' cannot be number 5"):
        stages.append(Stage(9, "late", stages[0].snapshot))


def test_stage_without_effect_shares_the_snapshot() -> None:
    stages = history()
    assert stages["nothing"].snapshot is stages["fuse-conv-relu"].snapshot


def test_copies_share_all_stages() -> None:
    stages = history()
    for twin in (copy.copy(stages), copy.deepcopy(stages)):
        assert [a is b for a, b in zip(twin, stages, strict=True)] == [True] * 5
        twin.append(Stage(5, "later", stages[-1].snapshot))
    assert len(stages) == 5


def test_diff_by_index_name_and_alone() -> None:
    stages = history()
    found = stages.diff("canonicalize", 2)
    assert (found.removed, found.added) == (("conv", "relu"), ("conv_relu",))
    assert found.labels == ("1 canonicalize", "2 fuse-conv-relu")
    assert stages.diff("fuse-conv-relu").labels == found.labels
    assert not stages.diff("nothing")
    assert not stages.diff(0)
    assert stages.diff(-1).added == ("stub",)


def test_text_has_the_head_of_the_style_guide() -> None:
    lines = history().to_text("fuse-conv-relu").splitlines()
    assert lines[0] == "# stage 2: fuse-conv-relu   -2 +1 nodes"
    assert lines[1] == "#   fuse-conv-relu/conv_relu x1"
    assert lines[2].startswith("%x ")


def test_a_stage_prints_as_its_graph() -> None:
    stages = history()
    assert str(stages["fuse-conv-relu"]).splitlines()[:2] == [
        "# stage 2: fuse-conv-relu",
        "#   fuse-conv-relu/conv_relu x1",
    ]
    assert str(stages[0]).endswith(stages[0].snapshot.to_text())
    assert stages.to_text() == stages.to_text(4)


def test_table() -> None:
    assert str(history()).splitlines() == [
        "stage             nodes  change                  rules fired",
        "0 capture         6      capture",
        "1 canonicalize    6      -0 +0 nodes, 2 changed",
        "2 fuse-conv-relu  5      -2 +1 nodes             fuse-conv-relu/conv_relu x1",
        "3 nothing         5      no difference",
        "4 place-stubs     6      -0 +1 nodes, 1 changed  place-stubs/entry x1",
    ]


def test_blame_goes_from_the_source_line_to_the_node() -> None:
    chain = history().blame("conv_relu")
    assert [(o.node, o.source) for o in chain.origins] == [
        ("conv", "model.py:5"),
        ("relu", "model.py:6"),
    ]
    assert [(s.rule, s.before, s.after) for s in chain.steps] == [
        ("canonicalize", ("conv",), ("conv",)),
        ("canonicalize", ("relu",), ("relu",)),
        ("fuse-conv-relu/conv_relu", ("conv", "relu"), ("conv_relu",)),
    ]
    assert str(chain).splitlines()[1:] == [
        "  model.py:5                  captured %conv  torch.op  conv",
        "  model.py:6                  captured %relu  torch.op  relu",
        "  1 canonicalize              rewrote %conv",
        "  1 canonicalize              rewrote %relu",
        "  2 fuse-conv-relu/conv_relu  %conv, %relu -> %conv_relu",
    ]


def test_blame_without_events_follows_the_origins() -> None:
    stages = history()
    bare = History(Stage(s.index, s.name, s.snapshot) for s in stages)
    assert [(s.rule, s.before, s.after) for s in bare.blame("conv_relu").steps][2:] == [
        ("fuse-conv-relu", ("conv", "relu"), ("conv_relu",))
    ]


def test_blame_leaves_out_parameters_unless_asked_for_one() -> None:
    stages = history()
    events = (Event("p/fuse", ("relu", "conv_weight", "conv"), ("conv_relu", "conv_weight")),)
    rebuilt = History([*stages[:2], Stage(2, "fuse-conv-relu", stages[2].snapshot, events)])
    assert rebuilt.blame("conv_relu").steps[-1].before == ("conv", "relu")
    only = (Event("p/move", ("conv_weight",), ("conv_weight",)),)
    rebuilt = History([*stages[:2], Stage(2, "fuse-conv-relu", stages[2].snapshot, only)])
    assert [str(s) for s in rebuilt.blame("conv_weight").steps] == ["rewrote %conv_weight"]


def test_blame_of_an_inserted_node() -> None:
    chain = history().blame("stub")
    assert [str(s) for s in chain.steps] == ["inserted %stub"]
    assert chain.steps[0].rule == "place-stubs/entry"
    assert chain.origins == ()


def test_blame_of_a_node_that_is_gone() -> None:
    chain = history().blame("relu")
    assert chain.node.target == "relu"
    assert [s.stage for s in chain.steps] == ["canonicalize"]
    assert [(s.rule, s.before, s.after) for s in chain.later] == [
        ("fuse-conv-relu/conv_relu", ("relu",), ("conv_relu",))
    ]
    assert str(chain).splitlines()[-1] == "  2 fuse-conv-relu/conv_relu  %relu -> %conv_relu"


def test_blame_goes_on_without_events_and_to_the_end_of_a_node() -> None:
    stages = history()
    bare = History(Stage(s.index, s.name, s.snapshot) for s in stages)
    assert [str(s) for s in bare.blame("relu").later] == ["%relu -> %conv_relu"]
    events = (Event("p/drop", ("relu",), ()),)
    dropped = History([*stages[:2], Stage(2, "fuse-conv-relu", stages[2].snapshot, events)])
    assert [str(s) for s in dropped.blame("relu").later] == ["removed %relu"]
    two = (Event("p/one", ("relu",), ("t",)), Event("p/two", ("conv", "t"), ("conv_relu",)))
    rebuilt = History([*stages[:2], Stage(2, "fuse-conv-relu", stages[2].snapshot, two)])
    assert [str(s) for s in rebuilt.blame("relu").later] == ["%relu -> %t", "%t -> %conv_relu"]


def test_blame_takes_a_site_of_the_report() -> None:
    torch.manual_seed(0)  # a relu of zeros alone is a warning
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()))
    quantized = qfx.quantize(model.eval(), torch.randn(2, 4), backend="reference")
    relu = quantized.report.sites[1]
    assert relu.label == "0.1"
    chain = quantized.history.blame(relu.label)
    assert chain.origins[0].module_path == "0.1"
    assert "fuse-post-ops/fuse-activation" in str(chain)


def test_blame_of_an_unknown_node() -> None:
    with pytest.raises(ConfigError, match="no stage has a node called 'nope'"):
        history().blame("nope")


def test_blame_follows_intermediate_nodes_within_a_stage() -> None:
    stages = history()
    events = (
        Event("p/one", ("conv",), ("temporary",)),
        Event("p/two", ("temporary", "relu"), ("conv_relu",)),
    )
    rebuilt = History([*stages[:2], Stage(2, "fuse-conv-relu", stages[2].snapshot, events)])
    assert [(s.rule, s.before) for s in rebuilt.blame("conv_relu").steps][2:] == [
        ("p/one", ("conv",)),
        ("p/two", ("relu", "temporary")),
    ]


def test_dump_writes_every_stage_and_difference(tmp_path: Path) -> None:
    history().dump(tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert sorted(p.name for p in out.glob("*.txt")) == [
        "00-capture.txt", "01-canonicalize.txt", "02-fuse-conv-relu.txt", "03-nothing.txt",
        "04-place-stubs.txt",
    ]  # fmt: skip
    assert len(list(out.glob("*.json"))) == len(list(out.glob("*.dot"))) == 5
    diffs = sorted(p.name for p in (out / "diffs").iterdir())
    assert diffs == [
        "01-canonicalize.dot", "01-canonicalize.txt", "02-fuse-conv-relu.dot",
        "02-fuse-conv-relu.txt", "03-nothing.txt", "04-place-stubs.dot", "04-place-stubs.txt",
    ]  # fmt: skip
    assert "no difference" in (out / "diffs" / "03-nothing.txt").read_text()


def test_dump_is_deterministic_without_times_or_addresses(tmp_path: Path) -> None:
    history().dump(tmp_path / "a")
    history().dump(tmp_path / "b")
    for file in (tmp_path / "a").rglob("*.*"):
        text = file.read_bytes()
        assert text == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
        assert not re.search(rb"0x[0-9a-f]{6,}|0\.1234", text)


def test_large_history_is_cheap_in_records() -> None:
    b = Builder()
    y = b.input("x")
    for i in range(2000):
        y = b.call(vocab.RELU, y, name=f"relu{i}")
    gm = b.done(y)
    stages = History([Stage(0, "capture", snapshot(gm))])
    for index, node in enumerate(list(gm.graph.nodes)[1:12], start=1):
        meta.set_value(node, None)
        stages.append(Stage(index, "touch", snapshot(gm, previous=stages[-1].snapshot)))
    records = {id(r) for stage in stages for r in stage.snapshot}
    assert len(records) == 2002 + 11
