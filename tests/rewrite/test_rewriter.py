import pytest
import torch
from torch import nn

from qfx import vocab
from qfx.errors import PatternError
from qfx.graph import meta
from qfx.history.events import Event
from qfx.rewrite import Rewriter
from tests.rewrite.graphs import GraphBuilder, text


def test_replacement_takes_name_value_and_origin() -> None:
    b = GraphBuilder()
    relu = b.relu(b.input())
    relu.meta["stack_trace"] = 'File "model.py", line 7'
    gm = b.done(relu)
    rw = Rewriter(gm, pass_name="p")
    with rw.at(relu):
        new = rw.call(vocab.TANH, relu.args[0], origins=(relu,))
    rw.replace(relu, new)
    assert new.name == "relu"
    assert meta.origins(new) == (meta.Origin("relu", "relu", "model.py:7", "written"),)
    assert meta.tensor_info(new) == meta.TensorInfo((1, 4), torch.float32)
    assert meta.rule_of(new) == "p"
    assert new.meta["stack_trace"] == 'File "model.py", line 7'
    assert rw.events == [Event("p", ("relu",), ("relu",), "model.py:7")]
    gm.recompile()
    assert torch.equal(gm(torch.ones(1)), torch.tanh(torch.ones(1)))


def test_wrapping_keeps_reading_the_old_node() -> None:
    b = GraphBuilder()
    relu = b.relu(b.input())
    gm = b.done(b.tanh(relu))
    rw = Rewriter(gm, pass_name="p")
    with rw.at(relu.next):
        wrapped = rw.call(vocab.CLONE, rw.call(vocab.CONTIGUOUS, relu, origins=(relu,)))
    rw.replace(relu, wrapped)
    assert (
        text(gm)
        == """\
%x = input
%relu = relu(%x)
%relu_1 = contiguous(%relu)
%clone = clone(%relu_1)
%tanh = tanh(%clone)
return %tanh"""
    )


def test_dead_inputs_go_too_but_not_effects() -> None:
    b = GraphBuilder()
    x = b.input()
    kept = b.method("add_", x, 1)
    dead = b.relu(b.mul(kept, b.attr("w", torch.ones(4))))
    gm = b.done(dead)
    rw = Rewriter(gm, pass_name="p")
    rw.replace(dead, x)
    rw.finish()
    assert text(gm) == "%x = input\n%add_ = .add_(%x, 1)\nreturn %x"
    assert dict(gm.named_parameters()) == {}


def test_default_attributes_are_left_out() -> None:
    b = GraphBuilder()
    x = b.input()
    gm = b.done(x)
    rw = Rewriter(gm, pass_name="p")
    node = rw.call(vocab.LEAKY_RELU, x, negative_slope=0.01)
    other = rw.call(vocab.LEAKY_RELU, x, negative_slope=0.2)
    assert node.kwargs == {}
    assert other.kwargs == {"negative_slope": 0.2}
    assert node.next is other
    assert other.next.op == "output"


def test_value_belongs_to_the_operation_that_has_one() -> None:
    b = GraphBuilder()
    x = b.input()
    rw = Rewriter(b.done(x), pass_name="p")
    assert rw.call(vocab.PAD, x, pad=(1, 1), value=2.0).kwargs["value"] == 2.0
    info = meta.TensorInfo((2,), torch.uint8)
    assert meta.value_of(rw.call(vocab.RELU, x, value=info)) == info


def test_with_args_copies() -> None:
    b = GraphBuilder()
    x, y = b.input("x"), b.input("y")
    node = b.leaky_relu(x, negative_slope=0.2)
    rw = Rewriter(b.done(node), pass_name="p")
    with rw.at(node):
        copied = rw.with_args(node, y)
    assert copied.args == (y,)
    assert copied.kwargs == {"negative_slope": 0.2}
    assert meta.origins(copied) == meta.origins(node)


def test_constants_never_overwrite() -> None:
    b = GraphBuilder()
    weight = b.attr("w", torch.ones(4))
    gm = b.done(b.mul(b.input(), weight))
    rw = Rewriter(gm, pass_name="p")
    first = rw.constant("w", torch.zeros(4))
    second = rw.constant("w", torch.zeros(2), trainable=True)
    nested = rw.constant("layer.0.weight", torch.zeros(3))
    assert [n.target for n in (first, second, nested)] == ["w_1", "w_2", "layer.0.weight"]
    assert torch.equal(rw.tensor(weight), torch.ones(4))
    assert set(dict(gm.named_buffers())) == {"w_1", "layer.0.weight"}
    assert set(dict(gm.named_parameters())) == {"w", "w_2"}
    assert meta.value_of(nested) == meta.TensorInfo((3,), torch.float32)


def test_what_is_renamed_is_the_same_object() -> None:
    b = GraphBuilder()
    part = b.owner.part = nn.Linear(4, 4)  # type: ignore[assignment]
    deep, taken = b._known(b.graph.get_attr("part.bias")), b.attr("part_bias", torch.zeros(4))
    gm = b.done(b.mul(deep, taken))
    rw = Rewriter(gm, pass_name="p")
    rw.retarget(deep, rw.rename("part.bias", "part_bias"))
    rw.finish()
    assert (deep.target, taken.target) == ("part_bias_", "part_bias")
    assert gm.part_bias_ is part.bias
    assert [name for name, _ in gm.named_parameters()] == ["part_bias", "part_bias_"]
    assert rw.events == [Event("p", (), (), "model.py:7", (deep.name,))]


def test_modules_and_objects() -> None:
    b = GraphBuilder()
    x = b.input()
    gm = b.done(x)
    rw = Rewriter(gm, pass_name="p")
    node = rw.call_module("observer", nn.Identity(), x)
    assert isinstance(rw.module(node), nn.Identity)
    assert rw.attach("packed", {"any": "object"}) == "packed"
    assert gm.packed == {"any": "object"}
    with pytest.raises(PatternError, match="is no parameter or constant"):
        rw.tensor(x)


def test_finish_drops_what_nothing_uses() -> None:
    shared = nn.Linear(4, 4)
    b = GraphBuilder()
    b.owner.alias = shared
    kept = b.module("kept", shared, b.input())
    gone = b.module("gone", nn.Sequential(nn.ReLU()), kept)
    gm = b.done(gone)
    rw = Rewriter(gm, pass_name="p")
    rw.replace(gone, kept)
    rw.finish()
    assert [name for name, _ in gm.named_modules()] == ["", "kept"]
    assert set(dict(gm.named_parameters())) == {"kept.weight", "kept.bias"}


def test_finish_keeps_what_is_reached_by_another_path() -> None:
    b = GraphBuilder()
    owner = nn.Linear(4, 4, bias=False)
    b.owner.first = b.owner.second = owner
    gm = b.done(b.linear(b.input(), b._known(b.graph.get_attr("first.weight"))))
    Rewriter(gm, pass_name="p").finish()
    assert torch.equal(gm.first.weight, owner.weight)


def test_erase_refuses_what_is_read() -> None:
    b = GraphBuilder()
    relu = b.relu(b.input())
    rw = Rewriter(b.done(b.tanh(relu)), pass_name="p")
    with pytest.raises(PatternError, match=r"cannot erase relu .*still read by %tanh"):
        rw.erase(relu)


def test_erase_twice_is_harmless() -> None:
    b = GraphBuilder()
    x = b.input()
    dead = b.tanh(b.relu(x))
    gm = b.done(x)
    rw = Rewriter(gm, pass_name="p")
    rw.erase(dead)
    rw.erase(dead)
    assert text(gm) == "%x = input\nreturn %x"
    assert rw.events == [Event("p", ("tanh", "relu"), (), "model.py:7")]


def test_no_creation_before_an_erased_node() -> None:
    b = GraphBuilder()
    x = b.input()
    relu = b.relu(x)
    rw = Rewriter(b.done(relu), pass_name="p")
    with rw.at(relu):
        rw.replace(relu, x)
        with pytest.raises(PatternError, match="relu, before which nodes are to be made, is er"):
            rw.call(vocab.TANH, x)


def test_nothing_replaces_itself() -> None:
    b = GraphBuilder()
    relu = b.relu(b.input())
    rw = Rewriter(b.done(relu), pass_name="p")
    with pytest.raises(PatternError, match="cannot replace itself"):
        rw.replace(relu, relu)


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (("conv1", "relu"), "conv1_relu"),
        (("layer1_0_conv1", "layer1_0_bn1"), "layer1_0_conv1_bn1"),
        (("conv", "conv_1"), "conv_conv_1"),
        (("features_1", "features_10"), "features_1_10"),
    ],
)
def test_fused_nodes_are_named_after_what_they_fuse(names: tuple[str, str], joined: str) -> None:
    b = GraphBuilder()
    x = b.input()
    first, second = (
        b._known(b.graph.create_node("call_function", vocab.RELU, (x,), name=n)) for n in names
    )
    rw = Rewriter(b.done(second), pass_name="p")
    assert rw.call(vocab.TANH, x, origins=(first, second)).name == joined
