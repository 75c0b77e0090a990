"""Calls of networks of transformers that take sequences: other batches and lengths, and padding.

Everything goes by keyword, as a tokenizer or a feature extractor gives it. The first call of each
kind is the one to capture: a batch of two, not padded.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tools.collection.subject import Call, seeded

_TOKENS = ((2, 16), (1, 9), (3, 16), (4, 24))
_SAMPLES = ((2, 1600), (1, 1200), (3, 1600), (4, 2400))
_FIRST, _LAST = 3, 199
"""Tokens that are not special."""


def _text(model: nn.Module) -> Iterator[Call]:
    """Tokens i64[N, T]."""
    for (batch, length), padded in itertools.product(_TOKENS, _paddings(model)):
        kwargs = {"input_ids": _tokens(batch, length), **_mask(model, batch, length, padded)}
        yield Call(f"batch {batch}, {length} tokens{', padded' * padded}", kwargs=kwargs)


def _seq2seq(model: nn.Module) -> Iterator[Call]:
    """Tokens of a source, and half as many of a target."""
    for (batch, length), padded in itertools.product(_TOKENS, _paddings(model)):
        kwargs = {"input_ids": _tokens(batch, length), **_mask(model, batch, length, padded)}
        kwargs["decoder_input_ids"] = _tokens(batch, length // 2)
        yield Call(f"batch {batch}, {length} tokens{', padded' * padded}", kwargs=kwargs)


def _waveform(model: nn.Module) -> Iterator[Call]:
    """Sound f32[N, T]."""
    for (batch, length), padded in itertools.product(_SAMPLES, _paddings(model)):
        kwargs = {"input_values": seeded(batch, length), **_mask(model, batch, length, padded)}
        yield Call(f"batch {batch}, {length} samples{', padded' * padded}", kwargs=kwargs)


def _clips(model: nn.Module) -> Iterator[Call]:
    """Short clips f32[N, T, 3, H, W], of the one size that the model takes."""
    frames, edge = _setting(model, "num_frames"), _setting(model, "image_size")
    for batch in (2, 1, 3, 4):
        pixels = seeded(batch, frames, 3, edge, edge, seed=batch)
        yield Call(f"batch {batch}", kwargs={"pixel_values": pixels})


def _spectrogram(model: nn.Module) -> Iterator[Call]:
    """Spectra f32[N, T, bands] of the one length that the model takes."""
    for batch in (2, 1, 3, 4):
        spectra = seeded(batch, _setting(model, "max_length"), _setting(model, "num_mel_bins"))
        yield Call(f"batch {batch}", kwargs={"input_values": spectra})


def _speech(model: nn.Module) -> Iterator[Call]:
    """Spectra f32[N, bands, T] of the one length that the model takes, and tokens of a target."""
    frames, bands = 2 * _setting(model, "max_source_positions"), _setting(model, "num_mel_bins")
    for batch, length in ((2, 8), (1, 5), (3, 8), (4, 12)):
        target = {"decoder_input_ids": _tokens(batch, length)}
        spectra = {"input_features": seeded(batch, bands, frames, seed=batch)}
        yield Call(f"batch {batch}, {length} tokens", kwargs=spectra | target)


CALLS: dict[str, Callable[[nn.Module], Iterator[Call]]] = {
    "text": _text,
    "seq2seq": _seq2seq,
    "waveform": _waveform,
    "clips": _clips,
    "spectrogram": _spectrogram,
    "speech": _speech,
}


def _paddings(model: nn.Module) -> tuple[bool, ...]:
    """Without padding, and with it where the model takes a mask."""
    taken = "attention_mask" in inspect.signature(model.forward).parameters
    return (False, True) if taken else (False,)


def _mask(model: nn.Module, batch: int, length: int, padded: bool) -> dict[str, Tensor]:
    """A mask i64[N, T] with zeros at padding: row i is shorter by a share that grows with i."""
    if len(_paddings(model)) == 1:
        return {}
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch if padded else 0):
        mask[row, length - (row + 1) * length // (batch + 2) :] = 0
    return {"attention_mask": mask}


def _tokens(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * length)
    return torch.randint(_FIRST, _LAST, (batch, length), generator=generator)


def _setting(model: nn.Module, name: str) -> int:
    config: Any = model.config
    return int(getattr(config, name))
