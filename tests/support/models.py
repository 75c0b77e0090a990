"""Hypothesis strategies for small real models.

A model is a :class:`Program`: a list of steps over numbered values, drawn so that every step fits
the shapes it reads, and printed as such when a property fails. Its forward is plain Python, so it
is traced as a user's model would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

INPUT_SHAPE: Shape = (2, 4, 6, 6)

_RELUS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "nn.ReLU": lambda m, x: m.relu(x),
    "nn.ReLU shared": lambda m, x: m.shared_relu(x),
    "F.relu": lambda m, x: F.relu(x),
    "torch.relu": lambda m, x: torch.relu(x),
    "x.relu": lambda m, x: x.relu(),
    "nn.ReLU inplace": lambda m, x: m.inplace_relu(x),
    "F.relu inplace": lambda m, x: F.relu(x, inplace=True),
    "x.relu_": lambda m, x: x.relu_(),
    "torch.relu_": lambda m, x: torch.relu_(x),
}
_INPLACE = frozenset({"nn.ReLU inplace", "F.relu inplace", "x.relu_", "torch.relu_"})
_ELEMENTWISE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "relu6": lambda m, x: m.relu6(x),
    "F.hardtanh": lambda m, x: F.hardtanh(x, -1.0, 1.0),
    "clamp": lambda m, x: x.clamp(min=-0.5, max=2.0),
    "hardswish": lambda m, x: F.hardswish(x),
    "gelu": lambda m, x: F.gelu(x),
    "sigmoid": lambda m, x: torch.sigmoid(x),
    "silu": lambda m, x: m.silu(x),
    "tanh": lambda m, x: x.tanh(),
    "dropout": lambda m, x: m.dropout(x),
    "identity": lambda m, x: m.identity(x),
    "add scalar": lambda m, x: x + 1,
    "mul scalar": lambda m, x: 0.5 * x,
    "contiguous": lambda m, x: x.contiguous(),
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda a, b: a + b,
    "torch.add": lambda a, b: torch.add(a, b),
    "x.add": lambda a, b: a.add(b),
    "torch.add alpha": lambda a, b: torch.add(a, b, alpha=2),
    "*": lambda a, b: a * b,
    "-": lambda a, b: a - b,
}


@dataclass
class Step:
    """``values[out] = kind(values[inputs...])``."""

    kind: str
    inputs: tuple[int, ...]
    out: int
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        options = "".join(f", {k}={v}" for k, v in self.options.items())
        inputs = ", ".join(f"v{i}" for i in self.inputs)
        module = f" [{self.module}]" if self.module else ""
        return f"v{self.out} = {self.kind}({inputs}{options}){module}"


@dataclass
class Program:
    """Steps over values; value 0 is the input."""

    steps: list[Step]
    outputs: tuple[int, ...]
    seed: int
    modules: dict[str, Callable[[], nn.Module]] = field(default_factory=dict, repr=False)

    def build(self) -> nn.Module:
        """The model, in eval mode, with weights and statistics drawn from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            model = Interpreted(self)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.5, 1.5)
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.3)
        return model.eval()

    def example(self) -> Tensor:
        return torch.randn(INPUT_SHAPE, generator=torch.Generator().manual_seed(self.seed + 1))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        steps = "\n  ".join(map(repr, self.steps))
        return f"Program(seed={self.seed}, outputs={self.outputs},\n  {steps})"


class Interpreted(nn.Module):
    """Runs a program."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.relu, self.shared_relu = nn.ReLU(), nn.ReLU()
        self.inplace_relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6()
        self.silu, self.dropout, self.identity = nn.SiLU(), nn.Dropout(0.5), nn.Identity()
        for name, make in program.modules.items():
            self.add_module(name, make())

    def forward(self, x: Tensor) -> Any:
        values: dict[int, Any] = {0: x}
        for step in self.program.steps:
            values[step.out] = self.run_step(step, [values[i] for i in step.inputs])
        results = tuple(values[i] for i in self.program.outputs)
        return results[0] if len(results) == 1 else results

    def run_step(self, step: Step, inputs: list[Any]) -> Any:
        x, options = inputs[0], step.options
        if step.kind in _RELUS:
            return _RELUS[step.kind](self, x)
        if step.kind in _ELEMENTWISE:
            return _ELEMENTWISE[step.kind](self, x)
        if step.kind in _BINARY:
            return _BINARY[step.kind](*inputs)
        if step.kind in _SHAPES:
            return _SHAPES[step.kind][0](x)
        if step.kind == "cat":
            return torch.cat(inputs, dim=1)
        module = getattr(self, step.module)
        if step.kind == "F.conv2d":
            return F.conv2d(input=x, weight=module.weight, bias=module.bias, **options)
        if step.kind == "F.linear":
            return F.linear(x, weight=module.weight, bias=module.bias)
        return module(x)


_SHAPES: dict[str, tuple[Callable[[Any], Any], Callable[[Shape], Shape]]] = {
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), lambda s: (*s[:2], s[2] // 2, s[3] // 2)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), lambda s: (*s[:2], s[2] // 2, s[3] // 2)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 1), lambda s: (*s[:2], 1, 1)),
    "mean": (lambda x: x.mean((2, 3)), lambda s: s[:2]),
    "flatten": (lambda x: torch.flatten(x, 1), lambda s: (s[0], s[1] * s[2] * s[3])),
    "view": (
        lambda x: x.contiguous().view(x.shape[0], -1),
        lambda s: (s[0], s[1] * s[2] * s[3]),
    ),
    "reshape": (
        lambda x: x.reshape(x.size(0), x.size()[1], -1, 1),
        lambda s: (s[0], s[1], s[2] * s[3], 1),
    ),
    "permute": (lambda x: x.permute(0, 1, 3, 2), lambda s: (s[0], s[1], s[3], s[2])),
    "transpose": (lambda x: x.transpose(2, 3), lambda s: (s[0], s[1], s[3], s[2])),
    "getitem": (lambda x: x[:, :2], lambda s: (s[0], 2, *s[2:])),
    "chunk": (lambda x: x.chunk(2, dim=1)[0], lambda s: (s[0], s[1] // 2, *s[2:])),
}


class _Builder:
    """Draws a program step by step; knows the shape of each value and who may be overwritten."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.shapes: list[Shape] = [INPUT_SHAPE]
        self.owned: set[int] = set()  # fresh memory that nothing has read yet
        self.steps: list[Step] = []
        self.modules: dict[str, Callable[[], nn.Module]] = {}
        self.reusable: dict[tuple[str, Shape], list[tuple[str, Shape]]] = {}

    def pick(self, fits: Callable[[Shape], bool] = lambda s: True) -> int:
        found = [i for i, s in enumerate(self.shapes) if fits(s)]
        return int(self.draw(st.sampled_from(found[::-1])))

    def emit(
        self, kind: str, inputs: tuple[int, ...], shape: Shape, *, fresh: bool, **extra: Any
    ) -> None:
        self.owned -= set(inputs)
        self.steps.append(Step(kind, inputs, len(self.shapes), **extra))
        if fresh:
            self.owned.add(len(self.shapes))
        self.shapes.append(shape)

    def step(self) -> None:
        kinds = ["layer", "layer", "relu", "relu", "norm", "elementwise", "binary", "shape", "cat"]
        getattr(self, f"_{self.draw(st.sampled_from(kinds))}")()

    def _layer(self) -> None:
        at = self.pick()
        shape = self.shapes[at]
        kind = "conv" if len(shape) == 4 else "linear"
        known = self.reusable.setdefault((kind, shape[1:2]), [])
        if known and self.draw(st.booleans()):
            name, options = self.draw(st.sampled_from(known))
        else:
            name, options = f"{kind}{len(self.modules)}", self._new(kind, shape)
            known.append((name, options))
            self.modules[name] = options["make"]
        functional = self.draw(st.booleans())
        if kind == "linear":
            out = (*shape[:-1], options["features"])
            self.emit("F.linear" if functional else "linear", (at,), out, fresh=True, module=name)
            return
        size = [
            (n + 2 * options["padding"] - options["kernel"]) // options["stride"] + 1
            for n in shape[2:]
        ]
        extra = {k: options[k] for k in ("stride", "padding", "groups")} if functional else {}
        out = (shape[0], options["channels"], *size)
        kind = "F.conv2d" if functional else "conv"
        self.emit(kind, (at,), out, fresh=True, module=name, options=extra)

    def _new(self, kind: str, shape: Shape) -> dict[str, Any]:
        bias = self.draw(st.booleans())
        if kind == "linear":
            features = self.draw(st.sampled_from([3, 8]))
            width = shape[-1]
            return {"features": features, "make": lambda: nn.Linear(width, features, bias=bias)}
        channels, width = self.draw(st.sampled_from([4, 8])), shape[1]
        kernel, stride = self.draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
        groups = self.draw(st.sampled_from([1, 2])) if width % 2 == 0 else 1
        made = {"channels": channels, "kernel": kernel, "stride": stride, "groups": groups}
        padding = kernel // 2
        return {
            **made,
            "padding": padding,
            "make": lambda: nn.Conv2d(width, channels, kernel, stride, padding, 1, groups, bias),
        }

    def _relu(self) -> None:
        at = self.pick()
        names = [n for n in _RELUS if n not in _INPLACE or at in self.owned]
        kind = self.draw(st.sampled_from(names))
        if kind in _INPLACE:
            # What was overwritten may not be read again: its number now means the new value.
            self.emit(kind, (at,), self.shapes[at], fresh=False)
            self.steps[-1].out = at
            self.shapes.pop()
            return
        self.emit(kind, (at,), self.shapes[at], fresh=True)

    def _norm(self) -> None:
        at = self.pick()
        shape = self.shapes[at]
        kind = "batch_norm" if len(shape) == 4 or self.draw(st.booleans()) else "layer_norm"
        name = f"{kind}{len(self.modules)}"
        width = shape[1]
        if kind == "layer_norm":
            self.modules[name] = lambda: nn.LayerNorm(width)
        elif len(shape) == 4:
            self.modules[name] = lambda: nn.BatchNorm2d(width)
        else:
            self.modules[name] = lambda: nn.BatchNorm1d(width)
        self.emit(kind, (at,), shape, fresh=True, module=name)

    def _elementwise(self) -> None:
        at = self.pick()
        kind = self.draw(st.sampled_from(sorted(_ELEMENTWISE)))
        self.emit(kind, (at,), self.shapes[at], fresh=False)

    def _binary(self) -> None:
        a = self.pick()
        b = self.pick(lambda s: s == self.shapes[a])
        kind = self.draw(st.sampled_from(sorted(_BINARY)))
        self.emit(kind, (a, b), self.shapes[a], fresh=True)

    def _cat(self) -> None:
        a = self.pick()
        shape = self.shapes[a]
        b = self.pick(lambda s: len(s) == len(shape) and s[0] == shape[0] and s[2:] == shape[2:])
        joined = (shape[0], shape[1] + self.shapes[b][1], *shape[2:])
        self.emit("cat", (a, b), joined, fresh=True)

    def _shape(self) -> None:
        spatial = [i for i, s in enumerate(self.shapes) if len(s) == 4]
        at = int(self.draw(st.sampled_from(spatial[::-1])))
        shape = self.shapes[at]
        names = [n for n in sorted(_SHAPES) if "pool2d" not in n or min(shape[2:]) >= 2]
        names = [n for n in names if n not in ("chunk", "getitem") or shape[1] >= 4]
        kind = self.draw(st.sampled_from(names))
        self.emit(kind, (at,), _SHAPES[kind][1](shape), fresh="pool" in kind)


@st.composite
def programs(draw: Draw, *, min_steps: int = 1, max_steps: int = 8) -> Program:
    """A program of so many steps."""
    builder = _Builder(draw)
    for _ in range(draw(st.integers(min_steps, max_steps))):
        builder.step()
    last = len(builder.shapes) - 1
    other = draw(st.none() | st.integers(0, last))
    outputs = (last,) if other in (None, last) else (last, int(other))
    return Program(builder.steps, outputs, draw(st.integers(0, 99)), builder.modules)


def models(*, max_steps: int = 8) -> st.SearchStrategy[nn.Module]:
    """A model in eval mode; its input is (2, 4, 6, 6)."""
    return programs(max_steps=max_steps).map(Program.build)
