"""A Llama in place: decoding and reading a prompt, against float and torch.ao; and what it weighs.

    python -m benchmarks.generation [--hidden 1024] [--layers 8] [--threads 2] [--rounds 10]

Weights are random (seed 0); needs transformers. All forms run in one process, in turns: a round
reads a prompt with each and then decodes some tokens with each, so that what disturbs the machine
disturbs all. Times are of one token with a cache that holds the prompt, and of the prompt of
``--prompt`` tokens; ratios are of the minima. Decoded tokens are float's, so that all forms do the
same work. Bytes are those of all weights, in the form in which they are kept.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import qfx
from examples.generate import INT4, llama
from qfx.backends import for_few_rows
from qfx.numerics.measures import sqnr
from qfx.table import markdown
from tools.networks import import_torchvision

FLOAT, PEER = "torch fp32", "torch.ao dynamic"
_TOKENS = 32
"""That are decoded in a round, after its prompt, whose weights may lie elsewhere in the caches."""


class Seconds(NamedTuple):
    """What one form took, a number for each round."""

    decode: list[float]
    prompt: list[float]


def forms(ids: Tensor) -> Iterator[tuple[str, Callable[[nn.Module], nn.Module]]]:
    """Float, and what makes its quantized forms, by title."""
    yield FLOAT, lambda model: model
    for backend in ("x86", "fbgemm"):
        if backend in qfx.backends.available():
            dynamic = partial(qfx.quantize, example_inputs=ids, method="dynamic", backend=backend)
            yield f"qfx dynamic, {backend} form", dynamic
    stored = partial(qfx.quantize, example_inputs=ids, method="weight_only")
    yield "qfx weights int8", stored
    yield "qfx weights int4", partial(stored, qconfig=INT4)
    yield PEER, _peer


def _peer(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        made: nn.Module = quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
        return made


def measure(
    made: dict[str, nn.Module], ids: Tensor, following: Tensor, rounds: int
) -> dict[str, Seconds]:
    """Seconds of each form in each round, in turns; the first round warms up."""
    found = {title: Seconds([], []) for title in made}
    for turn in range(rounds + 1):
        for title, model in made.items():
            prompt, decode = _timed(model, ids, following)
            if turn:
                found[title].prompt.append(prompt)
                found[title].decode.append(decode)
    return found


def _timed(model: Any, ids: Tensor, following: Tensor) -> tuple[float, float]:
    start = time.perf_counter()
    cache = model(ids, use_cache=True).past_key_values
    read = time.perf_counter()
    for token in following:
        cache = model(token.view(1, 1), past_key_values=cache, use_cache=True).past_key_values
    return read - start, (time.perf_counter() - read) / len(following)


def ideal_bytes(model: nn.Module, bits: int, group: int | None) -> int:
    """What weights of layers in ``bits`` with float scales take, and the rest in float."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    inside = {id(m.weight): m.weight for m in layers}
    rest = (p for p in model.parameters() if id(p) not in inside)
    found = sum(p.numel() * 4 for p in rest)
    for weight in inside.values():
        scales = weight.numel() // group if group else weight.shape[0]
        found += weight.numel() * bits // 8 + 4 * scales
    return found


def report(
    made: dict[str, nn.Module], seconds: dict[str, Seconds], decibels: dict[str, float]
) -> str:
    """The table."""
    header = ["", "token, median ms", "min", "x fp32", "prompt, median ms", "min", "x fp32",
              "logits dB", "MB"]  # fmt: skip
    fastest = seconds[FLOAT]
    rows = []
    for title, model in made.items():
        told: Any = getattr(model, "report", None)
        size = "" if told is None else f"{told.size_bytes[1] / 1e6:.1f}"
        row = [title]
        for own, floats in zip(seconds[title], fastest, strict=True):
            ratio = min(floats) / min(own)
            row += [f"{median(own) * 1e3:.2f}", f"{min(own) * 1e3:.2f}", f"{ratio:.2f}"]
        rows.append([*row, f"{decibels[title]:.1f}" if title in decibels else "", size])
    return markdown(header, rows)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    with suppress(ImportError):
        import_torchvision()  # transformers imports it, if it is there
    model = llama(options.hidden, options.layers)
    ids = torch.randint(1, 1000, (1, options.prompt))
    following = torch.randint(1, 1000, (options.tokens,))
    wanted = {t: make for t, make in forms(ids) if t == FLOAT or _wanted(t, options.forms)}
    made = {title: make(model) for title, make in wanted.items()}
    logits = {title: _logits(each, ids) for title, each in made.items()}
    decibels = {t: sqnr(logits[FLOAT], found) for t, found in logits.items() if t != FLOAT}
    print(f"backend='auto' is {for_few_rows(model).name} here\n")
    print(report(made, measure(made, ids, following, options.rounds), decibels))
    weighs, eight, four = (
        f"{found / 1e6:.1f}"
        for found in (
            sum(p.numel() * 4 for p in model.parameters()),
            ideal_bytes(model, 8, None),
            ideal_bytes(model, 4, 32),
        )
    )
    print(
        f"\nMB in float: {weighs}; with weights in 8 bits: {eight}; in 4, by groups of 32: {four}"
    )


def _wanted(title: str, named: Sequence[str]) -> bool:
    return not named or any(name in title for name in named)


def _logits(model: Callable[..., Any], ids: Tensor) -> Tensor:
    found: Tensor = model(ids).logits
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=_TOKENS, help="in a round, after its prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--forms", nargs="*", default=(), help="parts of titles")
    return parser


if __name__ == "__main__":
    main()
