"""Do kernels on PyTorch's quantized dtypes saturate here? See :mod:`qfx.backends.saturation`.

Each engine answers for itself, and for each kind of layer: "x86" takes fbgemm for linear layers and
oneDNN for most convolutions, if the CPU has VNNI; fbgemm's depthwise kernels saturate even then;
qnnpack never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qfx.backends.packing_engine import engine, silence_deprecation
from qfx.backends.saturation import (
    CONVOLUTIONS,
    DEPTHWISE,
    LARGEST,
    LINEARS,
    SaturationTrial,
    largest,
    measured,
    products,
)
from qfx.torch_private import make_per_tensor


class Layers(Enum):
    """Kinds of layers that an engine has kernels of its own for."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    DEPTHWISE = "depthwise"


def saturates(engine_name: str, layers: Layers) -> bool:
    """Whether the kernels of an engine saturate for a kind of layers."""
    return measured((engine_name, layers), partial(_trials, engine_name, layers))


def reduces(engine_name: str) -> bool:
    """Whether the layers of a backend that packs for an engine need activations of 7 bits.

    With "x86", depthwise convolutions are packed for oneDNN, whose kernels are faster.
    """
    depthwise = "onednn" if engine_name == "x86" else engine_name
    engines = {kind: engine_name for kind in Layers} | {Layers.DEPTHWISE: depthwise}
    return any(saturates(name, kind) for kind, name in engines.items())


def _trials(engine_name: str, layers: Layers) -> Iterator[SaturationTrial]:
    silence_deprecation()
    if layers is Layers.LINEAR:
        for sizes in LINEARS:
            yield partial(_under, engine_name, partial(_linear, *sizes)), sizes[1]
        return
    for shape in DEPTHWISE if layers is Layers.DEPTHWISE else CONVOLUTIONS:
        yield partial(_under, engine_name, partial(_conv, *shape)), products(*shape)


def _under(engine_name: str, run: Callable[[], Tensor]) -> Tensor:
    with engine(engine_name):
        return run()


def _quantized(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return make_per_tensor(largest(shape, dtype), 1.0, 0)


def _in_units(kernel: Any, codes: Tensor, packed: Any, terms: int) -> Tensor:
    """The result of a kernel that rounds it to so many steps that a lost product shows."""
    return kernel(codes, packed, LARGEST * terms / 250, 0).dequantize()  # type: ignore[no-any-return]


def _linear(rows: int, inputs: int, outputs: int) -> Tensor:
    weight = _quantized((outputs, inputs), torch.int8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    codes = _quantized((rows, inputs), torch.uint8)
    return _in_units(torch.ops.quantized.linear.default, codes, packed, inputs)


def _conv(dims: int, inputs: int, outputs: int, size: int, groups: int) -> Tensor:
    name, ones = f"conv{dims}d", [1] * dims
    weight = _quantized((outputs, inputs // groups, *[size] * dims), torch.int8)
    prepack = getattr(torch.ops.quantized, f"{name}_prepack")
    packed = prepack(weight, None, ones, [0] * dims, ones, groups)
    packet = getattr(torch.ops.quantized, name)
    kernel = packet.new if "new" in packet.overloads() else packet.default
    codes = _quantized((1, inputs, *[size + 5] * dims), torch.uint8)
    return _in_units(kernel, codes, packed, products(dims, inputs, outputs, size, groups))
