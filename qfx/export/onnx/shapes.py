"""What moves, copies, drops and joins values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from qfx.export.onnx.values import Info, Number, Operand
from qfx.export.problems import CannotWrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from qfx.export.onnx.writer import Writer

END = 2**31 - 1


def same(w: Writer, input: Operand, *_: object, **__: object) -> Operand:
    """What computes nothing."""
    return input


def _result(w: Writer) -> Info:
    """What the node being written yields."""
    assert isinstance(w.results, Info)
    return w.results


def reshape(w: Writer, input: Operand, *, shape: Sequence[int | Number]) -> ir.Value:
    return w.reshape(input, _result(w), shape)


def flatten(w: Writer, input: Operand, *, start_dim: int, end_dim: int) -> ir.Value:
    rank = w.info(input).rank
    if rank == 0:
        return w.reshape(input, _result(w))
    start, end = start_dim % rank, end_dim % rank
    before = [w.size(input, dim) for dim in range(start)]
    after = [w.size(input, dim) for dim in range(end + 1, rank)]
    return w.reshape(input, _result(w), [*before, -1, *after])


def unflatten(w: Writer, input: Operand, *, dim: int, sizes: Sequence[int | Number]) -> ir.Value:
    rank = w.info(input).rank
    dim %= rank
    before = [w.size(input, d) for d in range(dim)]
    after = [w.size(input, d) for d in range(dim + 1, rank)]
    return w.reshape(input, _result(w), [*before, *sizes, *after])


def permute(w: Writer, input: Operand, *, dims: Sequence[int]) -> ir.Value:
    rank = w.info(input).rank
    return w.op("Transpose", input, perm=tuple(d % rank for d in dims))


def transpose(w: Writer, input: Operand, *, dim0: int, dim1: int) -> Operand:
    order = list(range(w.info(input).rank))
    if not order:
        return input
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return w.op("Transpose", input, perm=tuple(order))


def squeeze(w: Writer, input: Operand, *, dim: int | tuple[int, ...] | None) -> Operand:
    shape = w.info(input).shape
    named = range(len(shape)) if dim is None else (dim,) if isinstance(dim, int) else dim
    gone = [d % len(shape) for d in named if shape[d] == 1]
    return w.op("Squeeze", input, w.vector(gone)) if gone else input


def unsqueeze(w: Writer, input: Operand, *, dim: int) -> ir.Value:
    return w.op("Unsqueeze", input, w.vector([dim]))


def expand(w: Writer, input: Operand, *, size: Sequence[int | Number]) -> ir.Value:
    return w.op("Expand", input, w.vector([1 if s == -1 else s for s in size]))


def meshgrid(w: Writer, tensors: Sequence[Operand], *, indexing: str) -> tuple[ir.Value, ...]:
    """Each vector along a dim of its own, and copied along the others."""
    count, dims = len(tensors), list(range(len(tensors)))
    if indexing == "xy" and count > 1:
        dims[:2] = [1, 0]
    sizes: list[Number | int] = [1] * count
    for vector, dim in zip(tensors, dims, strict=True):
        sizes[dim] = w.size(vector, 0) if w.info(vector).rank else 1
    shapes = ([-1 if d == dim else 1 for d in range(count)] for dim in dims)
    columns = (w.op("Reshape", t, w.vector(s)) for t, s in zip(tensors, shapes, strict=True))
    return tuple(w.op("Expand", column, w.vector(sizes)) for column in columns)


def repeat(w: Writer, input: Operand, *, repeats: Sequence[int | Number]) -> ir.Value:
    info = w.info(input)
    new = len(tuple(repeats)) - info.rank
    if new:
        input = w.op("Unsqueeze", input, w.vector(list(range(new))))
    return w.op("Tile", input, w.vector(repeats))


def repeat_interleave(
    w: Writer, input: Operand, *, repeats: int | Operand, dim: int | None
) -> ir.Value:
    """Each element so many times: along a new dim, which is then merged."""
    if not isinstance(repeats, (int, Number)):
        raise CannotWrite("repeats that differ by element", "Repeat each as often.")
    rank = w.info(input).rank
    if dim is None:
        input, dim, rank = w.op("Reshape", input, w.vector([-1])), 0, 1
    dim %= rank
    apart = w.op("Unsqueeze", input, w.vector([dim + 1]))
    often: list[int | Number] = [1] * (rank + 1)
    often[dim + 1] = repeats
    tiled = w.op("Tile", apart, w.vector(often))
    target = [0] * dim + [-1] + [0] * 0
    if dim == rank - 1:
        return w.op("Reshape", tiled, w.vector(target))
    shape = w.op("Shape", tiled)
    rest = w.op("Slice", shape, w.vector([dim + 2]), w.vector([END]))
    return w.op("Reshape", tiled, w.op("Concat", w.vector(target), rest, axis=0))


# -- parts -----------------------------------------------------------------------------------------
def chunk(w: Writer, input: Operand, *, chunks: int, dim: int) -> tuple[ir.Value, ...]:
    return _split(w, input, dim)


def split(
    w: Writer, input: Operand, *, split_size_or_sections: object, dim: int
) -> tuple[ir.Value, ...]:
    return _split(w, input, dim)


def tensor_split(w: Writer, input: Operand, *, sections: object, dim: int) -> tuple[ir.Value, ...]:
    return _split(w, input, dim)


def _split(w: Writer, input: Operand, dim: int) -> tuple[ir.Value, ...]:
    if id(input) in w.parts:
        return w.parts[id(input)]
    parts = [info.shape[dim] for info in w.results]
    if not all(isinstance(part, int) for part in parts):
        return _free_split(w, input, dim, len(parts))
    return w.ops("Split", input, w.vector(parts), results=len(parts), axis=dim)


def _free_split(w: Writer, input: Operand, dim: int, count: int) -> tuple[ir.Value, ...]:
    """Equal parts of a size that is not fixed."""
    assert w.node is not None
    if w.node.target.name != "chunk":  # type: ignore[union-attr]
        raise CannotWrite("a split of a size that is not fixed", "Fix it.", by_size=True)
    return w.ops("Split", input, results=count, axis=dim, num_outputs=count)


def unbind(w: Writer, input: Operand, *, dim: int) -> tuple[ir.Value, ...]:
    return tuple(
        w.op("Gather", input, w.scalar(index, torch.int64), axis=dim)
        for index in range(len(w.results))
    )


def select(w: Writer, input: Operand, *, dim: int, index: int | Number) -> ir.Value:
    return w.op("Gather", input, index_of(w, index), axis=dim)


def index_of(w: Writer, index: int | Number) -> ir.Value:
    """An index without dims."""
    if isinstance(index, Number):
        return w.op("Squeeze", index.value, w.vector([0]))
    return w.scalar(index, torch.int64)


def narrow(
    w: Writer, input: Operand, *, dim: int, start: int | Number, length: int | Number
) -> ir.Value:
    begin = w.number(start)
    end = w.op("Add", begin, w.number(length))
    if isinstance(start, int) and isinstance(length, int):
        end = w.vector([start + length if start >= 0 or start + length else END])
    return w.op("Slice", input, begin, end, w.vector([dim]))


def index_select(w: Writer, input: Operand, index: Operand, *, dim: int) -> ir.Value:
    return w.op("Gather", input, index, axis=dim)


def gather(w: Writer, input: Operand, index: Operand, *, dim: int) -> ir.Value:
    """The places of ``index``, which may be fewer than the input has along other dims."""
    cut, rank = input, w.info(input).rank
    for other in (d for d in range(rank) if d != dim % rank):
        size = w.size(index, other)
        cut = w.op("Slice", cut, w.vector([0]), w.vector([size]), w.vector([other]))
    return w.op("GatherElements", cut, index, axis=dim)


def diagonal(w: Writer, input: Operand, *, offset: int, dim1: int, dim2: int) -> ir.Value:
    rank = w.info(input).rank
    if offset:
        raise CannotWrite("a diagonal beside the main one", "Cut the matrix first.")
    letters = [chr(ord("a") + dim) for dim in range(rank)]
    letters[dim2] = letters[dim1]
    rest = "".join(letter for letter in letters if letter != letters[dim1])
    return w.op("Einsum", input, equation=f"{''.join(letters)}->{rest}{letters[dim1]}")


def windows(w: Writer, input: Operand, *, dimension: int, size: int, step: int) -> ir.Value:
    """Windows are gathered into a dim of their own, which goes last."""
    info = w.info(input)
    dim, whole = dimension % info.rank, info.shape[dimension]
    if not isinstance(whole, int):
        raise CannotWrite("windows over a size that is not fixed", "Fix it.", by_size=True)
    starts = torch.arange(0, whole - size + 1, step)
    places = starts[:, None] + torch.arange(size)
    made = w.op("Gather", input, w.constant(places), axis=dim)
    order = [d for d in range(info.rank + 1) if d != dim + 1]
    return w.op("Transpose", made, perm=(*order, dim + 1))


def no_columns(w: Writer, input: Operand, **_: object) -> ir.Value:
    """Refuse windows of images as columns."""
    raise CannotWrite("windows of images as columns", "Use a convolution, or reshape.")


# -- order -----------------------------------------------------------------------------------------
def roll(w: Writer, input: Operand, *, shifts: Any, dims: Any) -> Operand:
    """The end of a dim before its beginning."""
    by = (shifts,) if isinstance(shifts, (int, Number)) else tuple(shifts)
    along = (dims,) if isinstance(dims, int) else tuple(dims)
    if not along:
        raise CannotWrite("rolling over all dims at once", "Name the dims.")
    for shift, dim in zip(by, along, strict=True):
        input = _rolled(w, input, shift, dim)
    return input


def _rolled(w: Writer, input: Operand, shift: int | Number, dim: int) -> Operand:
    info = w.info(input)
    size = info.shape[dim]
    if isinstance(shift, int) and isinstance(size, int):
        shift %= size
    if shift == 0:
        return input
    place = w.op("Neg", shift.value) if isinstance(shift, Number) else w.vector([-shift])
    axis = w.vector([dim])
    end = w.op("Slice", input, place, w.vector([END]), axis)
    begin = w.op("Slice", input, w.vector([0]), place, axis)
    return w.op("Concat", end, begin, axis=dim, like=input)


def flip(w: Writer, input: Operand, *, dims: Sequence[int]) -> ir.Value:
    whole = tuple(dims)
    starts, ends = w.vector([-1] * len(whole)), w.vector([-END] * len(whole))
    return w.op("Slice", input, starts, ends, w.vector(whole), w.vector([-1] * len(whole)))


def pixel_shuffle(w: Writer, input: Operand, *, upscale_factor: int) -> ir.Value:
    if w.info(input).rank != 4:
        raise CannotWrite("pixels of other than 4 dims", "Give the model images in batches.")
    return w.op("DepthToSpace", input, blocksize=upscale_factor, mode="CRD")


def pixel_unshuffle(w: Writer, input: Operand, *, downscale_factor: int) -> ir.Value:
    """Blocks of pixels become channels, each channel's together."""
    info, f = w.info(input), downscale_factor
    if info.rank != 4 or not isinstance(info.shape[1], int):
        raise CannotWrite("pixels of other than 4 dims", "Give the model images in batches.")
    channels = info.shape[1]
    rows = w.op("SpaceToDepth", input, blocksize=f)  # (f, f, channels) among the channels
    height, width = w.size(rows_info(w, rows, info, f), 2), w.size(rows, 3)
    apart = w.op("Reshape", rows, w.vector([0, f * f, channels, -1]))
    moved = w.op("Transpose", apart, perm=(0, 2, 1, 3))
    return w.op("Reshape", moved, w.vector([0, channels * f * f, height, width]))


def rows_info(w: Writer, rows: ir.Value, info: Info, factor: int) -> ir.Value:
    """Say what SpaceToDepth yields."""
    result = _result(w)
    w.tell(rows, Info(result.shape, result.example, info.dtype))
    return rows


def channel_shuffle(w: Writer, input: Operand, *, groups: int) -> ir.Value:
    info = w.info(input)
    channels = info.shape[1]
    if not isinstance(channels, int):
        raise CannotWrite("channels that are not fixed", "Fix them.", by_size=True)
    apart = w.op("Reshape", input, w.vector([0, groups, channels // groups, -1]))
    moved = w.op("Transpose", apart, perm=(0, 2, 1, 3))
    return w.op("Reshape", moved, w.vector([w.size(input, d) for d in range(info.rank)]))


def kron(w: Writer, input: Operand, other: Operand) -> ir.Value:
    """Both with dims of one between theirs, multiplied and put together by twos."""
    infos = [w.info(each) for each in (input, other)]
    rank = max(info.rank for info in infos)
    apart = []
    for place, (operand, info) in enumerate(zip((input, other), infos, strict=True)):
        lacking = 2 * (rank - info.rank)
        ones = [*range(lacking), *range(lacking + 1 - place, 2 * rank, 2)]
        apart.append(w.op("Unsqueeze", operand, w.vector(ones)) if ones else operand)
    made, (first, second) = w.op("Mul", *apart), infos
    shape = _by_turns(first.shape, second.shape)
    w.tell(made, Info(shape, _by_turns(first.example, second.example), first.dtype))
    return w.reshape(made, _result(w))


def _by_turns(*sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes of two shapes in turn; the shorter has ones in front."""
    rank = max(map(len, sizes))
    padded = ((1,) * (rank - len(each)) + each for each in sizes)
    return tuple(size for pair in zip(*padded, strict=True) for size in pair)
