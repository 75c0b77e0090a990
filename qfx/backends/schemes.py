"""What codes kernels take, as data: dtypes, widths, symmetry, scales that are powers of two.

    INT8 = Scheme((torch.int8,), bits=(8,), symmetric=True, power_of_two=True)
    Backend("npu", rules, defaults, activations=INT8, weights=INT8)

A configuration that asks for something else leaves the operation float, with the reason; defaults
that do are a BackendError where the backend is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qfx.errors import BackendError
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec

_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32)


@dataclass(frozen=True)
class Scheme:
    """The codes that a kernel takes of its activations, or of its weight.

    Attributes:
        dtypes: of the codes.
        bits: how many bits a code may use, e.g. (8,); None takes any that fit the dtype. Codes in
            [-127, 127] use 8.
        symmetric: True takes symmetric codes only, False affine ones only, None both.
        power_of_two: whether scales must be powers of two.

    Raises:
        BackendError: no codes are like that.
    """

    dtypes: tuple[torch.dtype, ...]
    bits: tuple[int, ...] | None = None
    symmetric: bool | None = None
    power_of_two: bool = False

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise BackendError(f"Scheme: {fault}")

    def refusal(self, spec: QuantSpec) -> str:
        """Why codes of ``spec`` can't be taken, or ""."""
        if spec.dtype not in self.dtypes:
            return f"codes are {_names(self.dtypes)}, not {_name(spec.dtype)}"
        if self.bits is not None and bits_of(*spec.bounds) not in self.bits:
            wanted = " or ".join(map(str, self.bits))
            return f"codes have {wanted} bits, not {bits_of(*spec.bounds)}"
        if self.symmetric not in (None, spec.symmetric):
            return f"codes are {_SIDES[bool(self.symmetric)]}, not {_SIDES[spec.symmetric]}"
        if self.power_of_two and not spec.power_of_two:
            return "scales are powers of two: set power_of_two=True"
        return ""

    def refusal_of(self, qparams: QParams) -> str:
        """Why codes of fixed ``qparams`` can't be taken, or ""."""
        power = torch.frexp(torch.as_tensor(qparams.scale, dtype=torch.float64)).mantissa == 0.5
        middle = 0 if qparams.quant_min < 0 else (qparams.quant_max + 1) // 2
        is_symmetric = bool((torch.as_tensor(qparams.zero_point) == middle).all())
        spec = QuantSpec(
            qparams.dtype,
            symmetric=is_symmetric,
            quant_min=qparams.quant_min,
            quant_max=qparams.quant_max,
            power_of_two=bool(power.all()),
        )
        return self.refusal(spec)

    def _faults(self) -> Iterator[str]:
        if not isinstance(self.dtypes, tuple) or not self.dtypes:
            yield f"dtypes is {self.dtypes!r}; give a tuple: (torch.int8,)"
        for dtype in self.dtypes:
            if dtype not in _DTYPES:
                yield f"{dtype!r} holds no codes; choose of {_names(_DTYPES)}"
        widest = max(torch.iinfo(dtype).bits for dtype in self.dtypes)
        for bits in self.bits or ():
            if type(bits) is not int or not 1 <= bits <= widest:
                yield f"codes of {_names(self.dtypes)} have 1 to {widest} bits, not {bits!r}"
        if self.bits == ():
            yield "bits is empty; None takes any"


_SIDES = {True: "symmetric", False: "affine"}


def bits_of(low: int, high: int) -> int:
    """How many bits codes from ``low`` to ``high`` use, a sign included."""
    sign = 1 if low < 0 else 0
    return max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + sign


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(map(_name, dtypes))
