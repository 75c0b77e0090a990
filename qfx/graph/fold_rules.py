"""What batch-norms yield, and folding them into the layer before, by arithmetic of shapes.

See :mod:`qfx.semantics.folding` for what each operation computes.
"""

from __future__ import annotations

from torch import nn

from qfx.graph.meta import TensorInfo
from qfx.graph.shape_arithmetic import Told, fit, have


def fold_weight(
    weight: TensorInfo,
    var: TensorInfo,
    gamma: TensorInfo | None,
    eps: object,
    groups: int,
    transposed: bool,
) -> Told:
    """The weight, where there is a number for each output channel."""
    if not fit(var, gamma) or not have(var.shape, gamma):
        return None
    return scale_channels(weight, var, groups, transposed)


def scale_channels(weight: TensorInfo, factor: TensorInfo, groups: int, transposed: bool) -> Told:
    """The weight, where there is a factor for each output channel."""
    if not fit(weight, factor) or len(weight.shape) < 2:
        return None
    if transposed and weight.shape[0] % groups:
        return None
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return weight if have((channels,), factor) else None


def unscale_channels(input: TensorInfo, factor: TensorInfo, bias: TensorInfo | None) -> Told:
    """The input, where there is a factor for each channel along dim 1."""
    if not fit(input, factor, bias) or len(input.shape) < 2:
        return None
    return input if have(input.shape[1:2], factor, bias) else None


def fold_bias(mean: TensorInfo, eps: object, **others: TensorInfo | None) -> Told:
    """The mean, where all that is added has its shape."""
    operands = others.values()
    return mean if fit(mean, *operands) and have(mean.shape, *operands) else None


_DIMS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}


def normed(module: nn.Module, *operands: object, **options: object) -> Told:
    """The input of a batch-norm of PyTorch's own, where it fits; nothing of other modules."""
    dims = _DIMS.get(type(module), ())
    (input,) = operands if len(operands) == 1 and not options else (None,)
    if not isinstance(input, TensorInfo) or not fit(input) or len(input.shape) not in dims:
        return None
    if module.training and input.numel == input.shape[1]:
        return None  # one value a channel has no variance
    return input if input.shape[1] == module.num_features else None
