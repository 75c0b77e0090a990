"""Convolutions that prove themselves at the geometry of the call, before they are used.

oneDNN's AMX kernels take the taps of a row together where that fills a tile's row of 64 bytes
better, and get some of these wrong by hundreds of steps (torch 2.13; 27,000 random geometries, 1 to
3 dims):

* 4, 8, ... 28 input channels a group, and a multiple of 64 for channels times taps in a row, from
  128 on: ``conv1d(16, 16, 8)``, grouped or not; ``conv2d(3, 768, 32, stride=32)`` with a fourth
  channel.
* Groups of fewer than 64 input channels and more than 16 output channels, from 33 on nearly all.

Both only where the last dim has several taps that lie side by side, and most of them at some
sizes of the input only. So each call of that kind is tried once per process, as it will run (the
shape that is packed, zero point, post-op, dtype of the result), on codes in a row of co-prime
steps, at the size of the example and at sizes that showed all but 2 of 700 known ones. What other
forms a convolution has: :mod:`qfx.backends.onednn.conv_forms`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx.backends.onednn import kernels
from qfx.backends.onednn.arguments import Operands, OutputFormat, Residual
from qfx.backends.onednn.conv_calls import ConvCall, Ending, Sizes, pack, write, write_sum
from qfx.backends.onednn.conv_forms import ConvForm, Reads, forms, size_of
from qfx.backends.probing.slow_geometries import TooSlow
from qfx.backends.probing.trials import ProbeRun
from qfx.rewrite.pattern import Mismatch
from qfx.semantics.post import POST_OPS

_EXTENTS = {1: (64, 100, 300), 2: (14, 20, 28), 3: (4, 10)}
_ROW = 64  # bytes
_MOST = 1 << 24  # elements of an input that is tried; larger ones are tried in part
_MOST_COLUMNS = 1 << 24  # numbers that a group reads, each as often as it does: 128 MiB
_PLAIN = Ending(shifted=True, dtype=torch.float32)

Run = Callable[[ConvCall, Ending, Tensor, Tensor, "Numbers"], Tensor]
"""Runs a call on codes and weight."""


def is_suspect(call: ConvCall) -> bool:
    """Whether a call is of a kind that may go wrong; depthwise kernels are others."""
    weight, groups = call.weight, call.groups
    channels, taps = weight[1], weight[-1]
    if taps == 1 or channels >= _ROW:
        return False
    grouped = groups > 1 and (channels > 1 or weight[0] > groups)
    return grouped or channels * taps > _ROW


def fault(call: ConvCall, ending: Ending, size: Sizes, run: Run | None = None) -> str:
    """What is wrong with a call at one of some input sizes, ``size`` among them, or ""."""
    sizes = (size, *((extent,) * call.dims for extent in _EXTENTS[call.dims]))
    threads = torch.get_num_threads()
    faults = (_fault(call, ending, tuple(s), run or run_call, threads) for s in sizes)
    return next((text for text in faults if text), "")


USUAL = ("as it is", "image")
"""The forms of which only suspects are tried; to the others one comes by suspicion."""


def right_form(node: fx.Node, ending: Ending, *, pixels: bool) -> ConvForm | Mismatch:
    """The first form of a convolution whose calls are right with an ending, and fast."""
    size = size_of(node)
    fast = [form for form in forms(node) if not form.is_slow]
    if not fast:
        return _slow(node)
    for form in fast:
        if form.reads is Reads.PIXELS and not pixels:
            continue
        if ending.adds and len(form.parts) > 1:
            continue  # a residual is not in pieces
        usual = form.name in USUAL
        suspects = (p.call for p in form.parts if not usual or is_suspect(p.call))
        if not any(fault(call, ending, size) for call in suspects):
            return form
    return _wrong(node)


def refuse_wrong(node: fx.Node) -> Mismatch | None:
    """Refuse a convolution no form of which is right and fast, whatever it reads and hands out."""
    if not forms(node):
        return None
    form = right_form(node, _PLAIN, pixels=False)
    return form if isinstance(form, Mismatch) else None


def _whole(node: fx.Node) -> ConvCall:
    return next(form for form in forms(node) if form.name == "as it is").parts[0].call


def _slow(node: fx.Node) -> Mismatch:
    call = _whole(node)
    return TooSlow(
        "convolutions of {0} to {1} channels a group ({2} groups)",
        call.weight[1], call.weight[0] // call.groups, call.groups,
    )  # fmt: skip


def _wrong(node: fx.Node) -> Mismatch:
    whole = _whole(node)
    return Mismatch(
        "onednn.qconv{0}d is wrong here for kernel {1}, {2} to {3} channels and groups={4}",
        whole.dims, whole.weight[2:], whole.weight[1] * whole.groups, whole.weight[0], whole.groups,
    )  # fmt: skip


# -- one trial -----------------------------------------------------------------------------------
class Numbers:
    """The qparams of a trial: results of a few units, in most of the codes that there are."""

    def __init__(self, sums: Tensor, ending: Ending) -> None:
        peak = float(sums.abs().max().clamp(min=1))
        self.zero_point = 3 if ending.shifted else 0
        self.x_scale = 4.0 / peak
        whole = ending.dtype == torch.float32
        self.output: tuple[Any, ...] = (1.0, 0) if whole else (8.0 / 200, 100)
        self.residual = (1.0, 0) if whole else (4.0 / 200, 50)


@cache
def _fault(call: ConvCall, ending: Ending, size: Sizes, run: Run, threads: int) -> str:
    kernel = zip(call.weight[2:], call.dilation, call.stride, strict=True)
    least = tuple(d * (k - 1) + 1 + s for k, d, s in kernel)
    size = _within(call, size, least)
    if not _can_be_tried(call, size) or prod(call.weight) > _MOST:
        return f"{list(size)} is too large to be tried"
    with torch.inference_mode(), torch.device("cpu"):
        codes = _ramp((1, call.weight[1] * call.groups, *size), 37, 128, 0, torch.uint8)
        weight = _ramp(call.weight, 53, 255, -127, torch.int8)
        return _trial(call, ending, codes, weight, run).fault()


def _within(call: ConvCall, size: Sizes, least: Sizes) -> Sizes:
    """``size``, no smaller than ``least``, and halved where that is long until it can be tried."""
    extents = [max(n, m) for n, m in zip(size, least, strict=True)]
    while not _can_be_tried(call, tuple(extents)):
        shorter = [max(n // 2, m) for n, m in zip(extents, least, strict=True)]
        if shorter == extents:
            break
        at = max(range(len(extents)), key=lambda i: extents[i] - shorter[i])
        extents[at] = shorter[at]
    return tuple(extents)


def _can_be_tried(call: ConvCall, size: Sizes) -> bool:
    """Whether a trial takes no more memory than is worth it, whatever size a file tells."""
    padded = prod(n + 2 * p for n, p in zip(size, call.padding, strict=True))
    if padded * max(call.weight[1] * call.groups, call.weight[0]) > _MOST:
        return False
    _, outputs, *positions = call.result((1, 0, *size))  # in float64, a matrix of what each reads
    columns = prod(positions) * prod(call.weight[1:])
    return columns <= _MOST_COLUMNS and prod(positions) * outputs <= _MOST


def _ramp(shape: Sizes, step: int, count: int, start: int, dtype: torch.dtype) -> Tensor:
    values: Tensor = torch.arange(prod(shape)) * step % count + start
    return values.to(dtype).reshape(shape)


def _trial(call: ConvCall, ending: Ending, codes: Tensor, weight: Tensor, run: Run) -> ProbeRun:
    convolve = (F.conv1d, F.conv2d, F.conv3d)[call.dims - 1]
    shifted = codes.double() - (3 if ending.shifted else 0)
    sums = convolve(shifted, weight.double(), None, *call.geometry)
    numbers = Numbers(sums, ending)
    exact = sums * numbers.x_scale
    if ending.adds:
        scale, zero = numbers.residual
        exact = exact + (residual(exact, ending).double() - zero) * scale
    name, values, _ = ending.post
    exact = POST_OPS[_NAMES[name]](exact, *values) if name in _NAMES else exact
    got = run(call, ending, codes, weight, numbers)
    case = f"{list(codes.shape)} * {list(call.weight)}"
    if ending.dtype == torch.float32:
        step = 4e-3
        return ProbeRun(case, got.double() / step, exact / step)
    scale, zero = numbers.output
    return ProbeRun(case, got, (exact / scale + zero).clamp(0, 255))


_NAMES = {theirs: ours for ours, theirs in kernels.POST_OP_NAMES.items()}


def residual(like: Tensor, ending: Ending) -> Tensor:
    """What a trial adds to: codes, or floats that are as simple."""
    codes = _ramp(tuple(like.shape), 29, 100, 0, torch.uint8)
    return (codes.float() / 50 if ending.dtype == torch.float32 else codes).contiguous(
        memory_format=torch.channels_last
    )


def run_call(
    call: ConvCall, ending: Ending, codes: Tensor, weight: Tensor, numbers: Numbers
) -> Tensor:
    """What oneDNN's kernel on plain tensors gives, written and packed as lowering does."""
    outputs = call.weight[0]
    scales, zeros = (
        torch.full((outputs,), 1.0, dtype=torch.float32),
        torch.zeros(outputs, dtype=torch.int8),
    )
    x = (numbers.x_scale, numbers.zero_point)
    packed = pack(call, weight, scales, x, tuple(codes.shape))
    read = Operands(kernels.channels_last(codes), *x, packed, scales, zeros)
    (scale, zero), name = numbers.output, ending.post.name
    result = OutputFormat(scale, zero, ending.dtype)
    if not ending.adds:
        kernel, args = write(call, read, None, result, ending.post, known=True)
        plain: Tensor = kernel(*args)
        return plain
    shape = (F.conv1d, F.conv2d, F.conv3d)[call.dims - 1](
        codes.float(), weight.float(), None, *call.geometry
    )
    added = Residual(residual(shape, ending), *numbers.residual)
    kernel, args = write_sum(call, read, added, None, result, None if name == "none" else name)
    summed: Tensor = kernel(*args)
    return summed
