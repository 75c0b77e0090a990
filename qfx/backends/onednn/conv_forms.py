"""Ways to compute a convolution on x86, each made of calls of oneDNN's kernels.

    as it is       y = conv(x, w)
    image          y = conv([x ?], [w 0])                     three channels, and a fourth
    in pieces      y = weave(conv(x, w[:16]), conv(x, w[16:]))  so many outputs of each group a call
    wide groups    y = conv(x, diag(w1 .. wm))                m groups as one, with zeros between
    more channels  y = conv([x 0], [w 0])                     four channels more
    phases         y = weave(conv(x, W'))                     transposed convolutions

Some kernels are wrong at some geometries (:mod:`qfx.backends.onednn.verified_convs`), and some are
slow, so a convolution takes the first form whose calls are right and fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from qfx.backends.onednn import transposed_convs as transpose
from qfx.backends.onednn.conv_calls import ConvCall, Sizes
from qfx.backends.onednn.operands import expand
from qfx.backends.onednn.overhang import outer_padding
from qfx.graph import meta
from qfx.vocab import bound

WeightChange = Callable[[Tensor], Tensor]

PIECE = 16
"""Output channels of a group in one call: a tile's worth."""

MOST_WORK = 4
"""How many times the products a form may compute: int8 instructions do so many more than float."""


BLOCK = 4
"""Channels that oneDNN's kernels for groups take at a time."""


@dataclass(frozen=True)
class Part:
    """One call of a form, and what it reads of the layer's constants.

    Attributes:
        call: the call.
        weight: the codes to pack, given the layer's.
        channels: values per output channel (scales, biases), given the layer's.
    """

    call: ConvCall
    weight: WeightChange
    channels: WeightChange


class Reads(Enum):
    """What a form makes of its input."""

    AS_IT_IS = "as it is"
    PIXELS = "pixels"


@dataclass(frozen=True)
class ConvForm:
    """A way to compute a convolution.

    Attributes:
        name: for messages and keys.
        parts: the calls; the results of several are woven together, group by group.
        reads: what becomes of the input.
    """

    name: str
    parts: tuple[Part, ...]
    reads: Reads = Reads.AS_IT_IS

    @property
    def is_slow(self) -> bool:
        """Whether a call goes to oneDNN's reference kernel, which takes 15 to 70 times as long.

        That is where a group's channels, in or out, are no whole blocks, but for depthwise kernels
        in 1d and 2d (one core with AVX2, torch 2.13, 3 taps a dim; others take 0.3 to 1.8 times as
        long as float).
        """
        return any(map(_is_slow, (part.call for part in self.parts)))


def _is_slow(call: ConvCall) -> bool:
    inputs, outputs = call.weight[1], call.weight[0] // call.groups
    depthwise = inputs == outputs == 1 and call.dims < 3
    if call.groups == 1 or depthwise:
        return False
    return inputs % BLOCK != 0 or outputs % BLOCK != 0


# -- the forms of a layer ------------------------------------------------------------------------
def forms(node: fx.Node) -> tuple[ConvForm, ...]:
    """Every form of a convolution, plain or transposed, the best first; empty if shapes are open.

    Those that read pixels are for inputs that are quantized for the convolution alone.
    """
    weight, arguments = _shape(bound(node)["weight"]), bound(node)
    if not weight:
        return ()
    transposed = "output_padding" in arguments
    plain = _phases(weight, arguments) if transposed else _as_it_is(weight, arguments)
    whole = ConvForm("as it is", (plain,))
    found = [whole, *_wide_groups(plain), *_more_channels(plain)]
    if not transposed:
        found = [*_pixels(plain), whole, *_pieces(plain), *found[1:]]
    return tuple(found)


def as_it_is(node: fx.Node) -> ConvCall | None:
    """The call of a plain convolution as it is; None if shapes are open."""
    weight = _shape(bound(node)["weight"])
    return _as_it_is(weight, bound(node)).call if weight else None


def phases(node: fx.Node) -> ConvCall | None:
    """The call of the phases of a transposed convolution; None if shapes are open."""
    weight = _shape(bound(node)["weight"])
    return _phases(weight, bound(node)).call if weight else None


def size_of(node: fx.Node) -> Sizes:
    """The spatial size of a convolution's input, as captured."""
    return _shape(bound(node)["input"])[2:]


def _shape(value: object) -> Sizes:
    info = meta.tensor_info(value) if isinstance(value, fx.Node) else None
    return () if info is None else tuple(info.shape)


def _same(values: Tensor) -> Tensor:
    return values


def _as_it_is(weight: Sizes, arguments: Any) -> Part:
    dims = len(weight) - 2
    names = ("stride", "padding", "dilation")
    stride, padding, dilation = (tuple(expand(arguments[n], dims)) for n in names)
    inner, outer = outer_padding(weight[2:], padding, dilation)
    groups = arguments["groups"]
    call = ConvCall(weight, stride, tuple(inner), dilation, groups, tuple(outer))
    return Part(call, _same, _same)


def _phases(weight: Sizes, arguments: Any) -> Part:
    """The convolution whose output channels are the phases of a transposed one."""
    dims, groups = len(weight) - 2, arguments["groups"]
    names = ("stride", "padding", "output_padding")
    stride, padding, extra = (expand(arguments[n], dims) for n in names)
    taps = transpose.phase_taps(weight[2:], stride, padding, extra)
    shape = (weight[1] * groups * prod(stride), weight[0] // groups, *taps)
    ones, reach = (1,) * dims, tuple(j - 1 for j in taps)

    def of_weight(codes: Tensor) -> Tensor:
        return transpose.phase_weight(codes, stride, taps, groups)

    def per_phase(values: Tensor) -> Tensor:
        return values.repeat_interleave(prod(stride))

    return Part(ConvCall(shape, ones, reach, ones, groups), of_weight, per_phase)


def _pixels(part: Part) -> Iterator[ConvForm]:
    """Codes written in channels_last beat a transposition, and a fourth channel is free."""
    call = part.call
    if call.weight[1] == 3 and call.dims == 2 and call.groups == 1 and not call.outer:
        yield ConvForm("image", (_deeper(part, 1),), Reads.PIXELS)


def _more_channels(part: Part) -> Iterator[ConvForm]:
    call = part.call
    if call.groups == 1:
        deeper = _deeper(part, 4)
        outer = (*(call.outer or (0,) * 2 * call.dims), 0, 4)
        yield ConvForm("more channels", (replace(deeper, call=replace(deeper.call, outer=outer)),))


def _deeper(part: Part, more: int) -> Part:
    """``part`` with input channels that have no weight."""
    call = part.call
    shape = (call.weight[0], call.weight[1] + more, *call.weight[2:])

    def weight(codes: Tensor) -> Tensor:
        return F.pad(part.weight(codes), [0, 0] * call.dims + [0, more])

    return Part(replace(call, weight=shape), weight, part.channels)


def _pieces(part: Part) -> Iterator[ConvForm]:
    call = part.call
    outputs = call.weight[0] // call.groups
    if call.groups > 1 and outputs > PIECE:
        ends = [*range(0, outputs, PIECE), outputs]
        yield ConvForm("in pieces", tuple(_piece(part, a, b) for a, b in pairwise(ends)))


def _piece(part: Part, start: int, end: int) -> Part:
    """Outputs ``start`` to ``end`` of every group."""
    call = part.call
    groups, outputs = call.groups, call.weight[0] // call.groups

    def cut(values: Tensor) -> Tensor:
        grouped = values.reshape(groups, outputs, *values.shape[1:])
        return grouped[:, start:end].flatten(0, 1)

    shape = ((end - start) * groups, *call.weight[1:])
    return Part(
        replace(call, weight=shape),
        lambda codes: cut(part.weight(codes)),
        lambda values: cut(part.channels(values)),
    )


def _wide_groups(part: Part) -> Iterator[ConvForm]:
    """As few groups as one as make a row of a tile, if that is not too much work."""
    call = part.call
    for count in range(2, min(MOST_WORK, call.groups) + 1):
        if call.groups % count == 0:
            yield ConvForm(f"groups of {count}", (_joined(part, count),))


def _joined(part: Part, count: int) -> Part:
    call = part.call
    outputs, depth = call.weight[0] // call.groups, call.weight[1]
    shape = (call.weight[0], depth * count, *call.weight[2:])

    def weight(codes: Tensor) -> Tensor:
        grouped = part.weight(codes).reshape(-1, count, outputs, *call.weight[1:])
        wide = codes.new_zeros(grouped.shape[0], count, outputs, count, *call.weight[1:])
        for i in range(count):
            wide[:, i, :, i] = grouped[:, i]
        return wide.flatten(3, 4).flatten(0, 2)

    joined = replace(call, weight=shape, groups=call.groups // count)
    return Part(joined, weight, part.channels)
