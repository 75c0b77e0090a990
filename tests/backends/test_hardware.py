"""The facts that decide how many bits activations get, and what a model runs on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx.backends.hardware import hardware, instructions
from qfx.backends.onednn import saturation as onednn_saturation
from qfx.backends.wide_codes import EXACT_SUMS

SPR = {"avx2": True, "avx512_f": True, "avx512_bw": True, "avx512_vl": True, "avx512_dq": True}


def test_this_machine_is_consistent() -> None:
    here = hardware()
    assert here is hardware()
    assert here.machine
    assert here.saturates == (here.is_x86 and onednn_saturation.saturates())
    assert not set(here.instructions) & set(here.without)
    assert not (here.is_x86 and here.is_arm)


@pytest.mark.parametrize(
    ("machine", "flags", "has"),
    [
        ("x86_64", {"avx2": True}, "AVX2"),
        ("x86_64", SPR, "AVX2, AVX-512"),
        ("x86_64", {**SPR, "avx512_vl": False}, "AVX2"),
        ("amd64", {**SPR, "avx512_vnni": True}, "AVX2, AVX-512, AVX-512 VNNI"),
        ("x86_64", {"avx2": True, "avx_vnni": True}, "AVX2, AVX-VNNI"),
        ("x86_64", {"avx2": True, "amx_tile": True}, "AVX2"),
        ("x86_64", {"avx2": True, "amx_tile": True, "amx_int8": True}, "AVX2, AMX"),
        ("aarch64", {"neon": True, "dot": True}, "NEON, dot product"),
        ("arm64", {"neon": True, "dot": True, "i8mm": True}, "NEON, dot product, I8MM"),
        ("riscv64", {"neon": True}, ""),
        ("x86_64", {}, ""),
    ],
)
def test_instructions_are_those_that_kernels_use(
    machine: str, flags: dict[str, object], has: str
) -> None:
    found = instructions(machine, flags)
    assert ", ".join(name for name, there in found.items() if there) == has


@pytest.mark.parametrize("highest", [127, 255])
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "reference"])
def test_a_model_says_what_it_needs(backend: str, highest: int) -> None:
    if backend not in qfx.backends.available():
        pytest.skip(f"no {backend} here")
    found = quantized(backend, highest).needs
    assert ("an x86 CPU" in found) is (backend in ("x86", "fbgemm"))
    assert ("a PyTorch built with oneDNN" in found) is (backend == "x86")
    wide = highest == 255 and not qfx.backends.resolve_backend(backend).saturates
    assert (EXACT_SUMS in found) is (wide and backend in ("x86", "fbgemm"))
    assert bool(found) is (backend != "reference")


def quantized(backend: str, highest: int) -> qfx.QuantizedModel:
    torch.manual_seed(0)
    activation = qfx.QuantSpec(torch.uint8, quant_max=highest)
    weight = qfx.QuantSpec(torch.int8, symmetric=True, quant_min=-127)
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    qconfig = qfx.QConfig(activation=activation, weight=weight)
    return qfx.quantize(model, torch.randn(2, 4), backend=backend, qconfig=qconfig)
