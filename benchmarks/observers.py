"""Error and time of qfx's observers and torch.ao's, on the same values.

    python -m benchmarks.observers [--bits 8 4] [--values 500000] [--rounds 5] [--json FILE]

Activations come in 4 batches from seeded distributions, weights are one matrix of 2048 x 2048. All
qparams are judged by the same arithmetic, qfx's reference form: SQNR is of the values that were
observed, 10 log10(sum x^2 / sum (x - x')^2) dB, so the highest SQNR is the least L2 norm of the
quantization error. Times are medians over rounds in which every observer takes its turn: "observe"
a batch, and "choose" qparams, both averaged over the distributions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Protocol

import torch
from torch import Tensor

from qfx.numerics import measures
from qfx.quant.qparams import QParams
from qfx.quant.spec import QuantSpec
from qfx.table import markdown

_BATCHES = 4
_ROWS = 2048
PER_TENSOR = ("minmax", "moving_average_minmax", "percentile", "entropy", "histogram")
PER_CHANNEL = ("per_channel_minmax", "per_channel_mse")
PEERS = ("MinMaxObserver", "MovingAverageMinMaxObserver", "HistogramObserver")
CHANNEL_PEERS = ("PerChannelMinMaxObserver",)
_ALSO = {"histogram": "histogram (= mse)"}


class Watching(Protocol):
    """An observer at work."""

    def observe(self, x: Tensor) -> None:
        """Take in a batch."""
        ...

    def choose(self) -> QParams:
        """The qparams for what was taken in."""
        ...


@dataclass
class Figures:
    """What one observer did on one set of values."""

    sqnr: float = 0.0
    observe: list[float] = field(default_factory=list)
    choose: list[float] = field(default_factory=list)


class Ours:
    """An observer of qfx."""

    def __init__(self, name: str, spec: QuantSpec) -> None:
        self.observer = QuantSpec.from_dict({**spec.to_dict(), "observer": name}).make_observer()

    def observe(self, x: Tensor) -> None:
        """Take in a batch."""
        self.observer(x)

    def choose(self) -> QParams:
        """The qparams for what was taken in."""
        return self.observer.qparams()


class Theirs:
    """An observer of torch.ao, which is deprecated and may be gone."""

    def __init__(self, name: str, spec: QuantSpec) -> None:
        from torch.ao import quantization

        schemes = {
            (False, False): torch.per_tensor_affine,
            (False, True): torch.per_tensor_symmetric,
            (True, False): torch.per_channel_affine,
            (True, True): torch.per_channel_symmetric,
        }
        self.spec = spec
        quant_min, quant_max = spec.bounds
        self.observer = getattr(quantization, name)(
            dtype=torch.quint8 if spec.dtype == torch.uint8 else torch.qint8,
            qscheme=schemes[spec.per_channel, spec.symmetric],
            quant_min=quant_min,
            quant_max=quant_max,
        )

    def observe(self, x: Tensor) -> None:
        """Take in a batch."""
        self.observer(x)

    def choose(self) -> QParams:
        """The qparams for what was taken in."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scale, zero_point = self.observer.calculate_qparams()
        spec = self.spec
        if spec.per_channel:
            zero_point = zero_point.to(torch.int32)
            return QParams(scale, zero_point, spec.dtype, *spec.bounds, axis=0)
        return QParams(float(scale), int(zero_point), spec.dtype, *spec.bounds)


Contenders = Mapping[str, Callable[[], Watching]]


def distributions(count: int) -> dict[str, Tensor]:
    """``count`` seeded values of each; Student's t has 5 degrees of freedom, a kurtosis of 9."""
    generator = torch.Generator().manual_seed(0)
    normal, other = torch.randn(2, count, generator=generator)
    chi = torch.randn(count, 5, generator=generator).square().mean(1)
    sides = torch.where(torch.arange(count) % 2 == 0, 0.5 * other + 3, other - 4)
    return {
        "normal": normal,
        "student t": other / chi.sqrt(),
        "relu'd": normal.relu(),
        "bimodal": sides,
    }


def contenders(ours: Sequence[str], theirs: Sequence[str], spec: QuantSpec) -> Contenders:
    """Every observer, to be made anew each round; those of torch.ao while there are any."""
    made: dict[str, Callable[[], Watching]] = {
        f"qfx {_ALSO.get(name, name)}": lambda name=name: Ours(name, spec)  # type: ignore[misc]
        for name in ours
    }
    if importlib.util.find_spec("torch.ao.quantization") is None:
        return made
    return made | {f"torch.ao {name}": lambda name=name: Theirs(name, spec) for name in theirs}


def measure(x: Tensor, batches: int, these: Contenders, rounds: int) -> dict[str, Figures]:
    """Let each observer see ``x`` in ``batches``, ``rounds`` times, in turns."""
    figures: dict[str, Figures] = defaultdict(Figures)
    for _ in range(rounds):
        for name, make in these.items():
            watching = make()
            for batch in x.chunk(batches):
                start = time.perf_counter()
                watching.observe(batch)
                figures[name].observe.append(time.perf_counter() - start)
            start = time.perf_counter()
            qparams = watching.choose()
            figures[name].choose.append(time.perf_counter() - start)
            figures[name].sqnr = sqnr(x, qparams)
    return dict(figures)


def sqnr(x: Tensor, qparams: QParams) -> float:
    """Of ``x`` in dB, quantized and restored."""
    return measures.sqnr(x, qparams.dequantize(qparams.quantize(x), torch.float64))


def report(title: str, measured: Mapping[str, Mapping[str, Figures]]) -> str:
    """A row for each observer: SQNR for each set of values, then times."""
    header = [title, *(f"{name} dB" for name in measured), "observe ms", "choose ms"]
    names = next(iter(measured.values()))
    rows = [_row(name, [m[name] for m in measured.values()]) for name in names]
    return markdown(header, rows)


def _row(name: str, figures: Sequence[Figures]) -> list[str]:
    observe = fmean(median(f.observe) for f in figures)
    choose = fmean(median(f.choose) for f in figures)
    times = [f"{1e3 * seconds:.2f}" for seconds in (observe, choose)]
    return [name, *(f"{f.sqnr:.2f}" for f in figures), *times]


def activations(bits: int, values: int, rounds: int) -> dict[str, dict[str, Figures]]:
    """Affine codes, per tensor."""
    spec = QuantSpec(torch.uint8, quant_max=2**bits - 1)
    these = contenders(PER_TENSOR, PEERS, spec)
    return {n: measure(x, _BATCHES, these, rounds) for n, x in distributions(values).items()}


def weights(bits: int, rows: int, rounds: int) -> dict[str, dict[str, Figures]]:
    """Symmetric codes, per channel."""
    spec = QuantSpec(
        torch.int8,
        symmetric=True,
        per_channel=True,
        quant_min=-(2 ** (bits - 1)),
        quant_max=2 ** (bits - 1) - 1,
    )
    these = contenders(PER_CHANNEL, CHANNEL_PEERS, spec)
    drawn = {n: x.reshape(rows, -1) for n, x in distributions(rows * rows).items()}
    return {n: measure(drawn[n], 1, these, rounds) for n in ("normal", "student t")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print two tables for each number of bits."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    kept: dict[str, dict[str, dict[str, Figures]]] = {}
    for bits in options.bits:
        for title, measured in (
            (f"activations, {bits} bits", activations(bits, options.values, options.rounds)),
            (f"weights, {bits} bits", weights(bits, options.rows, options.rounds)),
        ):
            print(report(title, measured) + "\n", flush=True)
            kept[title] = measured
    if options.json:
        options.json.write_text(json.dumps(kept, default=vars, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.observers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4], choices=range(2, 9))
    parser.add_argument("--values", type=int, default=500_000, help="of an activation")
    parser.add_argument("--rows", type=int, default=_ROWS, help="and columns of the weight")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser


if __name__ == "__main__":
    main()
