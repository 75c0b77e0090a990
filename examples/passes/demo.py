"""What the three passes do to small models: differences printed, pictures written.

    python -m examples.passes.demo --out pictures

Writes ``.dot`` files, of the graph and of the difference, and ``.svg`` beside them where Graphviz's
``dot`` is installed.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import qfx
from examples.passes.qfx_extras.memory import PlanMemory
from examples.passes.qfx_extras.stages import SplitStages, stage_table
from examples.passes.qfx_extras.subexpressions import ShareSubexpressions


class Gates(nn.Module):
    """The same gate twice, scaled by what parameters alone decide."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, 16] to f32[N, 16]."""
        return torch.sigmoid(x * self.scale.exp()) * x + torch.sigmoid(self.scale.exp() * x)


class Branches(nn.Module):
    """Four branches, wide in the middle, and written side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(16, 256) for _ in range(4))
        self.down = nn.ModuleList(nn.Linear(256, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, 16] to f32[N, 32]."""
        wide = [up(x) for up in self.up]
        return torch.cat([down(each) for down, each in zip(self.down, wide, strict=True)], 1)


class Tower(nn.Module):
    """Layers of other widths, one above the other."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 64, 64, 8, 64, 64, 8, 64, 64)
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, 16] to f32[N, 64]."""
        for layer in self.layers:
            x = layer(x).relu()
        return x


CASES: tuple[tuple[type[nn.Module], qfx.Pass], ...] = (
    (Gates, ShareSubexpressions()),
    (Branches, PlanMemory()),
    (Tower, SplitStages(stages=3, slack=0.3)),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="examples.passes.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    for kind, step in CASES:
        gm, history = qfx.run_passes(kind().eval(), [step], torch.randn(4, 16))
        difference = history.diff(step.name)
        print(difference.to_text())
        is_split = isinstance(step, SplitStages)
        if is_split:
            print(stage_table(gm), end="\n\n")
        drawings = {
            step.name: history[-1].snapshot.to_dot(frames="stage" if is_split else None),
            f"{step.name}-diff": difference.to_dot(),
        }
        for name, drawing in drawings.items():
            path = drawing.save(out / f"{name}.dot")
            if shutil.which("dot"):
                drawing.render(outfile=Path(path).with_suffix(".svg"))


if __name__ == "__main__":
    main()
