"""Questions about types and devices got an answer of tracing, and a wrong message blamed the model.

``torch.is_tensor(x)``, ``type(x) is torch.Tensor``, ``x.__class__``, ``str(x.device) == "cpu"``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import pytest
import torch
from torch import Tensor, is_tensor, nn

import qfx
from tests.cases.flow import randn, seeded, sqnr


@singledispatch
def kind_of(value: object) -> int:
    return 1


kind_of.register(Tensor)(lambda value: 3)

QUESTIONS: dict[str, Callable[[Tensor], object]] = {
    "is_tensor": lambda y: torch.is_tensor(y),
    "is_tensor imported": lambda y: is_tensor(y) and not is_tensor(y.shape),
    "type is": lambda y: type(y) is Tensor,
    "type ==": lambda y: type(y) == torch.Tensor,  # noqa: E721
    "type in": lambda y: type(y) in (int, Tensor),
    "type of a size": lambda y: type(y.shape[0]) is int and type(y.shape) is torch.Size,
    "class": lambda y: y.__class__ is Tensor,
    "class name": lambda y: y.__class__.__name__ == "Tensor",
    "callable": lambda y: not callable(y) and not callable(y.shape) and callable(y.mean),
    "isinstance": lambda y: isinstance(y, Tensor) and isinstance(y.shape[0], (str, int)),
    "singledispatch": lambda y: kind_of(y) == 3,
    "key": lambda y: {Tensor: True}.get(type(y), False),
    "str of the device": lambda y: str(y.device) == "cpu",
    "text with the device": lambda y: f"on {y.device}" == "on cpu",
    "device": lambda y: y.device == torch.device("cpu") and y.device.type == "cpu",
    "key of a device": lambda y: {torch.device("cpu"): 1}.get(y.device) == 1,
    "str of the dtype": lambda y: str(y.dtype) == "torch.float32",
    "dtype": lambda y: y.dtype in (torch.float32, torch.float16) and y.dtype.is_floating_point,
}


class Asks(nn.Module):
    def __init__(self, question: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.question = nn.Conv2d(3, 4, 3), question

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if not self.question(y):
            raise TypeError("tensors, please")
        return y * 2


@pytest.mark.sweep(first=7)
@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_get_the_answer_of_the_model(name: str) -> None:
    model, x = seeded(lambda: Asks(QUESTIONS[name])), randn(2, 3, 8, 8)
    quantized = qfx.quantize(model, x, backend="reference")
    assert quantized.report.coverage == 1.0
    other = randn(5, 3, 9, 8)
    assert quantized(other).shape == model(other).shape
    assert sqnr(model(x), quantized(x)) > 30


def test_only_a_model_that_raises_is_said_to_raise() -> None:
    class Mistaken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x[0]])

    with pytest.raises(qfx.ConfigError, match="the model itself raises on the example inputs"):
        qfx.run_passes(Mistaken(), [], randn(2, 3))


def test_what_only_tracing_breaks_is_not_blamed_on_the_model() -> None:
    class Described(nn.Module):
        """A method of numbers that takes no proxies: tracing fails, the model does not."""

        def forward(self, x: Tensor) -> Tensor:
            names = [name for name in dir(x.shape[0]) if name == "bit_length"]
            return x * len(names)

    model, x = Described(), randn(2, 3)
    with pytest.raises(qfx.CaptureError) as caught:
        qfx.run_passes(model, [], x)
    assert "the model itself raises" not in str(caught.value)
    assert model(x).shape == x.shape
