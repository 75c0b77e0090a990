"""Sizes stay symbolic, decisions are guarded, and what can't be captured is an error."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from qfx import vocab
from qfx.capture.capture import capture
from qfx.errors import CaptureError, ConfigError
from qfx.graph import meta
from tests.capture.nets import Block, Lambda, Net, image, traced


def guards(graph_module: fx.GraphModule) -> list[Any]:
    return [n.kwargs["expected"] for n in graph_module.graph.nodes if n.target is vocab.GUARD]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.view(x.shape[0], -1),
        lambda m, x: x.flatten(x.ndim - 1),
        lambda m, x: x.reshape([1] * x.dim() + [-1]),
        lambda m, x: x + torch.zeros(x.size(0), 1, 1, dtype=x.dtype, device=x.device),
        lambda m, x: torch.roll(x, (x.shape[0] // 2, 1), (0, 1)),
    ],
)
def test_sizes_stay_symbolic(function: Callable[..., Any]) -> None:
    graph_module = traced(function, image(2, 3, 4))
    assert not guards(graph_module)
    x = image(5, 6, 7)
    assert torch.equal(graph_module(x), function(None, x))


def test_spreading_a_shape_fixes_ranks_only() -> None:
    graph_module = traced(lambda m, x: x.new_zeros(*x.shape[:2]) + x.sum((2,)), image(2, 3, 4))
    x = image(5, 6, 7)
    assert torch.equal(graph_module(x), x.sum((2,)))
    with pytest.raises(ConfigError, match="the number of dimensions of x = 3"):
        graph_module(image(2, 3, 4, 5))


def branch(m: object, x: Tensor) -> Tensor:
    if x.shape[0] > 1:
        return x + 1
    return x - 1


def test_a_branch_on_a_size_holds_on_its_side() -> None:
    graph_module = traced(branch, image(2, 3))
    assert torch.equal(graph_module(image(4, 3)), image(4, 3) + 1)
    with pytest.raises(ConfigError, match=r"a branch at .*test_decisions.py:\d+ = True"):
        graph_module(image(1, 3))


def test_a_loop_over_a_size_holds_for_that_size() -> None:
    graph_module = traced(lambda m, x: sum(x[:, i] for i in range(x.shape[1])), image(2, 3))
    assert torch.equal(graph_module(image(5, 3)), sum(image(5, 3)[:, i] for i in range(3)))
    with pytest.raises(ConfigError, match=r"= 3, but these inputs make it 4"):
        graph_module(image(5, 4))


def test_a_loop_over_chunks_is_guarded_and_unpacking_is_not() -> None:
    assert guards(traced(lambda m, x: sum(x.unbind(1)), image(2, 3))) == [3]

    def unpack(m: object, x: Tensor) -> Tensor:
        a, b = x.chunk(2)
        return a + b

    assert not guards(traced(unpack, image(2, 3)))


def test_parameters_decide_without_a_guard() -> None:
    linear = nn.Linear(3, 3)
    graph_module = traced(lambda m, x: x if m.l.bias.sum() > 1e9 else m.l(x), image(2, 3), l=linear)
    assert not guards(graph_module)


def test_isinstance_sees_tensors_and_numbers() -> None:
    def check(m: object, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        assert isinstance(x.shape[0], int)
        return x + 1

    assert torch.equal(traced(check, image(2))(image(2)), image(2) + 1)
    assert "isinstance" not in globals()


def test_a_decision_that_tracing_cannot_see_is_noticed() -> None:
    with pytest.raises(CaptureError, match="does not compute what the model computes"):
        traced(lambda m, x: x + 1 if builtins.isinstance(x, Tensor) else x - 1, image(2))


def test_a_model_that_is_random_by_itself_is_no_reason_to_fail() -> None:
    numbers = iter(range(1, 100))
    graph_module = traced(lambda m, x: x * next(numbers), image(2))
    x = image(2)
    assert torch.equal(graph_module(x), graph_module(x))  # one number was recorded


def test_functions_that_take_numbers_or_tensors_take_proxies() -> None:
    graph_module = traced(lambda m, x: torch.pow(x, 3.0) + torch.pow(2.0, x), image(2))
    assert torch.equal(graph_module(image(2)), torch.pow(image(2), 3.0) + torch.pow(2.0, image(2)))


def data_branch(m: object, x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("function", "construct"),
    [
        (data_branch, "a branch that depends on the contents of a tensor"),
        (lambda m, x: x * sum(1 for _ in x.max().item()), "iteration over a float"),
        (lambda m, x: x * "12"[int(x.sum() > 9)], "an integer of Python that depends"),
        (lambda m, x: x * {0.0: 1}.get(float(x.sum()), 2), "a key that depends on the contents"),
        (lambda m, x: x * len(f"{x.sum()}"), "a text that depends on the contents"),
        (lambda m, x: sum(range(x.argmax().item())) + x, "an integer of Python that depends"),
        (lambda m, x: x + object(), "a object where a graph holds only tensors"),
        (lambda m, x: x + m.layers[0].weight, "a parameter that is not registered"),
    ],
)
def test_what_a_graph_cannot_hold(function: Callable[..., Any], construct: str) -> None:
    place = r"module 'child' \(.*test_decisions.py:\d+\): "
    child = Lambda(function, layers=[nn.Linear(1, 1)])
    with pytest.raises(CaptureError, match=f"{place}{construct}[^\n]*can't be captured") as caught:
        traced(lambda m, x: m.child(x), image(3), child=child)
    assert "What to do: " in str(caught.value)


def test_what_tracing_alone_breaks_is_a_capture_error() -> None:
    def numpy(m: object, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().copy())

    with pytest.raises(CaptureError, match=r"the model \(.*test_decisions.py:\d+\): this can't be"):
        traced(numpy, image(3))


def test_what_the_model_itself_raises_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        capture(Net().eval(), (image(2, 5, 8, 8),))
    text = str(caught.value)
    assert "module 'block.conv' (" in text
    assert "nets.py:" in text
    assert "Conv2d(x: float32[2, 5, 8, 8])" in text


def test_an_error_in_plain_python_of_the_model() -> None:
    def fails(m: object, x: Tensor) -> Tensor:
        raise KeyError("no such thing")

    with pytest.raises(ConfigError, match=r"the model itself raises.*no such thing"):
        traced(fails, image(3))


@pytest.mark.parametrize("negate", [False, True])
def test_an_untraceable_child_can_be_kept_whole(negate: bool) -> None:
    child = Lambda(data_branch)
    model = nn.Sequential(nn.Linear(3, 3), child, nn.Linear(3, 3)).eval()
    graph_module = capture(model, (image(2, 3),), keep_untraceable=True)
    names = [n.name for n in graph_module.graph.nodes]
    assert names == ["input_1", "_0", "_1", "_2", "output"]
    kept = next(n for n in graph_module.graph.nodes if n.name == "_1")
    assert "a branch that depends on the contents of a tensor" in meta.note_of(kept)
    x = -image(2, 3) if negate else image(2, 3)
    assert torch.equal(graph_module(x), model(x))


def test_leaves_of_ones_own() -> None:
    model = nn.Sequential(Block(), nn.ReLU()).eval()
    kept = capture(model, (image(1, 3, 4, 4),), leaf=lambda module, path: path == "0")
    assert [n.name for n in kept.graph.nodes] == ["input_1", "_0", "_1", "output"]
