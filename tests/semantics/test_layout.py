"""Views: without copies where memory allows, and groups that must divide."""

from __future__ import annotations

import pytest
import torch

from qfx.errors import ConfigError
from qfx.semantics.layout import dense_view, join_groups, split_groups


def test_group_size_must_divide() -> None:
    with pytest.raises(ConfigError, match="does not divide the 5 values"):
        split_groups(torch.zeros(2, 5), 0, 2)


def test_dense_view_copies_only_where_there_are_holes() -> None:
    x = torch.randn(2, 3, 4, 5)
    for dense in (x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2)):
        flat = dense_view(dense)
        assert flat.data_ptr() == dense.data_ptr()
        assert torch.equal(flat.sort().values, x.flatten().sort().values)
    assert torch.equal(dense_view(x[..., ::2]), x[..., ::2].flatten())


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_groups_join_again(axis: int) -> None:
    x = torch.randn(4, 6, 8)
    groups = split_groups(x, axis, 4)
    assert groups.shape == (x.shape[axis], x.numel() // x.shape[axis] // 4, 4)
    assert torch.equal(join_groups(groups, x, axis), x)
