"""What kernels on PyTorch's quantized dtypes don't take, in words; and what is just inside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

from qfx import vocab
from qfx.backends.quantized import limits
from qfx.rewrite.pattern import Mismatch
from tests.support.called import called

Limit = Callable[[fx.Node], Mismatch | None]

IMAGE, VOLUME = (2, 4, 6, 6), (2, 4, 6, 6, 6)
REFUSED: dict[str, tuple[Limit, fx.Node, str]] = {
    "matmul": (
        limits.equal_ranks,
        called(vocab.MATMUL, (2, 3, 4), (4, 3)),
        "the quantized matmul needs two tensors with the same leading dims",
    ),
    "add": (limits.plain_add, called(vocab.ADD, IMAGE, IMAGE, alpha=2), "alpha=2 is not 1"),
    "operand": (
        limits.tensor_or_number,
        called(vocab.MUL, IMAGE, True),
        "an operand is neither a float tensor nor a number",
    ),
    "batch_norm": (
        limits.affine,
        called(vocab.BATCH_NORM, IMAGE, (4,), (4,), None, None),
        "the quantized batch_norm needs weight and bias",
    ),
    "group_norm": (
        limits.groups_of_many,
        called(vocab.GROUP_NORM, (2, 4), None, None, num_groups=4, result=(2, 4)),
        "the quantized group_norm needs more than one value a group",
    ),
    "indices": (
        limits.no_indices,
        called(vocab.MAX_POOL2D, IMAGE, kernel_size=(2, 2), return_indices=True),
        "return_indices=True",
    ),
    "pool": (
        limits.batched,
        called(vocab.AVG_POOL3D, IMAGE, kernel_size=(2, 2, 2), result=(4, 3, 3, 3)),
        "the quantized pools of volumes need a batch dimension: [4, 3, 3, 3]",
    ),
    "channel_shuffle": (
        limits.image,
        called(vocab.CHANNEL_SHUFFLE, VOLUME, groups=2, result=VOLUME),
        "the quantized channel_shuffle takes 4 dims: 5",
    ),
    "pad mode": (
        limits.pads,
        called(vocab.PAD, IMAGE, pad=(1, 1), mode="replicate"),
        "the quantized pad fills with zeros or reflects; asked: replicate, None",
    ),
    "pad computed": (
        limits.pads,
        called(vocab.PAD, IMAGE, pad="computed"),
        "the quantized pad takes numbers, not computed",
    ),
    "pad reflects": (
        limits.pads,
        called(vocab.PAD, VOLUME, pad=(1,) * 6, mode="reflect", result=VOLUME),
        "the quantized pad reflects in one or two dims, not 3",
    ),
    "pad crops": (
        limits.pads,
        called(vocab.PAD, VOLUME, pad=(1, -1), result=VOLUME),
        "the quantized pad of 5-d tensors crops or pads, not both",
    ),
    "interpolate": (
        limits.interpolates,
        called(vocab.INTERPOLATE, IMAGE, scale_factor=2.0, mode="bicubic", result=IMAGE),
        "no quantized kernel for mode bicubic of 4-d tensors",
    ),
    "antialias": (
        limits.interpolates,
        called(vocab.INTERPOLATE, IMAGE, mode="bilinear", antialias=True, result=IMAGE),
        "no quantized kernel for antialias=True",
    ),
}
TAKEN: dict[str, tuple[Limit, fx.Node]] = {
    "matmul": (limits.equal_ranks, called(vocab.MATMUL, (2, 3, 4), (2, 4, 3))),
    "add": (limits.plain_add, called(vocab.ADD, IMAGE, 1.5)),
    "batch_norm": (limits.affine, called(vocab.BATCH_NORM, IMAGE, (4,), (4,), (4,), (4,))),
    "group_norm": (
        limits.groups_of_many,
        called(vocab.GROUP_NORM, (2, 4), None, None, num_groups=2, result=(2, 4)),
    ),
    "pool": (limits.no_indices, called(vocab.MAX_POOL2D, IMAGE, kernel_size=(2, 2), result=IMAGE)),
    "channel_shuffle": (limits.image, called(vocab.CHANNEL_SHUFFLE, IMAGE, groups=2, result=IMAGE)),
    "pad": (limits.pads, called(vocab.PAD, IMAGE, pad=(1, -1), result=IMAGE)),
    "interpolate": (limits.interpolates, called(vocab.INTERPOLATE, VOLUME, result=VOLUME)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_why(name: str) -> None:
    limit, node, words = REFUSED[name]
    found = limit(node)
    assert found is not None
    assert found.reason == words


@pytest.mark.parametrize("name", TAKEN)
def test_takes_what_is_just_inside(name: str) -> None:
    limit, node = TAKEN[name]
    assert limit(node) is None


def test_eight_bits_where_layers_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    supports, node = limits.all_bits("fbgemm"), called(vocab.SOFTMAX, IMAGE, dim=1)
    monkeypatch.setattr(limits, "reduces", lambda engine: True)
    found = supports(node)
    assert found is not None
    assert found.reason == (
        "the result of the quantized softmax has 8 bits, which saturate in the layers of this CPU"
    )
    monkeypatch.setattr(limits, "reduces", lambda engine: False)
    assert supports(node) is None
