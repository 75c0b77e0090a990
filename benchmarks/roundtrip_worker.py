"""The fresh process of ``benchmarks.roundtrip``: it has qfx and the file, not the model's code."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import torch
from torch.utils import _pytree as pytree

import qfx


def digest(outputs: Any) -> str:
    """Of the bits of all tensors in ``outputs``, and of their shapes, dtypes and structure."""
    leaves, spec = pytree.tree_flatten(outputs)
    found = hashlib.sha256(str(spec).encode())
    for leaf in leaves:
        found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        found.update(bytes(leaf.contiguous().view(torch.uint8).flatten().tolist()))
    return found.hexdigest()


def main(path: str, inputs: str) -> None:
    """Print the digest of what the model of a file makes of inputs."""
    model = qfx.load(path)
    assert "torchvision" not in sys.modules
    with torch.inference_mode():
        print(digest(model(torch.load(inputs, weights_only=True))))


if __name__ == "__main__":
    main(*sys.argv[1:])
