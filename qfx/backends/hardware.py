"""What this machine's CPU can do, as far as integer kernels care.

Without VNNI, x86 multiplies uint8 by int8 with ``vpmaddubsw``, which adds two products in a
saturating int16: 2 * 255 * 127 overflows it, 2 * 127 * 127 does not. So there, and only there,
activations must be limited to 7 bits (``reduce_range``). With VNNI it would merely lose a bit.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from functools import cache

import torch

X86_MACHINES = frozenset(("x86_64", "amd64", "i386", "i686"))


@dataclass(frozen=True)
class Hardware:
    """Facts about the CPU and this build of PyTorch.

    Attributes:
        machine: architecture in lower case, e.g. "x86_64", "arm64".
        capability: the widest vector set that torch's own kernels use, e.g. "AVX512", "DEFAULT".
        vnni: whether the CPU multiplies uint8 by int8 without saturating.
        onednn: whether this build of torch holds oneDNN.
        engines: torch's quantized engines in this build.
    """

    machine: str
    capability: str
    vnni: bool
    onednn: bool
    engines: tuple[str, ...]

    @property
    def is_x86(self) -> bool:
        return self.machine in X86_MACHINES

    @property
    def reduce_range(self) -> bool:
        """Whether activations need 7 bits, or else int16 sums saturate."""
        return self.is_x86 and not self.vnni

    def missing(self, needs: Hardware) -> tuple[str, ...]:
        """What a model made for ``needs`` would not find here, in words; empty if it fits.

        A model whose activations use all 8 bits because it was made with VNNI gives wrong results
        without.
        """
        lacks = []
        if needs.is_x86 and not self.is_x86:
            lacks.append(f"an x86 CPU (this one is {self.machine})")
        elif needs.vnni and self.reduce_range:
            lacks.append("VNNI instructions (activations use 8 bits; this CPU would saturate)")
        if needs.onednn and not self.onednn:
            lacks.append("a PyTorch built with oneDNN")
        return tuple(lacks)

    def to_dict(self) -> dict[str, object]:
        """As plain data, for files and reports."""
        return asdict(self)


@cache
def hardware() -> Hardware:
    """This machine; looked up once per process."""
    machine = platform.machine().lower()
    return Hardware(
        machine=machine,
        capability=torch.backends.cpu.get_cpu_capability(),
        vnni=machine in X86_MACHINES and _has_vnni(),
        onednn=torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        engines=tuple(e for e in torch.backends.quantized.supported_engines if e != "none"),
    )


def needs_reduced_range() -> bool:
    """Whether activations on this machine need 7 bits (see the module's text)."""
    return hardware().reduce_range


def _has_vnni() -> bool:
    """VNNI in its AVX-512 or AVX2 form; False where this torch can't tell."""
    asks = (getattr(torch.cpu, n, None) for n in ("_is_vnni_supported", "_is_avx2_vnni_supported"))
    return any(ask() for ask in asks if ask is not None)
