from __future__ import annotations

import copy
import gc
import json
import subprocess
import sys
import weakref
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx import vocab
from qfx.errors import ConfigError
from qfx.graph import meta
from qfx.graph.meta import TensorInfo
from qfx.graph.text import dtype_text, literal, target_name
from qfx.history.diff import diff
from qfx.history.listing import resolve
from qfx.history.snapshot import Snapshot, snapshot
from tests.history.views import F32, Builder


def fused() -> fx.GraphModule:
    b = Builder()
    x = b.input("x", TensorInfo((1, 3, 32, 32), torch.float32))
    conv = b.call(
        vocab.CONV2D, x, b.weight("conv1.weight"), b.weight("conv1.bias"),
        name="conv1_relu", origins=("conv1", "relu"), post=(("relu",),), stride=(2, 2),
    )  # fmt: skip
    return b.done(conv)


class Plain(nn.Module):
    """Everything fx writes, without any meta of qfx."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x, input=None, *, k=2):  # type: ignore[no-untyped-def]
        y = F.relu(self.fc(x)) * self.scale
        first, second = y.chunk(2, dim=1)
        return {"sum": torch.add(first, second[:, 0:2, ...]), "w": self.scale}, y.shape[0]


def test_text_of_a_fused_node_reads_as_documented() -> None:
    assert snapshot(fused()).to_text() == (
        "%x          : f32[1,3,32,32] = input\n"
        "%conv1_relu : f32[1,8,32,32] = "
        "conv2d+relu(%x, @conv1.weight, @conv1.bias, stride=(2, 2))"
        "   # from conv1, relu  model.py:12\n"
        "return %conv1_relu\n"
    )


def test_text_without_provenance() -> None:
    assert "#" not in snapshot(fused()).to_text(provenance=False)


def test_any_fx_graph_has_a_text() -> None:
    assert snapshot(fx.symbolic_trace(Plain())).to_text() == (
        "%x         = input\n"
        "%input_1   = input('input', default=None)\n"
        "%k         = input(default=2)\n"
        "%fc        = Linear[@fc](%x)\n"
        "%relu      = F.relu(%fc, inplace=False)\n"
        "%scale     = @scale\n"
        "%mul       = operator.mul(%relu, @scale)\n"
        "%chunk     = .chunk(%mul, 2, dim=1)\n"
        "%getitem   = operator.getitem(%chunk, 0)\n"
        "%getitem_1 = operator.getitem(%chunk, 1)\n"
        "%getitem_2 = operator.getitem(%getitem_1, (:, 0:2, ...))\n"
        "%add       = torch.add(%getitem, %getitem_2)\n"
        "%getattr_1 = getattr(%mul, 'shape')\n"
        "%getitem_3 = operator.getitem(%getattr_1, 0)\n"
        "return ({'sum': %add, 'w': %scale}, %getitem_3)\n"
    )


def test_parameter_is_inlined_unless_returned_or_dead() -> None:
    b = Builder()
    x = b.input("x")
    read, dead = b.weight("read"), b.weight("dead")
    text = snapshot(b.done(b.call(vocab.MUL, x, read, name="y"))).to_text()
    assert "%read" not in text
    assert f"%{dead.name} = @dead" in " ".join(text.split())


def test_post_operands_are_printed_and_read() -> None:
    b = Builder()
    x = b.input("x")
    w = b.weight("w")
    post = (("clamp", 0.0, 6.0), ("add", x), ("relu",), ("add", x))
    view = snapshot(b.done(b.call(vocab.CONV2D, x, w, name="y", post=post, groups=2)))
    assert view["y"].target == "conv2d+clamp+add+relu+add"
    assert view["y"].args == "%x, %w, groups=2, clamp=(0.0, 6.0), add=%x, add_3=%x"
    assert view["y"].inputs == ("x", "w", "x", "x")


def test_attributes_follow_the_signature_whatever_their_order() -> None:
    def one(**attributes: object) -> str:
        b = Builder()
        return snapshot(
            b.done(b.call(vocab.CONV2D, b.input("x"), b.weight("w"), name="y", **attributes))
        )["y"].args

    assert one(groups=2, stride=(2, 2)) == one(stride=(2, 2), groups=2)


def test_nested_values_and_queries() -> None:
    b = Builder()
    x = b.input("x")
    chunk = b.call(vocab.CHUNK, x, name="chunk", chunks=2, value=(F32, None))
    size = b.call(vocab.SIZE, x, name="size", value=None)
    view = snapshot(b.done(chunk, size))
    assert view["chunk"].type_text == "(f32[1,8,32,32], _)"
    assert view["size"].type_text == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1.0"), (True, "True"), (None, "None"), (float("inf"), "inf"),
        ("a%b", "'a%%b'"), ((1,), "(1,)"), ([1, 2], "[1, 2]"), (torch.Size([1, 2]), "(1, 2)"),
        ({"k": slice(None, 2, 3)}, "{'k': :2:3}"), (..., "..."), (torch.uint8, "u8"),
        (torch.channels_last, "channels_last"), (torch.device("cpu"), "cpu"),
        (torch.zeros(2, 3), "tensor(f32[2,3])"), ({3, 1, 2}, "{1, 2, 3}"),
        (range(3), "range(0, 3)"),
        (vocab.Kind.POOL, "Kind.POOL"), (F32, "TensorInfo(shape=(1, 8, 32, 32), dtype=f32)"),
        (object(), "object"), (torch.relu, "torch.relu"), (F.max_pool2d, "F.max_pool2d"),
    ],
)  # fmt: skip
def test_literals_are_short_and_without_addresses(value: object, text: str) -> None:
    assert literal(value) == text


def test_percent_signs_in_strings_are_no_references() -> None:
    b = Builder()
    x = b.input("x")
    record = snapshot(b.done(b.call(torch.einsum, "%x %%", x, name="y")))["y"]
    assert record.inputs == ("x",)
    assert resolve(record.args, {}) == "'%x %%', %x"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (torch.add, "torch.add"), (F.relu, "F.relu"), (F.linear, "F.linear"), (len, "len"),
        (torch.ops.aten.add.Tensor, "aten.add.Tensor"), (torch.Tensor.add, "Tensor.add"),
        (vocab.CONV2D, "conv2d"),
    ],
)  # fmt: skip
def test_function_names(target: object, name: str) -> None:
    assert target_name(target) == name


def test_dtypes_have_short_names() -> None:
    assert [dtype_text(d) for d in (torch.bfloat16, torch.int8, torch.bool)] == [
        "bf16",
        "i8",
        "bool",
    ]


def test_unchanged_graph_gives_back_the_previous_snapshot() -> None:
    gm = fused()
    first = snapshot(gm)
    assert snapshot(gm, previous=first) is first


def test_only_changed_nodes_get_new_records() -> None:
    gm = fused()
    first = snapshot(gm)
    node = next(n for n in gm.graph.nodes if n.name == "conv1_relu")
    node.kwargs = {**node.kwargs, "stride": (1, 1)}
    second = snapshot(gm, previous=first)
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, True, True, False, True]
    assert second.digest != first.digest
    assert second["conv1_relu"].args.endswith("stride=(1, 1)")


@pytest.mark.parametrize("change", ["int-to-bool", "value", "rule", "target", "operand"])
def test_every_kind_of_change_is_seen(change: str) -> None:
    b = Builder()
    x, z = b.input("x"), b.input("z")
    node = b.call(vocab.SOFTMAX, x, name="y", dim=1)
    gm = b.done(node, z)
    first = snapshot(gm)
    if change == "int-to-bool":
        node.kwargs = {"dim": True}
    elif change == "value":
        meta.set_value(node, TensorInfo((2,), torch.float32))
    elif change == "rule":
        node.meta[meta.RULE] = "some-pass/rule"
    elif change == "target":
        node.target = vocab.LOG_SOFTMAX
    else:
        node.args = (z,)
    second = snapshot(gm, previous=first)
    assert second is not first
    assert second["y"] is not first["y"]
    # Provenance is no part of the program.
    assert (second.digest == first.digest) == (change == "rule")


@pytest.mark.parametrize("seed", range(8))
def test_interned_snapshots_equal_fresh_ones(seed: int) -> None:
    """Whatever is done to a graph, reusing records never shows an old state."""
    random = Random(seed)
    b = Builder()
    nodes = [b.input("x")]
    for i in range(30):
        nodes.append(b.call(vocab.ADD, random.choice(nodes), random.choice(nodes), name=f"n{i}"))
    gm = b.done(nodes[-1])
    view = snapshot(gm)
    for _ in range(20):
        position = random.randrange(1, len(nodes))
        node = nodes[position]
        match random.randrange(5):
            case 0:
                node.args = (random.choice(nodes[:position]), random.choice([1, 1.0, True, "x"]))
            case 1:
                node.kwargs = {"alpha": random.choice([2, 2.0, [2], (2,)])}
            case 2:
                node.target = random.choice([vocab.ADD, vocab.SUB, torch.add])
            case 3:
                node.name = f"m{random.randrange(1000)}"
            case _:
                meta.set_value(node, TensorInfo((random.randrange(3),), torch.float32))
        view, fresh = snapshot(gm, previous=view), snapshot(gm)
        assert view.digest == fresh.digest
        assert view.to_text() == fresh.to_text()
        assert bool(diff(view, fresh)) is False


def test_module_replaced_under_its_name_is_seen() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    first = snapshot(gm)
    gm.set_submodule("0", nn.Tanh())
    second = snapshot(gm, previous=first)
    assert (first["_0"].target, second["_0"].target) == ("ReLU", "Tanh")


def test_missing_module_is_shown_not_raised() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    gm.delete_submodule("0")
    assert snapshot(gm)["_0"].target == "?"


def test_values_in_lists_are_copied() -> None:
    b = Builder()
    value: list[meta.Value] = [F32]
    gm = b.done(b.call(vocab.CHUNK, b.input("x"), name="y", chunks=1, value=value))
    view = snapshot(gm)
    value.append(F32)
    assert view["y"].type_text == "[f32[1,8,32,32]]"


def test_snapshot_keeps_no_node_module_or_tensor_alive() -> None:
    gm = fx.symbolic_trace(Plain())
    alive = [weakref.ref(gm.fc), weakref.ref(gm.scale), weakref.ref(gm.graph)]
    view = snapshot(gm)
    del gm
    gc.collect()
    assert [ref() for ref in alive] == [None, None, None]
    assert len(view) == 15


def test_snapshot_cannot_be_changed_and_copies_to_itself() -> None:
    view = snapshot(fused())
    with pytest.raises(AttributeError):
        view.region = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        view["x"].name = "y"  # type: ignore[misc]
    assert copy.deepcopy(view) is view
    assert copy.copy(view) is view


def test_lookup_of_an_unknown_node_names_it() -> None:
    view = snapshot(fused())
    assert "x" in view
    assert "nope" not in view
    with pytest.raises(ConfigError, match="no node called 'nope' in this snapshot of 5 nodes"):
        view["nope"]


def test_equality_is_of_the_program() -> None:
    assert snapshot(fused()) == snapshot(fused())
    assert hash(snapshot(fused())) == hash(snapshot(fused()))
    assert snapshot(fused()) != snapshot(fused(), region="other")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):  # type: ignore[no-untyped-def]
        return F.relu(self.fc(x)) * self.scale


def test_around_marks_the_node() -> None:
    view = snapshot(fx.symbolic_trace(Scaled()))
    assert view.around("relu", context=1) == (
        "  %fc   = Linear[@fc](%x)\n"
        "> %relu = F.relu(%fc, inplace=False)\n"
        "  %mul  = operator.mul(%relu, @scale)\n"
    )
    assert "> %conv1_weight" in snapshot(fused()).around("conv1_weight")


def test_json_is_complete_and_loads() -> None:
    view = snapshot(fused())
    loaded = json.loads(view.to_json())
    assert (loaded["region"], loaded["digest"]) == ("main", view.digest)
    assert [n["name"] for n in loaded["nodes"]] == [r.name for r in view]
    node = loaded["nodes"][3]
    assert node["inputs"] == ["x", "conv1_weight", "conv1_bias"]
    assert node["users"] == ["output"]
    assert node["value"] == {"shape": [1, 8, 32, 32], "dtype": "float32"}
    assert [o["node"] for o in node["origins"]] == ["conv1", "relu"]


def test_networkx_has_an_edge_per_use() -> None:
    b = Builder()
    x = b.input("x")
    graph = snapshot(b.done(b.call(vocab.ADD, x, x, name="y"))).to_networkx()
    assert graph.number_of_edges("x", "y") == 2
    assert list(graph.edges(keys=True)) == [("x", "y", 0), ("x", "y", 1), ("y", "output", 0)]
    assert graph.nodes["y"]["type"] == "f32[1,8,32,32]"


def test_foreign_graph_shows_its_shapes_and_lines() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 2)), (torch.zeros(3, 4),)).module()
    view = snapshot(exported)
    linear = next(r for r in view if "linear" in r.target)
    assert linear.value == TensorInfo((3, 2), torch.float32)
    assert linear.source.startswith("linear.py:")
    assert snapshot(exported, previous=view) is view


def test_symbolic_sizes_are_left_alone() -> None:
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        nn.Linear(4, 2), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},)
    )
    linear = next(r for r in snapshot(exported.module()) if "linear" in r.target)
    assert linear.value is None


_SCRIPT = """
import sys, torch
libraries = {"networkx", "graphviz"}
before = libraries & {*sys.modules}
from qfx.history.history import History
assert libraries & {*sys.modules} == before, "drawing libraries are imported on use only"
from tests.history.test_snapshot import fused
from qfx.history.snapshot import snapshot
view = snapshot(fused())
print(view.to_text() + view.to_json() + view.to_dot().source, end="")
"""


@pytest.mark.slow
def test_another_process_gives_the_same_text_json_and_dot() -> None:
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, env=env
    )
    view = snapshot(fused())
    assert done.stdout == view.to_text() + view.to_json() + view.to_dot().source


def test_empty_snapshot() -> None:
    view = Snapshot(())
    assert view.to_text() == ""
    assert json.loads(view.to_json())["nodes"] == []
    assert "digraph" in view.to_dot().source
