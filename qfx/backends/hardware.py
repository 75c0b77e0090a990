"""What this machine is, as far as integer kernels care."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from qfx.backends.onednn import saturation
from qfx.torch_private import QUANTIZED_DTYPES, capabilities, lacking

X86_MACHINES = frozenset(("x86_64", "amd64", "i386", "i686"))
ARM_MACHINES = frozenset(("aarch64", "arm64"))

_X86 = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX-VNNI": ("avx_vnni",),
    "AMX": ("amx_tile", "amx_int8"),
}
_ARM = {"NEON": ("neon",), "dot product": ("dot",), "I8MM": ("i8mm",), "SVE": ("sve",)}
"""What instructions for integers are called, and which flags of PyTorch's tell that they are there:
all of them."""

LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that have libraries use less than the CPU can."""


@dataclass(frozen=True)
class Hardware:
    """Facts about the CPU and this build of PyTorch.

    Attributes:
        machine: architecture in lower case, e.g. "x86_64", "arm64".
        cpu: what the CPU is called, or "".
        instructions: which of those that integer kernels use it has, e.g. "AVX2", "AVX-512 VNNI",
            "AMX", "NEON", "dot product".
        without: which it lacks; both are empty where PyTorch doesn't tell.
        capability: the widest vector set that torch's own kernels use, e.g. "AVX512", "DEFAULT".
        limits: the settings of the environment that have libraries use less, "NAME=value".
        saturates: whether oneDNN's integer kernels do, so that activations need 7 bits.
        onednn: whether this build of torch holds oneDNN.
        engines: torch's engines of quantized dtypes in this build; none where torch has dropped
            these dtypes.
    """

    machine: str
    cpu: str
    instructions: tuple[str, ...]
    without: tuple[str, ...]
    capability: str
    limits: tuple[str, ...]
    saturates: bool
    onednn: bool
    engines: tuple[str, ...]

    @property
    def is_x86(self) -> bool:
        return self.machine in X86_MACHINES

    @property
    def is_arm(self) -> bool:
        return self.machine in ARM_MACHINES


@cache
def hardware() -> Hardware:
    """This machine; looked up once per process."""
    machine, flags = platform.machine().lower(), capabilities()
    has = instructions(machine, flags)
    return Hardware(
        machine=machine,
        cpu=str(flags.get("cpu_name", "")).strip(),
        instructions=tuple(name for name, there in has.items() if there),
        without=tuple(name for name, there in has.items() if not there),
        capability=torch.backends.cpu.get_cpu_capability(),
        limits=tuple(f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)),
        saturates=machine in X86_MACHINES and saturation.saturates(),
        onednn=torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        engines=_engines(),
    )


def instructions(machine: str, flags: Mapping[str, object]) -> dict[str, bool]:
    """Whether a CPU has each of the instructions for integers of its architecture.

    Args:
        machine: its architecture in lower case.
        flags: what PyTorch tells of it; empty where it doesn't.
    """
    if not flags:
        return {}
    table = _X86 if machine in X86_MACHINES else _ARM if machine in ARM_MACHINES else {}
    return {name: all(map(flags.get, needed)) for name, needed in table.items()}


def _engines() -> tuple[str, ...]:
    if lacking(QUANTIZED_DTYPES):
        return ()
    return tuple(e for e in torch.backends.quantized.supported_engines if e != "none")
