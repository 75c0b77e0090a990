"""How small qfx.tune gets models with real weights that must agree with the float ones.

    python -m benchmarks.trained.tune [--models mobilenet_v2] [--least 0.9] [--budget 900]

The data are those of ``benchmarks.trained``: of the samples that don't calibrate every second one
is what the search scores by, and the others, which it never sees, say how well that holds. Prints
the search's table of trials, and bytes of weights relative to all in 8 bits. ``--state`` keeps what
is known in a file, from which the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import qfx
from benchmarks.trained.subjects import SUBJECTS, Sample


def agreement(model: nn.Module, samples: Sequence[Sample]) -> Callable[[nn.Module], float]:
    """A function that tells with how many of ``model``'s top-1 another model agrees."""
    batches = [_together(samples[at : at + 8]) for at in range(0, len(samples), 8)]
    expected = [_top(model, batch) for batch in batches]

    def score(other: nn.Module) -> float:
        pairs = zip(batches, expected, strict=True)
        return sum(int((_top(other, x) == top).sum()) for x, top in pairs) / len(samples)

    return score


def _together(samples: Sequence[Sample]) -> Sample:
    return tuple(torch.cat(parts) for parts in zip(*samples, strict=True))


@torch.no_grad()
def _top(model: nn.Module, batch: Sample) -> Tensor:
    found: Tensor = model(*batch)
    return found.argmax(1)


def tuned(name: str, options: argparse.Namespace) -> qfx.QuantizedModel:
    """Search, and print what was found."""
    subject = SUBJECTS[name].make(options.crops)
    draw = subject.split(options.seed, options.calibration, 2 * options.test)
    deciding, judging = draw.test[::2], draw.test[1::2]
    best = qfx.tune(
        subject.model,
        draw.batches[0],
        draw.batches,
        agreement(subject.model, deciding),
        min_score=options.least,
        budget=options.budget,
        state=options.state,
        backend=options.backend,
    )
    tuning = best.tuning
    assert tuning is not None
    print(tuning)
    whole = next(trial.size for trial in tuning if trial.what == "int8")
    smallest = tuning.best.size
    assert whole is not None
    assert smallest is not None
    print(f"\n{name}: {smallest / whole:.3f} of the bytes with all weights in 8 bits")
    print(f"of {len(judging)} other samples {agreement(subject.model, judging)(best):.3f} agree")
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name in options.models:
        tuned(name, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trained.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2"], choices=list(SUBJECTS))
    parser.add_argument("--least", type=float, default=0.9, help="agreement")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", type=int, default=8, help="of each photo")
    parser.add_argument("--calibration", type=int, default=32, help="samples, at most")
    parser.add_argument("--test", type=int, default=96, help="samples to score by, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--state", type=Path, help="a file of one model's search")
    return parser


if __name__ == "__main__":
    main()
