"""Linear layers over weights kept in few bits: PyTorch's kernels, and making the weight float.

    python -m benchmarks.weights [--shapes 1x768x768 128x3072x768] [--threads 1] [--rounds 20]

A table a shape (rows x outputs x inputs): the fastest run of each, interleaved, and how far results
are from the layer over what the weight stands for. The evidence for the reason ``slow-kernel``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx import QuantSpec
from qfx.backends.stored_weights import kernels, packs
from qfx.numerics.measures import sqnr
from qfx.quant.qparams import QParams, quantize_weight
from qfx.quant.reference_form import QuantizedWeight
from qfx.semantics import packing
from qfx.table import markdown

Call = Callable[[], Tensor]
GROUP = 64
_INT8 = QuantSpec(torch.int8, symmetric=True, per_channel=True, quant_min=-127)
_INT4 = QuantSpec(
    torch.int8, symmetric=True, per_channel=True, group_size=GROUP, quant_min=-8, quant_max=7
)


class Layer:
    """One linear layer, and every way to run it."""

    def __init__(self, rows: int, outputs: int, inputs: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.shape = (rows, outputs, inputs)
        self.x = torch.randn(rows, inputs, generator=generator)
        self.weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        self.bias = torch.randn(outputs, generator=generator)

    def ways(self) -> dict[str, tuple[Call, Tensor]]:
        """Name -> a call, and the exact result of what it computes."""
        exact = F.linear(self.x, self.weight, self.bias)
        floating = partial(F.linear, self.x, self.weight, self.bias)
        found: dict[str, tuple[Call, Tensor]] = {"float": (floating, exact)}
        found |= self._int8()
        if self.shape[2] % GROUP == 0:
            found |= self._int4()
        return found | self._halves()

    def _int8(self) -> dict[str, tuple[Call, Tensor]]:
        codes, qparams = quantize_weight(self.weight, _INT8)
        scale, restored = torch.as_tensor(qparams.scale), qparams.dequantize(codes)
        exact = F.linear(self.x, restored, self.bias)
        return {
            "int8, widened in blocks": (
                partial(kernels.linear, self.x, codes, scale, None, self.bias),
                exact,
            ),
            "int8, one float copy": (partial(self._copied, codes, qparams), exact),
            "_weight_int8pack_mm": (self._packed(packs.INT8, codes, qparams), exact),
            **self._int8_in_bfloat16(codes, scale, exact),
        }

    def _int4(self) -> dict[str, tuple[Call, Tensor]]:
        codes, qparams = quantize_weight(self.weight, _INT4)
        scale, restored = torch.as_tensor(qparams.scale), qparams.dequantize(codes)
        exact = F.linear(self.x, restored, self.bias)
        widened = partial(
            kernels.linear,
            self.x,
            packing.pack(codes),
            scale,
            None,
            self.bias,
            group_size=GROUP,
            packed=torch.int8,
        )
        found: dict[str, tuple[Call, Tensor]] = {"4-bit, widened in blocks": (widened, exact)}
        if self.shape[1] % 16 == 0:
            int4 = self._packed(packs.INT4, codes, qparams)
            found["_weight_int4pack_mm_for_cpu"] = (int4, exact)
        found["_dyn_quant_matmul_4bit"] = (self._dyn_quant(codes, scale), exact)
        return found

    def _halves(self) -> dict[str, tuple[Call, Tensor]]:
        halves = self.weight.half()
        exact = F.linear(self.x, halves.float(), self.bias)
        found: dict[str, tuple[Call, Tensor]] = {
            "float16, widened in blocks": (
                partial(kernels.linear_half, self.x, halves, self.bias),
                exact,
            )
        }
        for kernel in (packs.ONEDNN_HALF, packs.FBGEMM_HALF):
            form = packs.LinearGeometry("weight", *self.shape, None, halves, self.bias)
            call = partial(kernel.run, self.x, *kernel.pack(form), self.bias)
            found[kernel.name] = (call, exact)
        return found

    def _packed(self, kernel: packs.PackedKernel, codes: Tensor, qparams: QParams) -> Call:
        weight = QuantizedWeight("weight", codes, qparams, 1.0, 0)
        form = packs.LinearGeometry("weight", *self.shape, weight, None, self.bias)
        return partial(kernel.run, self.x, *kernel.pack(form), self.bias)

    def _copied(self, codes: Tensor, qparams: QParams) -> Tensor:
        return F.linear(self.x, qparams.dequantize(codes), self.bias)

    def _int8_in_bfloat16(
        self, codes: Tensor, scale: Tensor, exact: Tensor
    ) -> dict[str, tuple[Call, Tensor]]:
        if self.shape[2] % 32:
            return {}  # torch 2.13 crashes
        return {"_weight_int8pack_mm, bfloat16": (partial(self._bfloat16, codes, scale), exact)}

    def _bfloat16(self, codes: Tensor, scale: Tensor) -> Tensor:
        x = self.x.bfloat16()
        return torch._weight_int8pack_mm(x, codes, scale.bfloat16()).float().add_(self.bias)

    def _dyn_quant(self, codes: Tensor, scale: Tensor) -> Call:
        """Rounds the activations too; takes its codes from 0 on, the odd one in the high bits."""
        shifted = (codes + 8).to(torch.uint8)
        pairs = shifted[:, ::2].bitwise_or(shifted[:, 1::2] << 4)
        _, outputs, inputs = self.shape
        packed = torch.ops.aten._dyn_quant_pack_4bit_weight(
            pairs, scale.bfloat16(), self.bias, GROUP, inputs, outputs
        )
        return partial(
            torch.ops.aten._dyn_quant_matmul_4bit, self.x, packed, GROUP, inputs, outputs
        )


def fastest(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Seconds of the fastest run of each, all run once a round."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def report(shape: str, rounds: int) -> str:
    """The table of one shape."""
    layer = Layer(*map(int, shape.split("x")))
    with torch.inference_mode():
        ways = layer.ways()
        quality = {name: sqnr(exact, call()) for name, (call, exact) in ways.items()}
        seconds = fastest({name: call for name, (call, _) in ways.items()}, rounds)
    rows = [
        [name, f"{1e3 * s:.3f}", f"{s / seconds['float']:.2f}", f"{quality[name]:.0f}"]
        for name, s in seconds.items()
    ]
    return markdown([shape, "min ms", "x float", "dB"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shapes = ["1x768x768", "1x4096x4096", "16x768x768", "128x768x768", "128x3072x768"]
    parser.add_argument("--shapes", nargs="+", default=shapes, metavar="ROWSxOUTxIN")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        for shape in options.shapes:
            print(report(shape, options.rounds) + "\n", flush=True)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
