"""What moves values and leaves them as they are: shapes, joins, writes."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import nn

from qfx.semantics import shapes
from qfx.vocab.definition import Kind, define

# -- shape ---------------------------------------------------------------------------------------
RESHAPE = define(
    shapes.reshape, Kind.SHAPE, (), (torch.reshape,), ("reshape", "view"), rearranges=True
)
FLATTEN = define(
    shapes.flatten, Kind.SHAPE, (nn.Flatten,), (torch.flatten,), ("flatten",), rearranges=True
)
UNFLATTEN = define(
    shapes.unflatten,
    Kind.SHAPE,
    (nn.Unflatten,),
    (torch.unflatten,),
    ("unflatten",),
    rearranges=True,
)
PERMUTE = define(shapes.permute, Kind.SHAPE, (), (torch.permute,), ("permute",), rearranges=True)
TRANSPOSE = define(
    shapes.transpose,
    Kind.SHAPE,
    (),
    (torch.transpose, torch.swapaxes, torch.swapdims, torch.t),
    ("transpose", "swapaxes", "swapdims", "t"),
    rearranges=True,
)
SQUEEZE = define(
    shapes.squeeze, Kind.SHAPE, (), (torch.squeeze,), ("squeeze", "squeeze_"), rearranges=True
)
UNSQUEEZE = define(
    shapes.unsqueeze,
    Kind.SHAPE,
    (),
    (torch.unsqueeze,),
    ("unsqueeze", "unsqueeze_"),
    rearranges=True,
)
CHUNK = define(
    shapes.chunk,
    Kind.SHAPE,
    (),
    (torch.chunk, torch.unsafe_chunk),
    ("chunk", "unsafe_chunk"),
)
SPLIT = define(
    shapes.split,
    Kind.SHAPE,
    (),
    (
        *(torch.split, torch.split_with_sizes),
        *(torch.unsafe_split, torch.unsafe_split_with_sizes),
    ),
    ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"),
)
UNBIND = define(shapes.unbind, Kind.SHAPE, (), (torch.unbind,), ("unbind",))
SELECT = define(shapes.select, Kind.SHAPE, (), (torch.select,), ("select",))
NARROW = define(shapes.narrow, Kind.SHAPE, (), (torch.narrow,), ("narrow",))
TENSOR_SPLIT = define(shapes.tensor_split, Kind.SHAPE, (), (torch.tensor_split,), ("tensor_split",))
INDEX_SELECT = define(shapes.index_select, Kind.SHAPE, (), (torch.index_select,), ("index_select",))
GATHER = define(shapes.gather, Kind.SHAPE, (), (torch.gather,), ("gather",))
DIAGONAL = define(
    shapes.diagonal, Kind.SHAPE, (), (torch.diagonal, torch.linalg.diagonal), ("diagonal",)
)
WINDOWS = define(shapes.windows, Kind.SHAPE, (), (), ("unfold",))
GETITEM = define(shapes.getitem, Kind.SHAPE, (), (operator.getitem,))
EXPAND = define(shapes.expand, Kind.SHAPE, (), (torch.broadcast_to,), ("expand", "broadcast_to"))
MESHGRID = define(shapes.meshgrid, Kind.SHAPE)
REPEAT = define(shapes.repeat, Kind.SHAPE, (), (), ("repeat",))
REPEAT_INTERLEAVE = define(
    shapes.repeat_interleave, Kind.SHAPE, (), (torch.repeat_interleave,), ("repeat_interleave",)
)
ROLL = define(shapes.roll, Kind.SHAPE, (), (torch.roll,), ("roll",))
FLIP = define(shapes.flip, Kind.SHAPE, (), (torch.flip,), ("flip",))
PIXEL_SHUFFLE = define(shapes.pixel_shuffle, Kind.SHAPE, (nn.PixelShuffle,), (F.pixel_shuffle,))
PIXEL_UNSHUFFLE = define(
    shapes.pixel_unshuffle, Kind.SHAPE, (nn.PixelUnshuffle,), (F.pixel_unshuffle,)
)
CHANNEL_SHUFFLE = define(
    shapes.channel_shuffle, Kind.SHAPE, (nn.ChannelShuffle,), (F.channel_shuffle,)
)
PAD = define(
    shapes.pad,
    Kind.SHAPE,
    (
        *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
        *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
        *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
        *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    ),
    (F.pad, torch.constant_pad_nd),
)
CONTIGUOUS = define(shapes.contiguous, Kind.SHAPE, (), (), ("contiguous",), rearranges=True)
CLONE = define(shapes.clone, Kind.SHAPE, (), (torch.clone,), ("clone",), rearranges=True)

# -- of values and zeros -------------------------------------------------------------------------
DIAG_EMBED = define(shapes.diag_embed, Kind.ARITHMETIC, (), (torch.diag_embed,), ("diag_embed",))
TRIL = define(shapes.tril, Kind.ARITHMETIC, (), (torch.tril,), ("tril",))
TRIU = define(shapes.triu, Kind.ARITHMETIC, (), (torch.triu,), ("triu",))
UNFOLD = define(shapes.unfold, Kind.ARITHMETIC, (nn.Unfold,), (F.unfold,))
FOLD = define(shapes.fold, Kind.ARITHMETIC, (nn.Fold,), (F.fold,))

# -- join ----------------------------------------------------------------------------------------
CAT = define(shapes.cat, Kind.JOIN, (), (torch.cat, torch.concat, torch.concatenate))
STACK = define(shapes.stack, Kind.JOIN, (), (torch.stack,))

# -- mutation made functional --------------------------------------------------------------------
SETITEM = define(shapes.setitem, Kind.JOIN)

# -- mutation left as it was written -------------------------------------------------------------
AFTER = define(shapes.after, Kind.SHAPE)
