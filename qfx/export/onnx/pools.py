"""Pools, interpolation and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from qfx.export.onnx.pads import padded
from qfx.export.onnx.values import Dequantized, Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer


N = TypeVar("N", int, float)


def each(value: N | Sequence[N], dims: int) -> tuple[N, ...]:
    """One number for each spatial dim."""
    given = tuple(value) if isinstance(value, Sequence) else (value,)
    return given * dims if len(given) == 1 else given


def _dims(w: Writer, input: Operand) -> int:
    """How many spatial dims; pools of ONNX want a batch."""
    assert w.node is not None
    dims: int = w.node.target.dims  # type: ignore[union-attr]
    if w.info(input).rank != dims + 2:
        raise CannotWrite("a pool without a batch dimension", "Give the model batches.")
    return dims


def max_pool(
    w: Writer,
    input: Operand,
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    ceil_mode: bool,
    return_indices: bool,
    spread: Sequence[int],
    fill: float,
) -> ir.Value:
    if return_indices:
        raise CannotWrite("indices of maxima, which ONNX counts otherwise", "Do without them.")
    dims = _dims(w, input)
    if spread:
        input = padded(w, input, spread, "constant", fill)
    return w.op(
        "MaxPool",
        input,
        kernel_shape=each(kernel_size, dims),
        strides=each(stride or kernel_size, dims),
        pads=each(padding, dims) * 2,
        dilations=each(dilation, dims),
        ceil_mode=int(ceil_mode),
    )


def avg_pool(
    w: Writer,
    input: Operand,
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> ir.Value:
    dims = _dims(w, input)
    if divisor_override is not None and ceil_mode:
        raise CannotWrite("divisor_override with ceil_mode", "Do without one of them.")
    made = w.op(
        "AveragePool",
        input,
        kernel_shape=each(kernel_size, dims),
        strides=each(stride or kernel_size, dims),
        pads=each(padding, dims) * 2,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad or divisor_override is not None),
    )
    if divisor_override is None:
        return made
    area = math.prod(each(kernel_size, dims))
    return w.op("Mul", made, w.scalar(area / divisor_override, torch.float32))


def lp_pool(
    w: Writer,
    input: Operand,
    *,
    norm_type: float,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    ceil_mode: bool,
) -> ir.Value:
    if norm_type <= 0 or norm_type % 2:  # ONNX takes powers of what is made positive
        raise CannotWrite("a power-average pool whose order is not even", "Choose an even order.")
    if ceil_mode:
        raise CannotWrite("a power-average pool with ceil_mode", "Do without it.")
    dims = _dims(w, input)
    return w.op(
        "LpPool",
        input,
        p=int(norm_type),
        kernel_shape=each(kernel_size, dims),
        strides=each(stride or kernel_size, dims),
    )


def adaptive_avg_pool(
    w: Writer, input: Operand, *, output_size: int | Sequence[int | None]
) -> Operand:
    return _adaptive(w, input, output_size, "AveragePool")


def adaptive_max_pool(
    w: Writer, input: Operand, *, output_size: int | Sequence[int | None]
) -> Operand:
    return _adaptive(w, input, output_size, "MaxPool")


def _adaptive(
    w: Writer, input: Operand, output_size: int | Sequence[int | None], kind: str
) -> Operand:
    """A pool over everything; where the output's sizes divide the input's, windows of one size."""
    dims = _dims(w, input)
    wanted: tuple[int | None, ...] = (
        (output_size,) * dims if isinstance(output_size, int) else tuple(output_size)
    )
    if all(size == 1 for size in wanted):
        return w.op(f"Global{kind}", input)
    have = w.info(input).shape[2:]
    steps = [1 if want is None else _step(h, want) for h, want in zip(have, wanted, strict=True)]
    if all(step == 1 for step in steps):
        return input
    return w.op(kind, input, kernel_shape=tuple(steps), strides=tuple(steps))


def _step(have: int | str, want: int) -> int:
    if not isinstance(have, int):
        raise CannotWrite(
            f"an adaptive pool to {want} of a size that is not fixed",
            "Fix the sizes of the input (dynamic_shapes), or pool to 1.",
            by_size=True,
        )
    if have % want:
        raise CannotWrite(
            f"an adaptive pool from {have} to {want}, whose windows differ in size",
            "Pool to a size that divides the input's.",
        )
    return have // want


# -- interpolation ---------------------------------------------------------------------------------
_MODES = {
    "nearest": ("nearest", "asymmetric"),
    "linear": ("linear", "half_pixel"),
    "bilinear": ("linear", "half_pixel"),
    "trilinear": ("linear", "half_pixel"),
    "bicubic": ("cubic", "half_pixel"),
    "nearest-exact": ("nearest", "half_pixel"),
}


def interpolate(
    w: Writer,
    input: Operand,
    *,
    size: int | Sequence[int | Number] | None,
    scale_factor: float | Sequence[float] | None,
    mode: str,
    align_corners: bool | None,
    recompute_scale_factor: bool | None,
    antialias: bool,
) -> ir.Value:
    if mode not in _MODES:
        raise CannotWrite(f"interpolation with mode={mode!r}", "Use a mode that Resize has.")
    kind, place = _MODES[mode]
    dims = w.info(input).rank - 2
    scales, sizes = None, None
    if size is not None:
        whole = (size,) * dims if isinstance(size, (int, Number)) else tuple(size)
        # Of all dims: ONNX Runtime loses sizes of some where it turns a Resize to channels last.
        sizes = w.vector((*(w.size(input, d) for d in (0, 1)), *whole))
    elif recompute_scale_factor:
        raise CannotWrite("recompute_scale_factor", "Give the size of the result.")
    else:
        assert scale_factor is not None
        factors = each(scale_factor, dims)
        scales = w.vector([1.0, 1.0, *(float(factor) for factor in factors)])
    return w.op(
        "Resize",
        input,
        None,
        scales,
        sizes,
        mode=kind,
        coordinate_transformation_mode="align_corners" if align_corners else place,
        nearest_mode=("floor" if mode == "nearest" else "round_prefer_ceil")
        if kind == "nearest"
        else None,
        cubic_coeff_a=-0.75 if kind == "cubic" else None,
        antialias=int(antialias),
    )


# -- reductions ------------------------------------------------------------------------------------
def mean(w: Writer, input: Operand, *, dim: object, keepdim: bool) -> ir.Value:
    return reduced(w, "ReduceMean", input, dim, keepdim)


def sum(w: Writer, input: Operand, *, dim: object, keepdim: bool) -> ir.Value:
    dtype = w.info(input).dtype
    wide = input if dtype.is_floating_point else w.cast(input, torch.int64)
    return reduced(w, "ReduceSum", wide, dim, keepdim)


def amax(w: Writer, input: Operand, *, dim: object, keepdim: bool) -> ir.Value:
    return reduced(w, "ReduceMax", input, dim, keepdim)


def amin(w: Writer, input: Operand, *, dim: object, keepdim: bool) -> ir.Value:
    return reduced(w, "ReduceMin", input, dim, keepdim)


def prod(w: Writer, input: Operand, *, dim: object, keepdim: bool) -> ir.Value:
    return reduced(w, "ReduceProd", input, dim, keepdim)


def logsumexp(w: Writer, input: Operand, *, dim: object, keepdim: bool) -> ir.Value:
    return reduced(w, "ReduceLogSumExp", input, dim, keepdim)


def extreme_along(kind: str) -> Callable[..., tuple[ir.Value, ir.Value]]:
    """What writes the largest or the smallest along a dim, and where they are."""

    def write(w: Writer, input: Operand, *, dim: int, keepdim: bool) -> tuple[ir.Value, ir.Value]:
        places = w.op(f"Arg{kind}", input, axis=dim, keepdims=int(keepdim))
        return reduced(w, f"Reduce{kind}", input, dim, keepdim), places

    return write


def reduced(w: Writer, kind: str, input: Operand, dim: Any, keepdim: bool) -> ir.Value:
    """Over all dims if none is named."""
    dims = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    spatial = tuple(range(2, w.info(input).rank))
    if kind == "ReduceMean" and _is_pool(w, input, dims, spatial):
        pooled = w.op("GlobalAveragePool", input)
        return pooled if keepdim else w.op("Squeeze", pooled, w.vector(list(spatial)))
    axes = w.vector(list(dims)) if dims else None
    return w.op(kind, input, axes, keepdims=int(keepdim))


def _is_pool(w: Writer, input: Operand, dims: tuple[int, ...], spatial: tuple[int, ...]) -> bool:
    """Whether a mean is one over images, which engines compute in integers as a pool."""
    rank = w.info(input).rank
    return (
        rank == 4
        and isinstance(input, Dequantized)
        and tuple(sorted(d % rank for d in dims)) == spatial
    )
