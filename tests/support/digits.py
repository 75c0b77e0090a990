"""The digits that scikit-learn ships, read without importing it, which takes seconds."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Images of 8 x 8 between -1 and 1, and their labels."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    rows = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    return rows[:, :-1].div(8).sub(1).view(-1, 8, 8), rows[:, -1].long()
