"""Small models, made from a seed, that are Python text: what fails can be read and run again.

A program is a list of steps ``v3 = F.relu(v2)``; :mod:`qfx.testing.drawing` draws them.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]

INPUT_SHAPE: Shape = (2, 4, 6, 6)

_INDENT = " " * 8


class Statement(NamedTuple):
    """``v<out> = text``, where ``{0}``, ``{1}`` of the text are the values that it reads."""

    kind: str
    text: str
    inputs: tuple[int, ...]
    out: int
    shape: Shape
    module: str = ""

    def __str__(self) -> str:
        return f"{_value(self.out)} = {self.text.format(*map(_value, self.inputs))}"


@dataclass(frozen=True)
class Program:
    """A model as text.

    Attributes:
        steps: in order; value 0 is the input.
        outputs: the values that it returns.
        seed: of weights, statistics of norms, and the example.
        modules: what ``__init__`` makes, by name.
    """

    steps: tuple[Statement, ...]
    outputs: tuple[int, ...]
    seed: int
    modules: tuple[tuple[str, str], ...] = ()

    def source(self) -> str:
        """The class ``Model`` as Python text."""
        used = {step.module for step in self.steps}
        made = [f"self.{name} = {text}" for name, text in self.modules if name in used]
        returned = ", ".join(map(_value, self.outputs))
        lines = [
            "class Model(nn.Module):",
            "    def __init__(self) -> None:",
            *(_INDENT + line for line in ("super().__init__()", *made)),
            "",
            "    def forward(self, x):",
            *(_INDENT + str(step) for step in self.steps),
            f"{_INDENT}return {returned}",
        ]
        return "\n".join(lines) + "\n"

    def build(self) -> nn.Module:
        """The model, in eval mode; lines of its text stand for lines of a file."""
        source = self.source()
        file = f"<program {self.seed}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        scope: dict[str, type[nn.Module]] = {}
        exec(compile(source, file, "exec"), {"nn": nn, "F": F, "torch": torch, **scope}, scope)
        return seeded(scope["Model"], self.seed)

    def example(self) -> Tensor:
        """The input that it is tried on."""
        return example(self.seed)

    def __str__(self) -> str:
        return self.source()

    def returning(self, *outputs: int) -> Program:
        """The same, with other outputs, and without what those don't need."""
        needed, kept = set(outputs), []
        for step in reversed(self.steps):
            if step.out in needed:
                needed.update(step.inputs)
                kept.append(step)
        return replace(self, outputs=outputs, steps=tuple(reversed(kept)))

    def bypassing(self, at: int) -> Program | None:
        """Without the step at an index: its readers read its input; None if that doesn't fit."""
        step = self.steps[at]
        shapes = {0: INPUT_SHAPE, **{each.out: each.shape for each in self.steps}}
        source = step.inputs[0]
        if source == step.out or shapes[source] != step.shape:
            return None
        rest = [each for i, each in enumerate(self.steps) if i != at]

        def instead(value: int) -> int:
            return source if value == step.out else value

        if any(each.out == step.out for each in rest):  # overwritten in place later on
            return None
        steps = (e._replace(inputs=tuple(map(instead, e.inputs))) for e in rest)
        outputs = tuple(map(instead, self.outputs))
        return replace(self, steps=tuple(steps), outputs=outputs).returning(*outputs)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model in eval mode, whose weights and norms' statistics are drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def example(seed: int) -> Tensor:
    """The input of a program of that seed."""
    return torch.randn(INPUT_SHAPE, generator=torch.Generator().manual_seed(seed + 1))


def _value(number: int) -> str:
    return f"v{number}" if number else "x"
