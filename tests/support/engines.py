"""Tiny models for engines, and engines that do what no engine should."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qfx.engines import BuildSettings, Built, CannotRun, Piece, PieceEngine


class Residuals(nn.Module):
    """Convolutions with a residual, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        return self.head(torch.relu(self.third(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Fake(PieceEngine):
    """Runs pieces by the graph module itself."""

    name = "fake"

    def __init__(self, deadline: float = 20.0) -> None:
        self.deadline = deadline
        self.built: list[BuildSettings] = []

    def lacks(self) -> str:
        return ""

    def version(self) -> str:
        return "1.0"

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        self.built.append(settings)

        def program(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            return [self.spoil(made) for made in piece.graph_module(*inputs)]

        return Built(program, lambda shapes: settings.shapes in (None, shapes))

    def spoil(self, made: Tensor) -> Tensor:
        """What becomes of a result."""
        return made


class Noisy(Fake):
    """Yields noise."""

    def spoil(self, made: Tensor) -> Tensor:
        return torch.randn_like(made)


class NaNs(Fake):
    """Yields NaN."""

    def spoil(self, made: Tensor) -> Tensor:
        return made * float("nan")


class Raising(Fake):
    """Raises when it runs."""

    def spoil(self, made: Tensor) -> Tensor:
        raise RuntimeError("out of luck")


class Refusing(Fake):
    """Can't be built."""

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        raise CannotRun("no such operation")


class Hanging(Fake):
    """Does not come back."""

    def spoil(self, made: Tensor) -> Tensor:
        time.sleep(3.0)
        return made


class Quick(Fake):
    """Yields a constant, of the right shape, at once."""

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        (wanted,) = (node.meta["qfx.value"] for node in piece.outputs)
        made = torch.zeros(wanted.shape)
        return Built(lambda inputs: [made], lambda shapes: True)


class Writing(Fake):
    """Writes to what it is given."""

    def build(self, piece: Piece, settings: BuildSettings) -> Built:
        built = super().build(piece, settings)

        def program(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            made = built.program(inputs)
            inputs[0].add_(1)
            return made

        return Built(program, built.takes)


class Tiring(Fake):
    """Runs until it is tired."""

    tired = False

    def spoil(self, made: Tensor) -> Tensor:
        if self.tired:
            raise RuntimeError("tired")
        return made
