"""Linear algebra: norms, distances, inverses and decompositions of matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_norm(
    input: Tensor,
    *,
    ord: float | str = "fro",
    dim: tuple[int, int] = (-2, -1),
    keepdim: bool = False,
) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(input, ord, dim, keepdim)
    return norm


def cdist(
    input: Tensor,
    other: Tensor,
    *,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """The distance of each row of one matrix to each of another."""
    distances: Tensor = torch.cdist(input, other, p, compute_mode)
    return distances


def outer(input: Tensor, other: Tensor) -> Tensor:
    """Each of one vector times each of another."""
    return torch.outer(input, other)


def kron(input: Tensor, other: Tensor) -> Tensor:
    """Each of one tensor times all of another, block by block."""
    return torch.kron(input, other)


def inv(input: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(input)
    return inverse


def pinv(input: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(input)
    return inverse


def cholesky(input: Tensor, *, upper: bool = False) -> Tensor:
    factor: Tensor = torch.linalg.cholesky(input, upper=upper)
    return factor


def eigh(input: Tensor, *, UPLO: str = "L") -> tuple[Tensor, ...]:  # noqa: N803 - as torch calls it
    """Eigenvalues of symmetric matrices, and eigenvectors."""
    found: tuple[Tensor, ...] = torch.linalg.eigh(input, UPLO)
    return found


def slogdet(input: Tensor) -> tuple[Tensor, ...]:
    """The sign of a determinant, and the logarithm of its size."""
    found: tuple[Tensor, ...] = torch.linalg.slogdet(input)
    return found


def det(input: Tensor) -> Tensor:
    determinant: Tensor = torch.linalg.det(input)
    return determinant


def solve(input: Tensor, other: Tensor, *, left: bool = True) -> Tensor:
    """What ``input`` times yields ``other``."""
    found: Tensor = torch.linalg.solve(input, other, left=left)
    return found


def qr(input: Tensor, *, mode: str = "reduced") -> tuple[Tensor, ...]:
    factors: tuple[Tensor, ...] = torch.linalg.qr(input, mode)
    return factors


def svd(input: Tensor, *, full_matrices: bool = True) -> tuple[Tensor, ...]:
    factors: tuple[Tensor, ...] = torch.linalg.svd(input, full_matrices)
    return factors
