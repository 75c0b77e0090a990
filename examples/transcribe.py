"""A Whisper-shaped model that transcribes with its cache, quantized in place.

    pip install transformers
    python -m examples.transcribe [--width 128] [--layers 2] [--method dynamic]

The weights are random, and so is the sound: what is printed is how far the quantized model is from
the float one. With real weights, give ``WhisperForConditionalGeneration.from_pretrained(...)`` and
the features of its processor to the same two lines.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import qfx
from qfx.numerics.measures import sqnr

_START, _END = 1, 2


class Numbers(NamedTuple):
    """What came out.

    Attributes:
        logits: SQNR of the logits of the first tokens, in dB.
        same: fraction of the tokens that float says, up to the first that differs.
        coverage: fraction of the multiply-accumulates in integers.
        size: bytes before and after.
    """

    logits: float
    same: float
    coverage: float
    size: tuple[int, int]


def whisper(width: int, layers: int) -> nn.Module:
    """A Whisper with random weights, for sounds of 0.6 seconds."""
    try:
        from transformers import WhisperConfig, WhisperForConditionalGeneration
    except ImportError as error:
        raise SystemExit(f"{error}: pip install transformers") from error

    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=500, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_source_positions=30, max_target_positions=40,
        decoder_start_token_id=_START, bos_token_id=_START, eos_token_id=_END, pad_token_id=_END,
        suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model: nn.Module = WhisperForConditionalGeneration(config).eval()
    return model


@torch.no_grad()
def run(*, width: int = 128, layers: int = 2, tokens: int = 16, method: str = "dynamic") -> Numbers:
    """Quantize a Whisper in place and compare it."""
    model: Any = whisper(width, layers)
    sound = torch.randn(1, 80, 60)
    start = {"decoder_input_ids": torch.tensor([[_START, 7, 11]])}
    quantized: Any = qfx.quantize(model, sound, example_kwargs=start, method=method)
    print(quantized.regions)
    expected, found = (_said(each, sound, tokens) for each in (model, quantized))
    least = min(len(expected), len(found))
    agree = (expected[:least] == found[:least]).cumprod(0)
    report: qfx.QuantizationReport = quantized.report
    return Numbers(
        sqnr(model(sound, **start).logits, quantized(sound, **start).logits),
        float(agree.sum()) / len(expected),
        report.coverage or 0.0,
        report.size_bytes,
    )


def _said(model: Any, sound: Tensor, tokens: int) -> Tensor:
    found: Tensor = model.generate(sound, max_new_tokens=tokens, do_sample=False)
    return found[0]


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--method", default="dynamic", choices=("dynamic", "weight_only", "static"))
    chosen = parser.parse_args()
    numbers = run(width=chosen.width, layers=chosen.layers, method=chosen.method)
    print(f"\nlogits: {numbers.logits:.1f} dB; tokens as in float: {numbers.same:.0%}")
    print(f"MACs in integers: {numbers.coverage:.1%}")
    print("bytes: {:,} -> {:,}".format(*numbers.size))


if __name__ == "__main__":
    main()
