"""What this machine is, as far as integer kernels care."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from functools import cache

import torch

from qfx.backends.onednn import saturation
from qfx.torch_private import QUANTIZED_DTYPES, lacking

X86_MACHINES = frozenset(("x86_64", "amd64", "i386", "i686"))


@dataclass(frozen=True)
class Hardware:
    """Facts about the CPU and this build of PyTorch.

    Attributes:
        machine: architecture in lower case, e.g. "x86_64", "arm64".
        capability: the widest vector set that torch's own kernels use, e.g. "AVX512", "DEFAULT".
        saturates: whether oneDNN's integer kernels do, so that activations need 7 bits.
        onednn: whether this build of torch holds oneDNN.
        engines: torch's engines of quantized dtypes in this build; none where torch has dropped
            these dtypes.
    """

    machine: str
    capability: str
    saturates: bool
    onednn: bool
    engines: tuple[str, ...]

    @property
    def is_x86(self) -> bool:
        return self.machine in X86_MACHINES

    def missing(self, needs: Hardware) -> tuple[str, ...]:
        """What a model made for ``needs`` would not find here, in words; empty if it fits.

        A model whose activations use all 8 bits because it was made where kernels don't saturate
        gives wrong results where they do.
        """
        lacks = []
        if needs.is_x86 and not self.is_x86:
            lacks.append(f"an x86 CPU (this one is {self.machine})")
        elif needs.is_x86 and not needs.saturates and self.saturates:
            lacks.append("VNNI instructions (activations use 8 bits; kernels here saturate)")
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
        saturates=machine in X86_MACHINES and saturation.saturates(),
        onednn=torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        engines=_engines(),
    )


def _engines() -> tuple[str, ...]:
    if lacking(QUANTIZED_DTYPES):
        return ()
    return tuple(e for e in torch.backends.quantized.supported_engines if e != "none")
