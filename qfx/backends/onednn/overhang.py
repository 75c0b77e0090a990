"""Room for oneDNN's convolutions, some of which are wrong on inputs that their kernel overhangs.

Measured with torch 2.13 on a CPU with AMX (``brg_conv_fwd:avx10_1_512_amx``), through every call
that leads there (``torch.ops.onednn`` and ``torch.ops.quantized`` alike):

* With stride s > 1 and one output column, results are garbage where there are several rows: for
  ``conv2d(kernel 3, stride (1, 2))`` on (8, 4), and with stride (2, 2) and 5 rows, too. In 3d the
  same with one output row.
* A 3-d kernel that overhangs its input on both sides in depth, e.g. kernel 3, padding 1 and depth
  1: garbage. The taps of a dilated kernel may all lie in the padding: memory that is not its own.
* Padding as wide as the kernel (``kernel 1, padding 1``): garbage, or the process dies.
* A dilated kernel with more than one row of padding, e.g. ``conv2d(3, dilation=2, padding=2)``:
  where its input has a zero point, the kernel writes past its buffer, whatever the result; a later
  ``free`` kills the process. The buffer has a row for each reach of the kernel into the padding,
  ``padding / dilation`` of them, and one is written for each row of padding (``ker_ranges_size``).
  How often that shows depends on the size of the input and the number of threads.

Which kernel is picked depends on the sizes of the input, so no probe in advance can tell. Zeros to
the right of the input are what the convolution pads with anyway, so an input below a least size
grows to it,

    conv(x)[..., :n] = conv(pad(x, (0, rows * s)))[..., :n]

and the columns beyond are dropped. Padding wider than the kernel, or of several dilated rows, is
done before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import lt

import torch.nn.functional as F
from torch import Tensor

Sizes = Sequence[int]


def least_sizes(kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int]:
    """The input size per dim from which on the kernels are right; 0 where any is."""
    least = []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        both_sides = reach if p and (d > 1 or len(kernel) == 3) else 0
        two_outputs = reach + s - 2 * p if s > 1 else 0
        least.append(max(both_sides, two_outputs, 0))
    return least if any(least) else []


def lacks_room(x: Tensor, least: Sizes) -> bool:
    """Whether an input is below its least size somewhere."""
    if not least:
        return False
    return any(map(lt, x.shape[-len(least) :], least))


def with_room(
    run: Callable[[Tensor, list[int]], Tensor],
    x: Tensor,
    least: Sizes,
    stride: Sizes,
    zero: float,
) -> Tensor:
    """The convolution ``run`` on ``x`` grown to its least size.

    Args:
        run: computes the convolution of a larger ``x``, given the rows per dim that its result has
            too many.
        x: (batch, channels, *spatial).
        least: from :func:`least_sizes`.
        stride: of the convolution.
        zero: what stands for zero in ``x``.
    """
    lacks = zip(x.shape[-len(least) :], least, stride, strict=True)
    rows = [max(0, -(-(size - n) // s)) for n, size, s in lacks]
    pads = [
        side for r, s in zip(reversed(rows), reversed(stride), strict=True) for side in (0, r * s)
    ]
    y = run(padded(x, pads, zero), rows)
    for d, r in enumerate(rows, start=y.dim() - len(rows)):
        y = y.narrow(d, 0, y.shape[d] - r)
    return y


def padded(x: Tensor, pads: Sizes, zero: float = 0.0) -> Tensor:
    """``F.pad``, which refuses volumes on quantized dtypes in channels_last_3d."""
    volume = x.is_quantized and x.dim() == 5
    return F.pad(x.contiguous() if volume else x, list(pads), value=zero)


def outer_padding(kernel: Sizes, padding: Sizes, dilation: Sizes) -> tuple[list[int], list[int]]:
    """Padding that kernels do right, and what must be padded before (for ``F.pad``; [] if nothing).

    Where padding is wider than the kernel reaches, some outputs see nothing else. Rows: all dims
    but the last.
    """
    rows = len(kernel) - 1
    sides = enumerate(zip(kernel, padding, dilation, strict=True))
    outer = [
        p if p > d * (k - 1) or (i < rows and d > 1 and p > 1) else 0 for i, (k, p, d) in sides
    ]
    inner = [0 if out else p for out, p in zip(outer, padding, strict=True)]
    return inner, [side for p in reversed(outer) for side in (p, p)] if any(outer) else []
