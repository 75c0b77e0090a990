"""What modules that are kept whole write to: their state is the model's when the check is through.

The check runs the graph several times, and two graphs side by side. Each run finds what the model
held, and leaves it so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr


def nothing(module: nn.Module, args: object, result: object) -> None:
    """A hook, with which a module is kept whole."""


def hooked(module: nn.Module, hook: Callable[..., object] = nothing) -> nn.Module:
    module.register_forward_hook(hook)
    return module


class Counter(nn.Module):
    """Counts in a part that has no code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.state = nn.Module()
        self.state.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.state.get_buffer("calls").add_(1.0)


class MovesItsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.get_buffer("running_mean").lerp_(x.mean((0, 2, 3)) + 1.0, 0.5)
        result: Tensor = self.norm(x)
        return result


class MovesTwoNorms(nn.Module):
    """Whose statistics are the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.other.running_mean = self.one.running_mean

    def forward(self, x: Tensor) -> Tensor:
        self.one.get_buffer("running_mean").add_(1.0)
        result: Tensor = self.other(self.one(x))
        return result


class MovesAParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.mul_(1.5)
        return x * self.scale


class SetsAnew(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1.0  # type: ignore[operator]
        return x + self.calls


class Grows(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x.mean((2, 3))])
        return x + len(self.seen)


class Turns(nn.Module):
    """Its state is no floats."""

    phase: Tensor
    flag: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phase", torch.ones(6, 6, dtype=torch.complex64))
        self.register_buffer("flag", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        self.phase.mul_(1j)
        self.flag.logical_not_()
        return x + self.phase.imag + self.flag


def move_statistics(norm: nn.Module, args: object, result: object) -> None:
    norm.get_buffer("running_mean").add_(1.0)


def move_statistics_of_a_part(layers: nn.Module, args: object, result: object) -> None:
    layers.get_buffer("0.running_mean").add_(1.0)


def compiled() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, by one class or another
        made: nn.Module = torch.jit.script(SetsAnew().eval())
    return made


def takes_statistics() -> nn.Module:
    norm = nn.InstanceNorm2d(8, track_running_stats=True)
    norm.track_running_stats = False  # it takes those of its input, and goes on counting
    return norm


KINDS: dict[str, Callable[[], nn.Module]] = {
    "a part without code": lambda: hooked(Counter()),
    "a norm": lambda: hooked(MovesItsNorm()),
    "two norms with the same statistics": lambda: hooked(MovesTwoNorms()),
    "a parameter": lambda: hooked(MovesAParameter()),
    "set anew": lambda: hooked(SetsAnew()),
    "grows": lambda: hooked(Grows()),
    "no floats": lambda: hooked(Turns()),
    "by a hook": lambda: hooked(nn.BatchNorm2d(8), move_statistics),
    "by a hook above": lambda: hooked(
        nn.Sequential(nn.BatchNorm2d(8)), move_statistics_of_a_part
    ),
    "a norm of torch": takes_statistics,
    "compiled": compiled,
    "compiled inside": lambda: hooked(nn.Sequential(compiled())),
}  # fmt: skip


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.kept = nn.Conv2d(3, 8, 3), KINDS[kind]()
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.kept(self.first(x)))
        return result


def state(model: nn.Module) -> dict[str, Tensor]:
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t.clone() for name, t in held.items() if name.startswith("kept.")}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_state_is_that_of_the_model(kind: str, backend: str) -> None:
    model, x = Net(kind).eval(), torch.randn(2, 3, 8, 8)
    before = state(model)
    qmodel = qfx.quantize(model, x, backend=backend)
    assert qmodel.report.coverage == 1.0
    for expected in (before, None):
        found = state(qmodel)
        wanted = state(model) if expected is None else expected
        assert found.keys() == wanted.keys()
        torch.testing.assert_close(state(model), wanted, rtol=0, atol=0)
        torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)  # codes decide statistics
        assert sqnr(model(x), qmodel(x)) > 30 or expected is None


def test_what_python_counts_in_a_module_kept_whole_is_told() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n = 0
            self.register_forward_hook(lambda module, args, y: None)

        def forward(self, x: Tensor) -> Tensor:
            self.n += 1
            return x + self.n

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Counts(), nn.Conv2d(8, 4, 3)).eval()
    with pytest.warns(qfx.QfxWarning, match=r"forward sets 1\.n.*register a buffer"):
        qfx.quantize(model, torch.randn(2, 3, 8, 8))
    assert model[1].n == 0
