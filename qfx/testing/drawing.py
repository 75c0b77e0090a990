"""Programs drawn from a seed: each step fits the shapes that it reads.

What a step overwrites in place is nobody else's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from qfx.testing.programs import INPUT_SHAPE, Program, Shape, Statement


def generate(
    seed: int, max_steps: int = 8, phrases: Mapping[str, str] = MappingProxyType({})
) -> Program:
    """A program of at most so many steps; the same for the same seed.

    Args:
        seed: what is drawn from.
        max_steps: operations, at most.
        phrases: text to write now and then, by what to call it: ``{0} + torch.tanh({1})`` of values
            of one shape, which its result has as well.
    """
    drawn = random.Random(seed)
    builder = _Builder(drawn, phrases)
    for _ in range(drawn.randint(1, max_steps)):
        builder.step()
    last = len(builder.shapes) - 1
    other = drawn.choice((None, drawn.randint(0, last)))
    outputs = (last,) if other in (None, last) else (last, int(other))
    return Program(tuple(builder.steps), outputs, seed, tuple(builder.modules.items()))


_SHARED = {
    "relu": "nn.ReLU()",
    "inplace_relu": "nn.ReLU(inplace=True)",
    "relu6": "nn.ReLU6()",
    "silu": "nn.SiLU()",
    "dropout": "nn.Dropout(0.5)",
    "identity": "nn.Identity()",
}
_RELUS = {
    "nn.ReLU": "self.relu({0})",
    "F.relu": "F.relu({0})",
    "torch.relu": "torch.relu({0})",
    "x.relu": "{0}.relu()",
}
_INPLACE = {
    "nn.ReLU inplace": "self.inplace_relu({0})",
    "F.relu inplace": "F.relu({0}, inplace=True)",
    "x.relu_": "{0}.relu_()",
    "torch.relu_": "torch.relu_({0})",
}
_ELEMENTWISE = {
    "relu6": "self.relu6({0})",
    "F.hardtanh": "F.hardtanh({0}, -1.0, 1.0)",
    "clamp": "{0}.clamp(min=-0.5, max=2.0)",
    "hardswish": "F.hardswish({0})",
    "gelu": "F.gelu({0})",
    "sigmoid": "torch.sigmoid({0})",
    "silu": "self.silu({0})",
    "x * sigmoid(x)": "{0} * torch.sigmoid({0})",
    "tanh": "{0}.tanh()",
    "dropout": "self.dropout({0})",
    "identity": "self.identity({0})",
    "add scalar": "{0} + 1",
    "mul scalar": "0.5 * {0}",
    "contiguous": "{0}.contiguous()",
}
_BINARY = {
    "+": "{0} + {1}",
    "torch.add": "torch.add({0}, {1})",
    "x.add": "{0}.add({1})",
    "torch.add alpha": "torch.add({0}, {1}, alpha=2)",
    "*": "{0} * {1}",
    "-": "{0} - {1}",
}
_SHAPES: dict[str, tuple[str, Callable[[Shape], Shape]]] = {
    "max_pool2d": ("F.max_pool2d({0}, 2)", lambda s: (*s[:2], s[2] // 2, s[3] // 2)),
    "avg_pool2d": ("F.avg_pool2d({0}, 2)", lambda s: (*s[:2], s[2] // 2, s[3] // 2)),
    "adaptive_avg_pool2d": ("F.adaptive_avg_pool2d({0}, 1)", lambda s: (*s[:2], 1, 1)),
    "mean": ("{0}.mean((2, 3))", lambda s: s[:2]),
    "flatten": ("torch.flatten({0}, 1)", lambda s: (s[0], s[1] * s[2] * s[3])),
    "view": (
        "{0}.contiguous().view({0}.shape[0], -1)",
        lambda s: (s[0], s[1] * s[2] * s[3]),
    ),
    "reshape": (
        "{0}.reshape({0}.size(0), {0}.size()[1], -1, 1)",
        lambda s: (s[0], s[1], s[2] * s[3], 1),
    ),
    "permute": ("{0}.permute(0, 1, 3, 2)", lambda s: (s[0], s[1], s[3], s[2])),
    "transpose": ("{0}.transpose(2, 3)", lambda s: (s[0], s[1], s[3], s[2])),
    "getitem": ("{0}[:, :2]", lambda s: (s[0], 2, *s[2:])),
    "chunk": ("{0}.chunk(2, dim=1)[0]", lambda s: (s[0], s[1] // 2, *s[2:])),
}
_KINDS = ("layer", "layer", "relu", "relu", "norm", "elementwise", "binary", "shape", "cat")


_SHARE_OF_PHRASES = 0.3
"""Of the steps, where phrases are given."""


class _LayerCall(NamedTuple):
    name: str
    shape: Shape
    call: str


class _Builder:
    """Draws steps; knows the shape of each value, and which nobody else reads."""

    def __init__(self, drawn: random.Random, phrases: Mapping[str, str]) -> None:
        self.drawn = drawn
        self.phrases = phrases
        self.shapes: list[Shape] = [INPUT_SHAPE]
        self.owned: set[int] = set()  # fresh memory that nothing has read yet
        self.steps: list[Statement] = []
        self.modules: dict[str, str] = {}
        self.known: dict[Shape, list[_LayerCall]] = {}

    def step(self) -> None:
        """Draw one more step."""
        if self.phrases and self.drawn.random() < _SHARE_OF_PHRASES:
            self._phrase()
            return
        getattr(self, f"_{self.drawn.choice(_KINDS)}")()

    def _pick(self, fits: Callable[[Shape], bool] = lambda shape: True) -> int:
        found = [i for i, shape in enumerate(self.shapes) if fits(shape)]
        is_deep = self.drawn.random() < 0.6  # chains are what most patterns are about
        return found[-1] if is_deep else self.drawn.choice(found)

    def _emit(
        self, kind: str, text: str, inputs: Sequence[int], shape: Shape, *, fresh: bool
    ) -> None:
        self.owned -= set(inputs)
        held = text.partition("self.")[2] or text.partition("weight=self.")[2]
        module = held.partition("(")[0].partition(".")[0]
        if module in _SHARED:
            self.modules.setdefault(module, _SHARED[module])
        out = len(self.shapes)
        self.steps.append(Statement(kind, text, tuple(inputs), out, shape, module))
        if fresh:
            self.owned.add(out)
        self.shapes.append(shape)

    def _layer(self) -> None:
        at = self._pick()
        shape = self.shapes[at]
        known = self.known.setdefault(shape, [])
        if not known or self.drawn.random() < 0.5:
            known.append(self._conv(shape) if len(shape) == 4 else self._linear(shape))
        layer = self.drawn.choice(known)
        if self.drawn.random() < 0.5:
            kind = "conv" if len(shape) == 4 else "linear"
            self._emit(kind, f"self.{layer.name}({{0}})", (at,), layer.shape, fresh=True)
        else:
            kind = layer.call.partition("(")[0]
            self._emit(kind, layer.call, (at,), layer.shape, fresh=True)

    def _linear(self, shape: Shape) -> _LayerCall:
        features, bias = self.drawn.choice((3, 8)), self.drawn.random() < 0.5
        name = f"linear{len(self.modules)}"
        self.modules[name] = f"nn.Linear({shape[-1]}, {features}, bias={bias})"
        call = f"F.linear({{0}}, weight=self.{name}.weight, bias=self.{name}.bias)"
        return _LayerCall(name, (*shape[:-1], features), call)

    def _conv(self, shape: Shape) -> _LayerCall:
        channels, bias = self.drawn.choice((4, 8)), self.drawn.random() < 0.5
        kernel, stride = self.drawn.choice(((1, 1), (3, 1), (3, 2)))
        groups = self.drawn.choice((1, 2)) if shape[1] % 2 == 0 else 1
        padding = kernel // 2
        name = f"conv{len(self.modules)}"
        options = f"stride={stride}, padding={padding}, groups={groups}"
        self.modules[name] = f"nn.Conv2d({shape[1]}, {channels}, {kernel}, {options}, bias={bias})"
        call = f"F.conv2d(input={{0}}, weight=self.{name}.weight, bias=self.{name}.bias, {options})"
        size = ((n + 2 * padding - kernel) // stride + 1 for n in shape[2:])
        return _LayerCall(name, (shape[0], channels, *size), call)

    def _relu(self) -> None:
        at = self._pick()
        texts = {**_RELUS, **_INPLACE} if at in self.owned else _RELUS
        kind = self.drawn.choice(tuple(texts))
        self._emit(kind, texts[kind], (at,), self.shapes[at], fresh=kind in _RELUS)
        if kind in _INPLACE:
            # What was overwritten may not be read again: its number now means the new value.
            self.steps[-1] = self.steps[-1]._replace(out=at)
            self.shapes.pop()

    def _norm(self) -> None:
        at = self._pick()
        shape = self.shapes[at]
        kind = "batch_norm" if len(shape) == 4 or self.drawn.random() < 0.5 else "layer_norm"
        name = f"{kind}{len(self.modules)}"
        makes = f"BatchNorm{2 if len(shape) == 4 else 1}d" if kind == "batch_norm" else "LayerNorm"
        self.modules[name] = f"nn.{makes}({shape[1]})"
        self._emit(kind, f"self.{name}({{0}})", (at,), shape, fresh=True)

    def _elementwise(self) -> None:
        at, kind = self._pick(), self.drawn.choice(tuple(_ELEMENTWISE))
        self._emit(kind, _ELEMENTWISE[kind], (at,), self.shapes[at], fresh=False)

    def _phrase(self) -> None:
        kind = self.drawn.choice(tuple(self.phrases))
        text = self.phrases[kind]
        first = self._pick()
        values = [first]
        while f"{{{len(values)}}}" in text:
            values.append(self._pick(lambda shape: shape == self.shapes[first]))
        self._emit(kind, text, values, self.shapes[first], fresh=False)

    def _binary(self) -> None:
        a = self._pick()
        b = self._pick(lambda shape: shape == self.shapes[a])
        kind = self.drawn.choice(tuple(_BINARY))
        self._emit(kind, _BINARY[kind], (a, b), self.shapes[a], fresh=True)

    def _cat(self) -> None:
        a = self._pick()
        shape = self.shapes[a]

        def joins(other: Shape) -> bool:
            return len(other) == len(shape) and other[0] == shape[0] and other[2:] == shape[2:]

        b = self._pick(joins)
        joined = (shape[0], shape[1] + self.shapes[b][1], *shape[2:])
        self._emit("cat", "torch.cat([{0}, {1}], dim=1)", (a, b), joined, fresh=True)

    def _shape(self) -> None:
        at = self._pick(lambda shape: len(shape) == 4)
        shape = self.shapes[at]
        names = [n for n in _SHAPES if "pool2d" not in n or min(shape[2:]) >= 2]
        names = [n for n in names if n not in ("chunk", "getitem") or shape[1] >= 4]
        kind = self.drawn.choice(names)
        text, result = _SHAPES[kind]
        self._emit(kind, text, (at,), result(shape), fresh="pool" in kind)
