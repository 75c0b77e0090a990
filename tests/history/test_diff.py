from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx import vocab
from qfx.graph import meta
from qfx.graph.meta import TensorInfo
from qfx.history.align import longest_increasing
from qfx.history.diff import GraphDiff, diff
from qfx.history.snapshot import snapshot
from qfx.history.stage import Stage
from tests.history.views import F32, Builder


def chain(length: int, fuse: int | None = None) -> fx.GraphModule:
    """``length`` times conv and relu; the pair number ``fuse`` as one node."""
    b = Builder()
    y = b.input("x")
    weight = b.weight("w")
    for i in range(length):
        conv, relu, path = f"conv{i}", f"relu{i}", f"layers.{i}"
        if i == fuse:
            name, both = f"conv{i}_relu{i}", (conv, relu)
            post = (("relu",),)
            y = b.call(vocab.CONV2D, y, weight, name=name, origins=both, path=path, post=post)
            continue
        y = b.call(vocab.CONV2D, y, weight, name=conv, path=path)
        y = b.call(vocab.RELU, y, name=relu, path=path)
    return b.done(y)


def names(view: GraphDiff) -> tuple[tuple[str, ...], ...]:
    return view.added, view.removed, view.changed, view.moved


def test_equal_graphs_give_a_falsy_diff() -> None:
    found = diff(chain(3), copy.deepcopy(chain(3)))
    assert not found
    assert names(found) == ((), (), (), ())
    assert found.to_text() == "# before -> after   no difference\n"


def test_stages_of_two_histories_compare() -> None:
    stages = [Stage(0, "capture", snapshot(chain(n))) for n in (1, 2)]
    assert diff(*stages).added == diff(chain(1), chain(2)).added == ("conv1", "relu1")


def test_one_fused_node_in_a_large_graph_is_one_short_hunk() -> None:
    found = diff(snapshot(chain(250)), chain(250, fuse=100))
    assert names(found) == (("conv100_relu100",), ("conv100", "relu100"), (), ())
    assert found.to_text() == (
        "# before -> after   -2 +1 nodes\n"
        "@@ layers.100, lines 200-204 @@\n"
        "  %conv99          : f32[1,8,32,32] = conv2d(%relu98, @w)            # model.py:12\n"
        "  %relu99          : f32[1,8,32,32] = relu(%conv99)                  # model.py:12\n"
        "- %conv100         : f32[1,8,32,32] = conv2d(%relu99, @w)            # model.py:12\n"
        "- %relu100         : f32[1,8,32,32] = relu(%conv100)                 # model.py:12\n"
        "+ %conv100_relu100 : f32[1,8,32,32] = conv2d+relu(%relu99, @w)   "
        "    # from conv100, relu100  model.py:12\n"
        "  %conv101         : f32[1,8,32,32] = conv2d(%conv100_relu100, @w)   # model.py:12\n"
        "  %relu101         : f32[1,8,32,32] = relu(%conv101)                 # model.py:12\n"
    )


def test_fusion_under_the_old_name_is_a_change() -> None:
    b = Builder()
    post = (("relu",),)
    x, w = b.input("x"), b.weight("w")
    fused = b.done(
        b.call(vocab.CONV2D, x, w, name="conv0", origins=("conv0", "relu0"), path="l", post=post)
    )
    found = diff(chain(1), fused)
    assert names(found) == ((), ("relu0",), ("conv0",), ())
    marks = [line[:8] for line in found.to_text().splitlines()[2:]]
    assert marks == ["  %x    ", "- %conv0", "- %relu0", "+ %conv0", "  return"]


def test_removed_nodes_stand_before_their_heir_even_across_a_branch() -> None:
    def build(fused: bool) -> fx.GraphModule:
        b = Builder()
        x, w = b.input("x"), b.weight("w")
        post, both = (("relu",),), ("conv", "relu")
        if fused:
            side = b.call(vocab.TANH, x, name="side")
            y = b.call(vocab.CONV2D, x, w, name="conv_relu", origins=both, post=post)
        else:
            conv = b.call(vocab.CONV2D, x, w, name="conv")
            side = b.call(vocab.TANH, x, name="side")
            y = b.call(vocab.RELU, conv, name="relu")
        return b.done(b.call(vocab.ADD, y, side, name="add"))

    lines = diff(build(False), build(True)).to_text().splitlines()[2:]
    starts = [line.split(" : ")[0].rstrip() for line in lines]
    assert starts == [
        "  %x", "  %side", "- %conv", "- %relu", "+ %conv_relu", "  %add", "  return %add",
    ]  # fmt: skip


def test_inserted_node_and_its_reader() -> None:
    def build(stub: bool) -> fx.GraphModule:
        b = Builder()
        x = b.input("x")
        if stub:
            x = b.call(vocab.QUANT_STUB, x, name="stub", origins=())
        return b.done(b.call(vocab.RELU, x, name="relu"))

    assert names(diff(build(False), build(True))) == (("stub",), (), ("relu",), ())
    assert names(diff(build(True), build(False))) == ((), ("stub",), ("relu",), ())


def test_name_taken_by_something_else_is_not_the_same_node() -> None:
    def build(origin: str) -> fx.GraphModule:
        b = Builder()
        return b.done(b.call(vocab.RELU, b.input("x"), name="y", origins=(origin,), alpha=origin))

    found = diff(build("first"), build("second"))
    assert names(found)[:2] == (("y",), ("y",))


def test_sole_heir_under_a_new_name_is_a_change() -> None:
    def build(target: object, name: str) -> fx.GraphModule:
        b = Builder()
        y = b.call(target, b.input("x"), name=name, origins=("relu",))
        return b.done(b.call(vocab.TANH, y, name="tanh"))

    found = diff(build(torch.relu, "relu"), build(vocab.RELU, "relu_new"))
    assert names(found) == ((), (), ("relu_new",), ())
    assert found.renamed == {"relu_new": "relu"}
    was = found.was("relu_new")
    assert was is not None
    assert was.target == "torch.relu"


def test_graphs_without_provenance_align_by_content() -> None:
    class First(nn.Module):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return torch.tanh(torch.relu(x))

    gm = fx.symbolic_trace(First())
    other = fx.symbolic_trace(First())
    for node in other.graph.nodes:
        if node.op == "call_function":
            node.name = f"{node.name}_renamed"
    found = diff(gm, other)
    assert names(found) == ((), (), ("relu_renamed", "tanh_renamed"), ())
    assert found.renamed == {"relu_renamed": "relu", "tanh_renamed": "tanh"}


def test_moved_node_is_neither_added_nor_changed() -> None:
    def build(order: tuple[str, ...]) -> fx.GraphModule:
        b = Builder()
        x = b.input("x")
        made = {n: b.call(vocab.RELU, x, name=n) for n in order}
        return b.done(*(made[n] for n in sorted(order)))

    found = diff(build(("a", "b", "c", "d")), build(("b", "c", "a", "d")))
    assert names(found) == ((), (), (), ("a",))
    assert "> %a" in found.to_text()
    assert found.to_text().count("moved") == 2  # the summary and the line


def test_changed_value_alone_is_a_change() -> None:
    gm = chain(2)
    first = snapshot(gm)
    node = next(n for n in gm.graph.nodes if n.name == "relu0")
    meta.set_value(node, TensorInfo((2, 8, 32, 32), torch.float32))
    assert names(diff(first, gm)) == ((), (), ("relu0",), ())


def test_changed_provenance_alone_is_no_difference() -> None:
    gm = chain(2)
    first = snapshot(gm)
    node = next(n for n in gm.graph.nodes if n.name == "relu0")
    node.meta[meta.RULE] = "some/rule"
    assert not diff(first, gm)


def test_retargeted_parameter_is_shown() -> None:
    def build(path: str) -> fx.GraphModule:
        b = Builder()
        x, w = b.input("x"), b.weight(path)
        w.name = "w"
        return b.done(b.call(vocab.CONV2D, x, w, name="conv"))

    found = diff(build("old"), build("new"))
    assert found.changed == ("w",)
    assert "@old" in found.to_text()
    assert "@new" in found.to_text()


def test_distant_changes_make_two_hunks_and_near_ones_share_one() -> None:
    def touched(*which: str) -> str:
        gm = chain(10)
        first = snapshot(gm)
        for node in gm.graph.nodes:
            if node.name in which:
                node.kwargs = {"inplace": True}
        return diff(first, gm).to_text()

    assert touched("relu1", "relu8").count("@@ layers") == 2
    assert touched("relu1", "relu3").count("@@ layers") == 1
    assert touched("relu1", "relu4").count("@@ layers") == 2


def test_context_is_adjustable() -> None:
    found = diff(chain(9), chain(9, fuse=4))
    assert len(found.to_text(context=0).splitlines()) == 5
    assert len(found.to_text(context=99).splitlines()) == 2 + 9 * 2 + 3


def test_drawing_shows_the_neighbourhood_in_colour() -> None:
    found = diff(chain(50), chain(50, fuse=20))
    source = found.to_dot().source
    assert '"conv20 (removed)"' in source
    assert "conv20_relu20" in source
    assert "conv40" not in source
    assert "above conv" in source or "above relu" in source
    everything = found.to_dot(context=None).source
    assert "conv40" in everything
    assert "above " not in everything


def test_drawing_is_deterministic() -> None:
    first, second = (diff(chain(5), chain(5, fuse=2)) for _ in range(2))
    assert first.to_dot().source == second.to_dot().source


@pytest.mark.parametrize(
    ("values", "length"), [([], 0), ([1, 2, 3], 3), ([3, 2, 1], 1), ([2, 5, 3, 7, 1, 8], 4)]
)
def test_longest_increasing(values: list[int], length: int) -> None:
    chosen = [values[i] for i in sorted(longest_increasing(values))]
    assert len(chosen) == length
    assert chosen == sorted(chosen)


def test_new_parameters_are_no_heirs_and_count_apart() -> None:
    def build(fused: bool) -> fx.GraphModule:
        b = Builder()
        x = b.input("x")
        if fused:
            weight = b.weight("folded")
            meta.set_origins(weight, [meta.Origin(n, n, "", "") for n in ("conv", "bn")])
            y = b.call(vocab.CONV2D, x, weight, name="conv_bn", origins=("conv", "bn"))
        else:
            conv = b.call(vocab.CONV2D, x, b.weight("w"), name="conv")
            y = b.call(vocab.BATCH_NORM, conv, b.weight("m"), b.weight("v"), name="bn")
        return b.done(b.call(vocab.TANH, y, name="tanh"))

    found = diff(build(False), build(True))
    assert found.summary() == "-2 +1 nodes, -3 +1 parameters"
    assert found.replaced == {"conv": "conv_bn", "bn": "conv_bn"}
    assert found.changed == ()


def test_same_origin_with_another_type_is_another_node() -> None:
    def build(name: str, value: TensorInfo) -> fx.GraphModule:
        b = Builder()
        return b.done(b.call(vocab.RELU, b.input("x"), name=name, origins=("relu",), value=value))

    small = TensorInfo((3,), torch.float32)
    assert names(diff(build("a", F32), build("b", small)))[:2] == (("b",), ("a",))
    assert diff(build("a", small), build("b", small)).renamed == {"b": "a"}


def test_replacement_is_the_next_heir_in_the_flow() -> None:
    """Of several nodes of one operation, each new one takes the place of what stood there."""

    def build(wrapper: object) -> fx.GraphModule:
        b = Builder()
        y = b.input("x")
        for step in ("first", "second"):
            y = b.call(vocab.RELU, y, name=f"kept_{step}", origins=("attention",))
            name = f"{getattr(wrapper, 'name', '')}_{step}"
            y = b.call(wrapper, y, name=name, origins=("attention",))
        return b.done(y)

    found = diff(build(vocab.TANH), build(vocab.SIGMOID))
    assert found.replaced == {"tanh_first": "sigmoid_first", "tanh_second": "sigmoid_second"}


def test_live_models_are_compared_by_what_they_hold() -> None:
    def built(*weights: Tensor) -> fx.GraphModule:
        graph = fx.Graph()
        x = graph.placeholder("x")
        for name in "ab":
            x = graph.call_function(torch.mul, (x, graph.get_attr(name)))
        graph.output(x)
        return fx.GraphModule(
            {n: nn.Parameter(w) for n, w in zip("ab", weights, strict=True)}, graph
        )

    plain, nan = torch.tensor([1.0, 2.0]), torch.tensor([float("nan"), 0.0])
    one = built(plain, nan)
    assert not diff(one, built(plain.clone(), nan.clone()))
    found = diff(one, built(torch.tensor([1.0, 3.0]), torch.zeros(1, 2)))
    assert found
    assert found.weights == (("a", "1 of 2 values"), ("b", "f32[2] -> f32[1,2]"))
    assert found.summary().endswith("2 weights differ")
    assert "\n# @a: 1 of 2 values\n# @b: f32[2] -> f32[1,2]\n" in found.to_text()
    assert not diff(snapshot(one), snapshot(built(plain + 1, nan)))  # these hold no tensors


def test_constants_read_in_one_place_are_compared_whatever_they_are_called() -> None:
    def built(name: str, value: Tensor) -> fx.GraphModule:
        graph = fx.Graph()
        graph.output(graph.call_function(torch.mul, (graph.placeholder("x"), graph.get_attr(name))))
        return fx.GraphModule({name: nn.Parameter(value)}, graph)

    one = built("bias", torch.ones(2))
    found = diff(one, built("bias_1", torch.tensor([1.0, 3.0])))
    assert found.weights == (("bias -> bias_1", "1 of 2 values"),)
    assert diff(one, built("bias_1", torch.ones(2))).weights == ()


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "reference"])
def test_what_kernels_have_packed_is_compared(backend: str) -> None:
    """Weights whose every row has the values of before in another order: all scales are alike."""
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(4, 4)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other[0].weight.copy_(layer[0].weight.flip(1))
    mine, theirs = (qfx.quantize(net, x, backend=backend, effort="fast") for net in (layer, other))
    (weight,) = diff(mine, theirs).weights
    assert weight.name.replace(".", "_") == "0_weight_q"
    assert weight.how.endswith(" of 16 values")
    assert not diff(mine, copy.deepcopy(mine))
