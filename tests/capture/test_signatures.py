"""Signatures, arguments and results of a capture are those of the model."""

from __future__ import annotations

import copy
import inspect
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import capture
from qfx.errors import ConfigError
from qfx.graph.clone import clone_graph_module
from tests.capture.nets import image, traced


class Signature(nn.Module):
    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, mode: str = "add"
    ) -> Tensor:
        x = x * scale
        if mask is not None:
            x = x * mask
        return x + 1 if mode == "add" else x


def test_signature_keeps_names_and_defaults() -> None:
    graph_module = capture(Signature(), (image(3),))
    parameters = inspect.signature(graph_module.forward).parameters
    assert list(parameters) == ["x", "mask", "scale", "mode"]
    assert [p.default for p in parameters.values()][1:] == [None, 2.0, "add"]


def test_signature_keeps_keyword_only_parameters() -> None:
    graph_module = capture(Signature(), (image(3),))
    for same in (graph_module, clone_graph_module(graph_module), copy.deepcopy(graph_module)):
        parameters = inspect.signature(same.forward).parameters
        assert [p.kind.name for p in parameters.values()][2:] == [
            "POSITIONAL_OR_KEYWORD",
            "KEYWORD_ONLY",
        ]
    with pytest.raises(TypeError, match="positional arguments"):
        graph_module(image(3), None, 2.0, "add")


class Needed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: float = 1.0, *, mask: Tensor, z: float = 2.0) -> Tensor:
        return self.linear(x) * y * mask + z


def test_a_keyword_only_parameter_without_default() -> None:
    model, kwargs = Needed().eval(), {"mask": torch.ones(3)}
    qmodel = qfx.quantize(model, image(2, 3), example_kwargs=kwargs, backend="reference")
    assert str(inspect.signature(qmodel.forward)) == "(x, y=1.0, *, mask, z=2.0)"
    close = {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(qmodel(image(2, 3), **kwargs), model(image(2, 3), **kwargs), **close)
    with pytest.raises(TypeError, match="mask"):
        qmodel(image(2, 3))
    data = [{"x": image(2, 3), "mask": torch.ones(3), "z": 3.0}]
    assert qfx.compare(model, qmodel, data).sites


def test_variadic_parameters_need_no_star_of_their_own() -> None:
    class Variadic(nn.Module):
        def forward(self, *xs: Tensor, scale: float = 2.0) -> Tensor:
            return (xs[0] + xs[1]) * scale

    graph_module = capture(Variadic(), (image(3), image(3)))
    assert str(inspect.signature(graph_module.forward)) == "(*xs, scale=2.0)"


@pytest.mark.parametrize(
    "asked",
    [
        lambda x: x.is_contiguous(),
        lambda x: x.stride(1) == 36,
        lambda x: x.stride()[0] == x.shape[1] * 36,
        lambda x: not x.is_contiguous(memory_format=torch.channels_last),
        lambda x: x.storage_offset() == 0,
    ],
)
def test_branches_on_layouts_are_taken_and_not_guarded(asked: Callable[[Tensor], bool]) -> None:
    class Layouts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x if asked(x) else x.contiguous())

    model, x = Layouts().eval(), image(2, 8, 6, 6)
    graph_module = capture(model, (x,))
    assert not any("a branch at" in str(n.kwargs) for n in graph_module.graph.nodes)
    other = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(graph_module(other), model(other))
    for backend in sorted({"x86", "reference"} & set(qfx.backends.available())):
        qmodel = qfx.quantize(model, x, backend=backend)
        assert qmodel(x).shape == x.shape


def test_lengths_of_strides_are_ranks_and_guarded() -> None:
    graph_module = traced(lambda m, x: x * 2 if len(x.stride()) == 2 else x, image(2, 3))
    with pytest.raises(ConfigError, match="captured with"):
        graph_module(image(2, 3, 4))


def test_a_number_stays_an_argument() -> None:
    graph_module = capture(Signature(), (image(3),))
    assert torch.equal(graph_module(image(3), scale=5.0), Signature()(image(3), scale=5.0))


@pytest.mark.parametrize("change", [{"mask": torch.ones(3)}, {"mode": "mul"}])
def test_an_argument_that_steered_the_capture_is_guarded(change: dict[str, Any]) -> None:
    graph_module = capture(Signature(), (image(3),))
    with pytest.raises(ConfigError, match=f"argument {next(iter(change))} = .*capture the model"):
        graph_module(image(3), **change)


def test_arguments_given_by_keyword_are_symbolic() -> None:
    graph_module = capture(Signature(), (image(3),), {"mask": torch.ones(3)})
    mask = torch.tensor([0.0, 1.0, 2.0])
    assert torch.equal(graph_module(image(3), mask=mask), Signature()(image(3), mask=mask))


Pair = namedtuple("Pair", ["left", "right"])


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any], parts: list[Any], *rest: Tensor, **named: Any) -> Any:
        total = batch["x"] + parts[0] + sum(rest) + named["z"]
        if parts[1] is None:
            total = total + parts[2].left * batch["n"]
        return {"out": total, "nothing": None, "parts": [total, (rest[0], 3)]}


def nested_arguments(n: float) -> tuple[Any, ...]:
    pair = Pair(torch.full((2,), 3.0), None)
    return {"x": torch.ones(2), "n": n}, [torch.ones(2), None, pair], torch.ones(2), torch.ones(2)


def test_containers_go_in_and_come_out() -> None:
    graph_module = capture(Nested(), nested_arguments(2.0), {"z": torch.ones(2)})
    for n in (2.0, 4.0):
        ours = graph_module(*nested_arguments(n), z=torch.zeros(2))
        theirs = Nested()(*nested_arguments(n), z=torch.zeros(2))
        assert torch.equal(ours["out"], theirs["out"])
        assert ours["nothing"] is None
        assert torch.equal(ours["parts"][1][0], theirs["parts"][1][0])
        assert ours["parts"][1][1] == 3


def test_a_container_of_another_length_is_refused() -> None:
    graph_module = capture(Nested(), nested_arguments(2.0), {"z": torch.ones(2)})
    with pytest.raises(ConfigError, match="the length of argument rest = 2"):
        graph_module(*nested_arguments(2.0), torch.ones(2), z=torch.zeros(2))


def test_tuples_that_calls_return_keep_their_structure() -> None:
    graph_module = capture(nn.LSTM(3, 4), (image(5, 2, 3),))
    out, (hidden, cell) = graph_module(image(7, 1, 3))
    assert (out.shape, hidden.shape, cell.shape) == ((7, 1, 4), (1, 1, 4), (1, 1, 4))


def test_arguments_that_do_not_fit_the_signature() -> None:
    with pytest.raises(ConfigError, match=r"do not fit forward\(x.*missing.*'x'"):
        capture(Signature(), ())


def test_arguments_that_no_graph_can_take() -> None:
    with pytest.raises(ConfigError, match="argument x of the example inputs is a object"):
        traced(lambda m, x: x, object())
