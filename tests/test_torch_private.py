"""Names of PyTorch that need not be there."""

from __future__ import annotations

import pytest
import torch

import qfx
from qfx.torch_private import Missing, find, lacking


def test_what_is_there_is_found() -> None:
    assert find("torch.relu") is torch.relu
    assert find("torch.ops.aten.relu.default") is torch.ops.aten.relu.default


@pytest.mark.parametrize(
    "path", ["torch.nope", "torch.ops.aten.nope.default", "torch.ops.nope.nope", "torch.nope.nope"]
)
def test_what_is_missing_says_so_when_it_is_called(path: str) -> None:
    stand_in = find(path)
    assert isinstance(stand_in, Missing)
    with pytest.raises(qfx.BackendError, match=rf"PyTorch {torch.__version__[:3]}.* has no {path}"):
        stand_in(1, of=2)


def test_a_way_without_takes_its_place() -> None:
    assert find("torch.nope", instead=torch.relu) is torch.relu
    assert find("torch.relu", instead=torch.sigmoid) is torch.relu


def test_lacking_names_what_is_missing() -> None:
    assert lacking(("torch.relu", "torch.nope", "torch.ops.aten.nope")) == (
        "torch.nope",
        "torch.ops.aten.nope",
    )
