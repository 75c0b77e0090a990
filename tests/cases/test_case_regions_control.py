"""Control flow at the top of a model that data decides: every way goes on being taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr


class Layers(nn.Module):
    """Three layers, called as the class that inherits from this says."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
                                    for _ in range(2))  # fmt: skip


class If(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if x.mean() > 0:
            x = self.layers[0](y)
        else:
            y = -y
            x = self.layers[1](y)
        return x


class While(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x, steps = self.first(x), 0
        while x.abs().max() > 0.1 and steps < 2 + int(x.mean() > 0):
            x, steps = self.layers[steps % 2](x), steps + 1
        return x


class EarlyReturn(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[0](self.first(x))
        if x.mean() > 0:
            return y
        return self.layers[1](y)


class Try(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x_first = self.first(x)
        try:
            if bool((x.mean() < 0).any()):
                raise ValueError("negative")
            return self.layers[0](x_first)
        except ValueError:
            return self.layers[1](x_first)


class FoundError(Exception):
    """Carries a result out of whatever called."""


class Raises(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if x.mean() > 0:
            raise FoundError(y)
        return y


class Exceptions(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(Raises, self.layers))

    def forward(self, x: Tensor) -> Tensor:
        try:
            for layer in self.layers:
                x = layer(x)
        except FoundError as found:
            (x,) = found.args
        return self.first(x)


class Indexed(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers[int(x.mean() > 0)](self.first(x))
        return y


MODELS = {each.__name__: each for each in (If, While, EarlyReturn, Try, Exceptions, Indexed)}
_BOTH = ("While", "EarlyReturn", "Exceptions")
"""Those where one of the two inputs reaches all layers."""


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_every_way_is_taken(name: str) -> None:
    torch.manual_seed(1)
    model, x = MODELS[name]().eval(), torch.randn(16, 8)
    above, below = x + 1, x - 1
    for method, data in (("static", [below, above]), ("dynamic", None)):
        quantized = qfx.quantize(model, below, method=method, calibration_data=data)
        for given in (below, above):
            assert sqnr(model(given), quantized(given)) > 25
        inner = "layers.{}.inner" if name == "Exceptions" else "layers.{}"
        every = {"first", inner.format(0), inner.format(1)}
        reached = set(quantized.regions)
        if name in _BOTH:
            assert reached == every
            assert quantized.report.coverage == 1.0
            continue
        (absent,) = {path.partition(".inner")[0] for path in every} - reached
        left = [s for s in quantized.report.sites if s.module_path.startswith(absent)]
        if method == "static":  # what no example reaches has no ranges
            assert {site.reason for site in left} == {"outside-regions"}
            assert all("not called" in site.message for site in left)
        else:
            assert {s.region for s in left} == {f"{absent}.0", f"{absent}.2"}
            assert all(site.decision == "quantized" for site in left if site.macs)
        assert "Why several" in str(quantized.regions)


class Untraceable(nn.Module):
    """A child that decides by data, with layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inside(x)
        return y if x.sum() > 0 else -y


@torch.no_grad()
def test_an_untraceable_child_is_left_as_it_is() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Untraceable(), nn.Linear(8, 4)).eval()
    x = torch.randn(16, 8)
    quantized = qfx.quantize(model, x)
    assert list(quantized.regions) == ["0", "2.inside", "3"]
    assert type(quantized[2]) is Untraceable
    assert all(sqnr(model(given), quantized(given)) > 25 for given in (x, -x))
    assert {site.decision for site in quantized.report.sites} == {"quantized"}
    assert "a branch that depends on the contents of a tensor" in str(quantized.regions)
