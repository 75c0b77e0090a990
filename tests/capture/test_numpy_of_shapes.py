"""What numpy made of a whole shape was frozen at that of the example, silently.

``np.prod(x.shape[2:])``, ``np.array(x.shape)``: the first is computed at every size, the others are
guarded; the guard names the line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.capture import BY_LAYOUT, capture
from tests.cases.flow import randn, seeded

Of = Callable[[Tensor], Any]


class Scales(nn.Module):
    def __init__(self, of: Of) -> None:
        super().__init__()
        self.conv, self.of = nn.Conv2d(3, 8, 3, padding=1), of

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.conv(x) / self.of(x)
        return scaled


SYMBOLIC: dict[str, Of] = {
    "prod": lambda x: np.prod(x.shape[2:]),
    "prod of size()": lambda x: np.prod(x.size()),
    "prod, int": lambda x: int(np.prod(x.shape[2:])) + 1,
    "prod, item": lambda x: np.prod(x.shape[1:]).item(),
    "log of a product": lambda x: 1 + np.log(np.prod(x.shape[2:])),
    "sqrt of a size": lambda x: np.sqrt(x.shape[1] * x.shape[2]),
    "sqrt, int": lambda x: int(np.sqrt(x.shape[-1])) * 2,
    "floor": lambda x: np.floor(x.shape[2] / 3),
    "ceil, int": lambda x: int(np.ceil(x.shape[2] / 3)) * torch.arange(2)[1] / np.ceil(x.shape[3]),
    "prod, sqrt": lambda x: float(np.prod(x.shape[2:])) ** 0.5,
}

GUARDED: dict[str, Of] = {
    "array": lambda x: float(np.array(x.shape[2:])[0]),
    "array of a shape": lambda x: float(np.array(x.shape)[2]),
    "asarray of size()": lambda x: float(np.asarray(x.size())[-1]),
    "array of a tuple": lambda x: float(np.array(tuple(x.shape[2:])).sum()),
    "mean": lambda x: np.mean(x.shape[2:]),
    "max": lambda x: np.max(x.shape),
    "sum": lambda x: np.sum(x.shape),
    "prod of floats": lambda x: np.prod(x.shape[2:], dtype=np.float32),
    "sqrt": lambda x: np.sqrt(x.shape[2:])[1],
    "prod, astype": lambda x: np.prod(x.shape[2:]).astype(np.float32),
    "prod of a list": lambda x: np.prod([x.shape[2], x.shape[3]]),
    "sqrt, astype": lambda x: np.sqrt(x.shape[2]).astype(np.float32),
    "a number of numpy first": lambda x: np.float64(2) * np.sqrt(x.shape[2]),
    "floor, astype": lambda x: np.floor(x.shape[2] / 3).astype(int),
    "maximum": lambda x: np.maximum(x.shape[2], 17),
    "flip": lambda x: float(np.flip(x.shape)[0]),
    "from_numpy": lambda x: torch.from_numpy(np.array(x.shape)).sum(),
    "zeros": lambda x: torch.from_numpy(np.zeros(x.shape[2:])).numel(),
    "full": lambda x: torch.from_numpy(np.full(x.shape[2:], 2.0)).sum(),
    "tolist": lambda x: (np.array(x.shape[2:]) // 2).tolist()[0],
    "key": lambda x: {torch.Size((16, 16)): 2.0}.get(x.shape[2:], 3.0),
    "text": lambda x: float(len(str(x.shape))) + 16 * ("16, 16" in str(x.shape)),
}


@pytest.mark.parametrize("how", SYMBOLIC)
def test_products_are_computed_at_every_size(how: str) -> None:
    model = seeded(lambda: Scales(SYMBOLIC[how]))
    captured = capture(model, (randn(2, 3, 16, 16),))
    assert "16" not in captured.code
    for shape in ((2, 3, 16, 16), (5, 3, 16, 16), (1, 3, 20, 32)):
        x = randn(*shape)
        torch.testing.assert_close(captured(x), model(x))


@pytest.mark.parametrize("how", GUARDED)
def test_everything_else_is_guarded(how: str) -> None:
    model = seeded(lambda: Scales(GUARDED[how]))
    captured = capture(model, (randn(2, 3, 16, 16),))
    same = randn(2, 3, 16, 16, seed=4)
    torch.testing.assert_close(captured(same), model(same), check_dtype=False)
    with pytest.raises(qfx.ConfigError, match=r"at \S*test_numpy_of_shapes.py:\d+ = "):
        captured(randn(2, 3, 20, 32))


def test_parts_of_shapes_leave_the_batch_free() -> None:
    model = seeded(lambda: Scales(GUARDED["mean"]))
    captured = capture(model, (randn(2, 3, 16, 16),))
    x = randn(7, 3, 16, 16)
    torch.testing.assert_close(captured(x), model(x))


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y.view(x.shape[0], int(np.prod(y.shape[1:])))


def test_quantized_models_take_other_sizes() -> None:
    model = seeded(Views)
    quantized = qfx.quantize(model, randn(2, 3, 16, 16))
    for shape in ((2, 3, 16, 16), (3, 3, 24, 16)):
        x = randn(*shape)
        expected = model(x)
        assert quantized(x).shape == expected.shape
        assert (quantized(x) - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_guard_of_a_quantized_model_names_the_line() -> None:
    quantized = qfx.quantize(seeded(lambda: Scales(GUARDED["mean"])), randn(2, 3, 16, 16))
    line = GUARDED["mean"].__code__.co_firstlineno
    with pytest.raises(qfx.ConfigError, match=rf"numpy at .*test_numpy_of_shapes.py:{line} = "):
        quantized(randn(2, 3, 32, 32))


def test_what_numpy_makes_of_strides_is_told() -> None:
    model = seeded(lambda: Scales(lambda x: np.mean(x.stride()[2:])))
    captured = capture(model, (randn(2, 3, 16, 16),))
    assert any("test_numpy_of_shapes.py" in where for where in captured.meta[BY_LAYOUT])


def test_a_guard_shows_a_shape_as_a_tuple() -> None:
    captured = capture(seeded(lambda: Scales(GUARDED["mean"])), (randn(2, 3, 16, 16),))
    with pytest.raises(qfx.ConfigError, match=r"= \(16, 16\), but these inputs make it \(8, 4\)"):
        captured(randn(2, 3, 8, 4))
