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

from qfx.backends.quantized_engine import engine, silence_deprecation
from qfx.backends.saturation import (
    CONVOLUTIONS,
    DEPTHWISE,
    LARGEST,
    LINEARS,
    Trial,
    largest,
    measured,
    products,
)

_TRANSPOSED = ((1, 32, 32, 3, 1), (2, 32, 32, 3, 1), (2, 32, 32, 3, 2))


class Layers(Enum):
    """Kinds of layers that an engine has kernels of its own for."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    DEPTHWISE = "depthwise"
    TRANSPOSED = "transposed"


def saturates(engine_name: str, layers: Layers) -> bool:
    """Whether the kernels of an engine saturate for a kind of layers."""
    return measured((engine_name, layers), partial(_trials, engine_name, layers))


def reduces(engine_name: str) -> bool:
    """Whether the layers of a backend that packs for an engine need activations of 7 bits.

    With "x86", transposed convolutions are packed for fbgemm, and depthwise ones for oneDNN, whose
    kernels are faster than fbgemm's.
    """
    others = {Layers.TRANSPOSED: "fbgemm", Layers.DEPTHWISE: "onednn"}
    engines = {kind: engine_name for kind in Layers} | (others if engine_name == "x86" else {})
    return any(saturates(name, kind) for kind, name in engines.items())


def _trials(engine_name: str, layers: Layers) -> Iterator[Trial]:
    silence_deprecation()
    if layers is Layers.LINEAR:
        for sizes in LINEARS:
            yield partial(_under, engine_name, partial(_linear, *sizes)), sizes[1]
        return
    shapes = {
        Layers.CONVOLUTION: CONVOLUTIONS,
        Layers.DEPTHWISE: DEPTHWISE,
        Layers.TRANSPOSED: _TRANSPOSED,
    }
    for shape in shapes[layers]:
        run = partial(_conv, *shape, transposed=layers is Layers.TRANSPOSED)
        yield partial(_under, engine_name, run), products(*shape)


def _under(engine_name: str, run: Callable[[], Tensor]) -> Tensor:
    with engine(engine_name):
        return run()


def _quantized(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch._make_per_tensor_quantized_tensor(largest(shape, dtype), 1.0, 0)


def _in_units(kernel: Any, codes: Tensor, packed: Any, terms: int) -> Tensor:
    """The result of a kernel that rounds it to so many steps that a lost product shows."""
    return kernel(codes, packed, LARGEST * terms / 250, 0).dequantize()  # type: ignore[no-any-return]


def _linear(rows: int, inputs: int, outputs: int) -> Tensor:
    weight = _quantized((outputs, inputs), torch.int8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    codes = _quantized((rows, inputs), torch.uint8)
    return _in_units(torch.ops.quantized.linear.default, codes, packed, inputs)


def _conv(
    dims: int, inputs: int, outputs: int, size: int, groups: int, *, transposed: bool
) -> Tensor:
    name = f"conv_transpose{dims}d" if transposed else f"conv{dims}d"
    ones, none = [1] * dims, [0] * dims
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    weight = _quantized((*shape, *[size] * dims), torch.int8)
    extra = [none] if transposed else []
    prepack = getattr(torch.ops.quantized, f"{name}_prepack")
    packed = prepack(weight, None, ones, none, *extra, ones, groups)
    packet = getattr(torch.ops.quantized, name)
    kernel = packet.new if "new" in packet.overloads() else packet.default
    codes = _quantized((1, inputs, *[size + 5] * dims), torch.uint8)
    terms = products(dims, inputs, outputs, size, groups)
    y = _in_units(kernel, codes, packed, terms)
    # At the border of a transposed convolution fewer products meet.
    for d in range(2, dims + 2) if transposed else ():
        y = y.narrow(d, size - 1, y.shape[d] - 2 * (size - 1))
    return y
