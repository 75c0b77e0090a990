"""A language model that generates with its cache, quantized in place: dynamic int8, int8 and int4.

    pip install transformers
    python -m examples.generate [--hidden 256] [--layers 4] [--tokens 32]

A Llama with random weights, since none small enough ships: what is printed is how far each is from
float - logits in dB, and how many of the tokens that float generates come out the same, up to the
first near-tie - and tokens a second, next to those of PyTorch's quantize_dynamic.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr

INT4 = qfx.QConfig(
    weight=qfx.QuantSpec(
        torch.int8, symmetric=True, per_channel=True, group_size=32, quant_min=-8, quant_max=7
    )
)


class Row(NamedTuple):
    """One way to run the model.

    Attributes:
        name: which.
        logits: SQNR of the logits of the prompt, in dB.
        same: how many tokens are as in float before the first that is not.
        doubt: at that token, how far the float logit of the other lies below the best, relative
            to the spread of the logits: a near-tie where it is small; 0 where all are the same.
        size: bytes of weights; None if that is not known.
        speed: tokens a second, prompt included.
    """

    name: str
    logits: float
    same: int
    doubt: float
    size: int | None
    speed: float


def llama(hidden: int, layers: int, words: int = 1000) -> nn.Module:
    """A Llama with random weights."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise SystemExit(f"{error}: pip install transformers") from error

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 64),
        num_key_value_heads=max(1, hidden // 128),
        eos_token_id=None,
    )
    model: nn.Module = LlamaForCausalLM(config).eval()
    return model


def quantizers(ids: Tensor) -> Iterator[tuple[str, Callable[[nn.Module], nn.Module]]]:
    """What is compared, by name."""
    yield "float", lambda model: model
    yield "qfx dynamic int8", lambda m: qfx.quantize(m, ids, method="dynamic")
    yield "qfx weights int8", lambda m: qfx.quantize(m, ids, method="weight_only")
    yield (
        "qfx weights int4",
        lambda m: qfx.quantize(m, ids, method="weight_only", qconfig=INT4),
    )
    if hasattr(torch, "ao"):
        yield "torch.ao dynamic int8", _of_torch_ao


def _of_torch_ao(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        made: nn.Module = quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear}, dtype=torch.qint8
        )
    return made


@torch.no_grad()
def run(*, hidden: int = 256, layers: int = 4, prompt: int = 16, tokens: int = 32) -> list[Row]:
    """Quantize a Llama in each way and compare."""
    model = llama(hidden, layers)
    ids = torch.randint(1, 1000, (1, prompt))
    expected = _logits(model, ids)
    said, _ = _generated(model, ids, tokens)
    rows = []
    for name, quantize in quantizers(ids):
        made = quantize(model)
        words, speed = _generated(made, ids, tokens)
        same = int((words == said).cumprod(0).sum())
        doubt = 0.0
        if same < tokens:
            before = torch.cat([ids[0], said[:same]])[None]
            logits = _logits(model, before)[0, -1]
            doubt = float((logits.max() - logits[words[same]]) / logits.std())
        report: Any = getattr(made, "report", None)
        size = None if report is None else report.size_bytes[1]
        rows.append(Row(name, sqnr(expected, _logits(made, ids)), same, doubt, size, speed))
    return rows


def _logits(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(ids).logits
    return found


def _generated(model: Any, ids: Tensor, tokens: int) -> tuple[Tensor, float]:
    """What ``model`` adds to the prompt, and how many tokens a second."""
    times = []
    for _ in range(2):  # the first call makes what is made once
        start = time.perf_counter()
        words = model.generate(ids, max_new_tokens=tokens, do_sample=False)
        times.append(time.perf_counter() - start)
    return words[0, ids.shape[1] :], tokens / min(times)


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    chosen = parser.parse_args()
    rows = run(hidden=chosen.hidden, layers=chosen.layers, tokens=chosen.tokens)
    print(f"{'':22} logits dB  same tokens  doubt      bytes  tokens/s")
    for row in rows:
        size = "" if row.size is None else f"{row.size:,}"
        print(
            f"{row.name:22} {row.logits:9.1f}  {row.same:11}  {row.doubt:5.3f} {size:>10}"
            f"  {row.speed:8.1f}"
        )


if __name__ == "__main__":
    main()
