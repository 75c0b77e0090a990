"""How far one result is from another: SQNR, cosine, largest error; accumulated over batches.

    SQNR = 10 log10(sum reference^2 / sum (actual - reference)^2)   in dB

after the usual definition of the signal-to-quantization-noise ratio. Equal infinities (masked
logits) are no error and no signal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qfx.errors import ConfigError


@dataclass
class Error:
    """Sums over pairs of values, in float64; add to them with :meth:`add`.

    Attributes:
        signal: sum of squares of the reference.
        power: sum of squares of the actual values.
        noise: sum of squared differences.
        dot: sum of products.
        max_error: largest absolute difference.
        count: values seen.
    """

    signal: float = 0.0
    power: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    max_error: float = 0.0
    count: int = 0

    def add(self, reference: Tensor, actual: Tensor) -> None:
        """Add two tensors of one shape; ConfigError if their shapes differ."""
        if reference.shape != actual.shape:
            raise ConfigError(
                f"can't compare shapes {tuple(reference.shape)} and {tuple(actual.shape)}"
            )
        if reference.numel() == 0:
            return
        wide = reference.detach().to("cpu", torch.float64)
        other = actual.detach().to("cpu", torch.float64)
        masked = wide.isinf() & (wide == other)
        if bool(masked.any()):
            wide, other = wide.masked_fill(masked, 0.0), other.masked_fill(masked, 0.0)
        difference = other - wide
        self.signal += float(wide.square().sum())
        self.power += float(other.square().sum())
        self.noise += float(difference.square().sum())
        self.dot += float((wide * other).sum())
        largest = float(difference.abs().max())
        self.max_error = largest if math.isnan(largest) else max(self.max_error, largest)
        self.count += reference.numel()

    @property
    def sqnr(self) -> float:
        """Signal-to-noise ratio in dB; inf where the two are equal, nan where one holds NaN."""
        if math.isnan(self.noise) or math.isnan(self.signal):
            return math.nan
        if self.noise == 0:
            return math.inf
        ratio = self.signal / self.noise
        return 10 * math.log10(ratio) if ratio else -math.inf  # 0 beside infinite noise, too

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1.0 where both are zero."""
        if self.signal == 0 and self.power == 0:
            return 1.0
        norms = math.sqrt(self.signal) * math.sqrt(self.power)
        return self.dot / norms if norms else 0.0


def error_of(reference: object, actual: object, total: Error | None = None) -> Error:
    """The error over all floating-point tensors of two nested outputs.

    Args:
        reference: a tensor, or tuples, lists, dicts or dataclasses of them.
        actual: of the same structure.
        total: sums to add to, and to return; new ones when None.

    Raises:
        ConfigError: the structures or shapes differ, or there is nothing to compare.
    """
    first, second = list(float_tensors(reference)), list(float_tensors(actual))
    if [path for path, _ in first] != [path for path, _ in second]:
        raise ConfigError(
            "the two outputs have different structures:"
            f" {[path for path, _ in first]} and {[path for path, _ in second]}"
        )
    if not first:
        raise ConfigError("the outputs hold no floating-point tensors to compare")
    error = Error() if total is None else total
    for (_, wide), (_, other) in zip(first, second, strict=True):
        error.add(wide, other)
    return error


def added(reference: object, actual: object, total: Error) -> str:
    """Add the error of two nested outputs to ``total``; see :func:`error_of`.

    Returns:
        Why that can't be where shapes differ, as where data decides them; ``total`` is nan then.
    """
    pairs = zip(float_tensors(reference), float_tensors(actual), strict=False)
    shapes = ((tuple(wide.shape), tuple(other.shape)) for (_, wide), (_, other) in pairs)
    odd = next((each for each in shapes if each[0] != each[1]), None)
    if odd is None:
        error_of(reference, actual, total)
        return ""
    total.noise = math.nan
    return f"can't compare shapes {odd[0]} and {odd[1]}"


def explained_by(bits: float) -> float:
    """The SQNR, in dB, of which rounding to codes of so many bits is reason enough."""
    return 6.02 * bits - 20.0


def sqnr(reference: object, actual: object) -> float:
    """Signal-to-quantization-noise ratio of two nested outputs in dB; see :func:`error_of`."""
    return error_of(reference, actual).sqnr


def cosine(reference: object, actual: object) -> float:
    """Cosine similarity of two nested outputs, flattened; see :func:`error_of`."""
    return error_of(reference, actual).cosine


def float_tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each floating-point tensor of a nested output with its place, e.g. ".logits[0]"."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from float_tensors(item, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from float_tensors(item, f"{path}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from float_tensors(getattr(value, field.name), f"{path}.{field.name}")
