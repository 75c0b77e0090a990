"""How oneDNN's kernels on plain tensors are tried, for :mod:`qfx.backends.probing.probe`.

Small layers whose inputs cycle through 0, 127, 128 and 255 (codes up to 127 where the hardware
needs 7 bits), with and without zero point, grouped and depthwise, in both memory formats; the exact
result is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.backends.onednn import kernels, packing
from qfx.backends.onednn.arguments import (
    NO_POST_OP,
    Conv,
    ConvAdd,
    Geometry,
    Linear,
    LinearAdd,
    OnednnPostOp,
    Operands,
    OutputFormat,
    Residual,
)
from qfx.backends.onednn.as_convolutions import add_in_place, multiply
from qfx.backends.onednn.saturation import saturates
from qfx.backends.probing.trials import SIZES, Combination, Probe, ProbeRun
from qfx.semantics.post import POST_OPS

_ZERO_POINTS = (0, 63)
_ZERO = torch.zeros(1, dtype=torch.int32)


def _codes(*shape: int) -> Tensor:
    """Critical values at every position of a vector."""
    critical = (0, 127, 64, 1, 126) if saturates() else (0, 127, 128, 255, 1)
    return _cycle(torch.tensor(critical, dtype=torch.uint8), shape)


def _cycle(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    cycled: Tensor = values.repeat(-(-prod(shape) // len(values)))[: prod(shape)].reshape(shape)
    return cycled


def _spread(low: float, high: float, count: int) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float32)


def _formats(codes: Tensor) -> tuple[Tensor, ...]:
    return (codes, kernels.channels_last(codes)) if codes.dim() == 4 else (codes,)


# -- convolutions and linear layers --------------------------------------------------------------
_X_SCALE = 0.02
_RESIDUAL = (0.03, 100)
_ARGUMENTS: Mapping[str, list[float]] = {"clamp": [-1.0, 2.0], "leaky_relu": [0.1]}


@dataclass(frozen=True)
class _ProbedLayer:
    """A small convolution (1 to 3 dims) or linear layer (0 dims)."""

    dims: int
    codes: Tensor
    zero_point: int
    weight_shape: tuple[int, ...]
    groups: int = 1
    as_convolution: bool = False

    @property
    def case(self) -> str:
        return f"{list(self.codes.shape)} * {list(self.weight_shape)}, zero point {self.zero_point}"

    @property
    def weight(self) -> Tensor:
        critical = torch.tensor((127, -127, 1, -128, 0, 64, -3), dtype=torch.int8)
        return _cycle(critical, self.weight_shape)

    @property
    def scales(self) -> Tensor:
        """Per output channel, such that results are some units."""
        terms = prod(self.weight_shape[1:])
        return _spread(0.5, 1.0, self.weight_shape[0]) / (64.0 * sqrt(terms))

    @property
    def bias(self) -> Tensor:
        return _spread(-1.0, 1.0, self.weight_shape[0])

    @property
    def padding(self) -> int:
        return self.weight_shape[-1] // 2

    def per_channel(self, values: Tensor) -> Tensor:
        shaped: Tensor = values.double().reshape(-1, *[1] * self.dims)
        return shaped

    def exact(self) -> Tensor:
        """The result before post-ops, in float64."""
        x, w = self.codes.double() - self.zero_point, self.weight.double()
        if self.dims == 0:
            sums = F.linear(x, w)
        else:
            conv = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
            sums = conv(x, w, padding=self.padding, groups=self.groups)
        return sums * self.per_channel(self.scales) * _X_SCALE + self.per_channel(self.bias)

    def run(self, result: OutputFormat, residual: Tensor | None, post: OnednnPostOp) -> Tensor:
        """What the kernel gives."""
        added = None if residual is None else self._added(residual)
        return (self._conv if self.dims else self._linear)(result, added, post)

    def _linear(self, result: OutputFormat, added: Residual | None, post: OnednnPostOp) -> Tensor:
        if added is None:
            packed = self.pack(str(post.name))
            return multiply(Linear.of(self.read(packed), self.bias, result, post))
        packed = packing.pack_linear(self.weight, list(self.codes.shape))
        kernel, read = torch.ops.onednn.qlinear_pointwise, self.read(packed)
        summed: Tensor = kernel.binary(*LinearAdd.of(read, added, self.bias, result, post))
        return summed

    def pack(self, post: str) -> Tensor:
        """The weight of a linear layer, packed as small ones are, or as large ones."""
        if self.as_convolution and post in kernels.CONV_POST_OPS[2]:
            rows, shifted = len(self.codes), self.zero_point != 0
            return packing.pack_as_convolution((self.weight,), rows, shifted=shifted)
        return packing.pack_linear(self.weight, list(self.codes.shape))

    def _conv(self, result: OutputFormat, added: Residual | None, post: OnednnPostOp) -> Tensor:
        one, padding = [1] * self.dims, [self.padding] * self.dims
        geometry, shape = Geometry(one, padding, one, self.groups), list(self.codes.shape)
        scales, zero = self.scales, self.zero_point
        packed = packing.pack_conv(self.weight, scales, _X_SCALE, zero, *geometry, shape)
        kernel = getattr(torch.ops.onednn, f"qconv{self.dims}d_pointwise")
        read = self.read(packed)
        if added is None:
            plain: Tensor = kernel.default(*Conv.of(read, self.bias, geometry, result, post))
            return plain
        args = ConvAdd.of(read, added, self.bias, geometry, result, post)
        summed: Tensor = kernel.binary(*args)
        return summed

    def read(self, packed: Tensor) -> Operands:
        return Operands(self.codes, _X_SCALE, self.zero_point, packed, self.scales, _ZERO)

    def _added(self, residual: Tensor) -> Residual:
        is_float = residual.is_floating_point()
        qparams = (1.0, 0) if is_float else _RESIDUAL
        how = "add" if is_float and not self.dims else "sum"
        return Residual(kernels.clone_channels_last(residual), *qparams, how)


def _convolutions(dims: int) -> Iterator[_ProbedLayer]:
    points = [(1, size, 1, 1, 1) for size in SIZES[:4]]  # in, out, spatial, kernel, groups
    shapes = [*points, (4, 16, 5, 3, 1), (17, 17, 5, 3, 17), (8, 6, 5, 3, 2)]
    if dims == 2:
        shapes.append((3, 64, 8, 3, 1))  # 4096 elements
    for inputs, outputs, spatial, kernel, groups in shapes:
        for codes in _formats(_codes(1, inputs, *[spatial] * dims)):
            for zero_point in _ZERO_POINTS:
                weight = (outputs, inputs // groups, *[kernel] * dims)
                yield _ProbedLayer(dims, codes, zero_point, weight, groups)


def _linears() -> Iterator[_ProbedLayer]:
    for rows, inputs, outputs in (*((1, 7, size) for size in SIZES), (17, 33, 15), (3, 4096, 16)):
        for zero_point in _ZERO_POINTS:
            layer = _ProbedLayer(0, _codes(rows, inputs), zero_point, (outputs, inputs))
            yield layer
            if saturates():
                yield replace(layer, as_convolution=True)


def _layer_trials(
    layers: Callable[[], Iterator[_ProbedLayer]], combination: Combination
) -> Iterator[ProbeRun]:
    for layer in layers():
        exact = layer.exact()
        residual = None
        for name in combination.post:
            if name == "add":
                residual = _residual(exact, combination.dtype)
                exact = exact + _real(residual)
            else:
                exact = POST_OPS[name](exact, *_ARGUMENTS.get(name, ()))
        yield _trial(
            layer.case, exact, combination.dtype, partial(_run, layer, residual, combination)
        )


def _run(
    layer: _ProbedLayer,
    residual: Tensor | None,
    combination: Combination,
    output: tuple[float, int, torch.dtype],
) -> Tensor:
    names = [name for name in combination.post if name != "add"]
    name = names[0] if names else "none"
    algorithm = "none" if name == "gelu" else ""
    post = OnednnPostOp(kernels.POST_OP_NAMES.get(name, name), _ARGUMENTS.get(name, []), algorithm)
    return layer.run(OutputFormat(*output), residual, post)


def _residual(like: Tensor, dtype: torch.dtype) -> Tensor:
    codes = _codes(*like.shape)
    return _real(codes).float() if dtype == torch.float32 else codes


def _real(residual: Tensor) -> Tensor:
    if residual.is_floating_point():
        return residual.double()
    scale, zero_point = _RESIDUAL
    return (residual.double() - zero_point) * scale


def _trial(
    case: str, exact: Tensor, dtype: torch.dtype, run: Callable[[tuple[object, ...]], Tensor]
) -> ProbeRun:
    """Run for a result of ``dtype``, and put result and exact values on the scale of codes."""
    if dtype == torch.float32:
        step = 1e-3
        return ProbeRun(case, run((1.0, 0, dtype)).double() / step, exact / step)
    low, high = min(0.0, float(exact.min())), max(1e-2, float(exact.max()))
    scale = (high - low) / 240  # a few codes of room, so that saturation is not all there is
    zero_point = round(-low / scale)
    return ProbeRun(
        case, run((scale, zero_point, dtype)), (exact / scale + zero_point).clamp(0, 255)
    )


# -- the rest ------------------------------------------------------------------------------------
def _images() -> Iterator[Tensor]:
    for channels, side in ((1, 1), (15, 1), (16, 1), (17, 1), (64, 8), (3, 7)):
        yield from _formats(_codes(1, channels, side, side))


def _accumulations(combination: Combination) -> Iterator[ProbeRun]:
    """The linear kernel, adding to float32 values where they are; whatever it is to hand out."""
    for layer in _linears():
        exact = layer.exact()
        residual = _residual(exact, torch.float32)

        def run(
            _: tuple[object, ...], layer: _ProbedLayer = layer, residual: Tensor = residual
        ) -> Tensor:
            read, sums = layer.read(layer.pack("none")), residual.clone()
            added, real = Residual(sums, 1.0, 0, "sum"), OutputFormat(1.0, 0, torch.float32)
            add_in_place(LinearAdd.of(read, added, layer.bias, real, NO_POST_OP))
            return sums

        yield _trial(layer.case, exact + residual.double(), torch.float32, run)


def _max_pool2d(combination: Combination) -> Iterator[ProbeRun]:
    for codes in _images():
        got = kernels.max_pool2d(codes, (3, 3), (2, 2), (1, 1))
        yield ProbeRun(f"{list(codes.shape)}", got, F.max_pool2d(codes.double(), 3, 2, 1))


def _qadd(combination: Combination) -> Iterator[ProbeRun]:
    for size in SIZES:
        a, b = _codes(size), _codes(size).flip(0)
        exact = (a.double() - 10) * 0.02 + (b.double() - 20) * 0.01

        def run(output: tuple[object, ...], a: Tensor = a, b: Tensor = b) -> Tensor:
            result: Tensor = torch.ops.onednn.qadd.tensor(a, 0.02, 10, b, 0.01, 20, *output)
            return result

        yield _trial(f"{size} elements", exact, combination.dtype, run)


PROBES: Mapping[str, Probe] = {
    "onednn.qconv1d": partial(_layer_trials, partial(_convolutions, 1)),
    "onednn.qconv2d": partial(_layer_trials, partial(_convolutions, 2)),
    "onednn.qconv3d": partial(_layer_trials, partial(_convolutions, 3)),
    "onednn.qlinear": partial(_layer_trials, _linears),
    "onednn.qlinear, by step": _accumulations,
    "onednn.qadd": _qadd,
    "uint8 max_pool2d": _max_pool2d,
}
"""How each kernel is tried, by its name in backend tables."""
