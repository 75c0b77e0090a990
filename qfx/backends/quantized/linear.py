"""Linear layers of ``torch.ops.quantized`` on inputs of any rank, and on empty ones.

The kernels want two dims at least, and oneDNN's of measured inputs gives two where there is nothing
to compute. Both are known when a model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor
from torch.compiler import is_compiling

from qfx.torch_private import at_once

_ops = torch.ops.quantized


def _of_any_rank(kernel: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    eager = at_once(kernel)

    def run(x: Tensor, *rest: object) -> Tensor:
        call = kernel if is_compiling() else eager
        if x.dim() == 2 or (x.dim() > 2 and x.numel()):
            return call(x, *rest)
        lead = x.shape[:-1]
        y = call(x.reshape(prod(lead), x.shape[-1]), *rest)
        return y.reshape(*lead, y.shape[-1])

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"``quantized::{name}`` on an input (..., in)."
    return run


linear = _of_any_rank(_ops.linear.default, "linear")
linear_relu = _of_any_rank(_ops.linear_relu.default, "linear_relu")
linear_dynamic = _of_any_rank(_ops.linear_dynamic.default, "linear_dynamic")
linear_relu_dynamic = _of_any_rank(_ops.linear_relu_dynamic.default, "linear_relu_dynamic")

_FUNCTIONS = (linear, linear_relu, linear_dynamic, linear_relu_dynamic)
LINEAR: Mapping[str, Callable[..., Tensor]] = {f.__name__: f for f in _FUNCTIONS}
