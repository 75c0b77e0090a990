"""What :func:`qfx.backends.detect` finds: the backend to take here, and why.

>>> print(qfx.backends.detect())
x86: oneDNN's kernels on plain integer tensors, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qfx.backends.hardware import Hardware
from qfx.table import table

_WHY = {
    "x86": "oneDNN's kernels on plain uint8/int8 tensors, the form that PyTorch keeps",
    "fbgemm": "an x86 CPU, and a PyTorch without oneDNN",
    "qnnpack": "kernels for ARM, on PyTorch's quantized dtypes",
    "reference": "no backend with kernels runs here: the explicit q/dq form, in float arithmetic",
}
_MADE_FOR = {
    "x86": "plain uint8/int8 tensors",
    "fbgemm": "PyTorch's quantized dtypes",
    "qnnpack": "PyTorch's quantized dtypes",
    "reference": "any device, in float arithmetic",
    "xnnpack": "ExecuTorch, .pte files: phones, ARM boards",
}
_ENGINES = {"x86": "oneDNN", "fbgemm": "fbgemm", "qnnpack": "qnnpack", "xnnpack": "XNNPACK"}
_HEADER = ("backend", "here", "kernels", "activations", "made for")


@dataclass(frozen=True)
class DetectedBackend:
    """One backend, as it would do on this machine.

    Attributes:
        name: as given to ``backend=``.
        lacks: what this machine lacks for it, in words; "" where it runs.
        bits: of activations that layers read, 7 where its kernels saturate; 0 where it doesn't run.
        exports: whether its kernels are in what a model is exported to.
    """

    name: str
    lacks: str
    bits: int
    exports: bool = False


class Detected(str):
    """The name of the backend that ``backend="auto"`` stands for; ``print`` shows why.

    It is that name wherever a string is wanted, in comparisons, f-strings and as an argument.

    Attributes:
        hardware: the CPU and this build of PyTorch.
        why: why this backend, in a sentence.
    """

    hardware: Hardware
    why: str

    def __new__(cls, name: str, hardware: Hardware) -> Detected:
        """The backend ``name``, found on ``hardware``."""
        made = super().__new__(cls, name)
        made.hardware = hardware
        made.why = _WHY.get(name, "a package that is installed brings it")
        return made

    @property
    def backends(self) -> tuple[DetectedBackend, ...]:
        """Every backend, and what this machine makes of it; those with kernels are measured."""
        from qfx.backends import candidates

        return candidates()

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def __format__(self, spec: str) -> str:
        return format(str.__str__(self), spec)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


def _lines(found: Detected) -> Iterator[str]:
    here, backends = found.hardware, found.backends
    yield f"{found}: {found.why}"
    yield ""
    yield table(_HEADER, [_row(each, found) for each in backends])
    yield ""
    yield from _facts(here)
    if any(each.bits == 7 for each in backends):
        yield (
            "7 bits    codes up to 127: this CPU adds up two products of 8 bits in 16, which "
            "saturates (measured); VNNI and AMX don't"
        )


def _row(each: DetectedBackend, found: Detected) -> tuple[str, ...]:
    runs = "for exports" if each.exports else "recommended" if each.name == found else "runs"
    lacks = f"needs {each.lacks}" if each.name in _ENGINES else f"not here: {each.lacks}"
    here = lacks if each.lacks else runs
    bits = f"{each.bits} bits" if each.bits else ""
    return (
        each.name,
        here,
        _ENGINES.get(each.name, "none" if each.name == "reference" else "its own"),
        bits,
        _MADE_FOR.get(each.name, "see its package") + _slower(each, found.hardware),
    )


def _slower(each: DetectedBackend, here: Hardware) -> str:
    return "; for ARM, slower on x86" if each.name == "qnnpack" and here.is_x86 else ""


def _facts(here: Hardware) -> Iterator[str]:
    has = ", ".join(here.instructions) or "instructions unknown: this PyTorch doesn't tell"
    lacks = f"; not {', '.join(here.without)}" if here.without else ""
    yield f"CPU       {', '.join(filter(None, (here.cpu, here.machine)))}: {has}{lacks}"
    engines = [name for name in ("fbgemm", "qnnpack") if name in here.engines]
    held = ["oneDNN"] * here.onednn + engines
    gone = [name for name in ("oneDNN", "fbgemm", "qnnpack") if name not in held]
    without = f"; without {', '.join(gone)}" if gone else ""
    yield (
        f"PyTorch   {torch.__version__}: {', '.join(held) or 'no engine'}{without}; its own "
        f"kernels use {here.capability}"
    )
    if here.limits:
        yield f"set       {', '.join(here.limits)}"
