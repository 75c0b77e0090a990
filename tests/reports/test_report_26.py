"""A wrapped function wrote into the list that it was given, and met an immutable one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qfx
from qfx.capture.capture import capture
from qfx.verification.outputs import outputs
from qfx_passes import Canonicalize
from tests.cases.flow import randn, seeded, sqnr

X, OTHER = randn(1, 3, 8, 8), randn(2, 3, 6, 12, seed=1)


def fit(window: list[int], size: list[int], shift: list[int]) -> tuple[list[int], list[int]]:
    """As torchvision's video transformers do: works on its lists, and hands them out."""
    for i in range(2):
        if size[i] <= window[i]:
            window[i], shift[i] = size[i], 0
    return window, shift


def halve(sizes: list[int], named: dict[str, Any]) -> None:
    sizes[0] = sizes[0] // 2
    named["width"] = sizes.pop() // 2


def kinds(sizes: Any, named: Any, nested: Any, x: Tensor) -> Tensor:
    assert type(sizes) is list
    assert type(named) is dict
    assert [type(item) for item in nested] == [list, dict]
    return x


for _function in (fit, halve, kinds):
    fx.wrap(_function)


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.window, self.shift = [8, 4], [4, 2]
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        window, shift = fit(self.window.copy(), list(x.shape[2:]), self.shift.copy())
        y = torch.roll(self.conv(x), shifts=(-shift[0], -shift[1]), dims=(2, 3))
        return y[:, :, : window[0], : window[1]]


class Halves(nn.Module):
    """Goes on with what was written to its own list and dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        sizes, named = [x.shape[2], x.shape[3]], {"width": 0}
        halve(sizes, named)
        assert len(sizes) == 1
        return self.conv(x)[:, :, : sizes[0], : named["width"]]


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(kinds([x.shape[0]], {"a": x}, ([1], {"b": x}), x))


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [Windows, Halves, Kinds])
@pytest.mark.parametrize("backend", ["reference", "x86", "fbgemm"])
def test_functions_get_what_the_model_gives_them(kind: type[nn.Module], backend: str) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    model = seeded(kind)
    made = qfx.quantize(model, X, calibration_data=[X, OTHER], backend=backend)
    for x in (X, OTHER):
        expected, got = model(x), made(x)
        assert got.shape == expected.shape
        assert sqnr(expected, got) > 25
    assert getattr(model, "window", [8, 4]) == [8, 4]


@pytest.mark.parametrize("kind", [Windows, Halves, Kinds])
def test_interpreters_and_passes_give_the_same(kind: type[nn.Module]) -> None:
    model = seeded(kind)
    captured = capture(model, (X,))
    torch.testing.assert_close(captured(OTHER), model(OTHER))
    torch.testing.assert_close(outputs(captured, ((OTHER,), {})), model(OTHER))
    canonical, _ = qfx.run_passes(model, [Canonicalize()], X)
    torch.testing.assert_close(canonical(OTHER), model(OTHER))
    made = qfx.quantize(model, X, backend="reference")
    assert qfx.compare(model, made, [X, OTHER]).output.sqnr > 25


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: list[int] = []
        every_row(found, x.shape[0])
        return x * len(found)


def every_row(found: list[int], count: int) -> None:
    found.extend(range(count))


fx.wrap(every_row)


def test_the_length_that_is_left_is_guarded() -> None:
    made = capture(Grows(), (randn(2, 3),))
    assert torch.equal(made(torch.ones(2, 3)), torch.full((2, 3), 2.0))
    with pytest.raises(qfx.ConfigError, match="what every_row left in a list"):
        made(torch.ones(3, 3))
