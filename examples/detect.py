"""torchvision's detectors, quantized in place: backbone and heads in integers, the rest as it is.

    python -m examples.detect [--model ssdlite320_mobilenet_v3_large] [--size 320]

The weights are random, and heads of random weights find nothing: batch-norm gets random statistics,
and the layers that score get weights that make scores spread. What is printed is how many of the
confident boxes of the float model the quantized one finds again (the same label, IoU of 0.9 and
more, or corners within a pixel).
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import qfx

CONFIDENT = 0.5
_SCORES = ("cls_logits", "cls_score", "classification_head.module_list", "mask_fcn_logits")
_SPREAD = 2.0
_LEAST = 0.05
"""Scores that spread less than so much of their size are noise, which is not blown up."""


class Numbers(NamedTuple):
    """What came out.

    Attributes:
        boxes: how many confident boxes the float model finds.
        found: fraction of them that the quantized model finds again.
        coverage: fraction of the multiply-accumulates in integers.
        size: bytes before and after.
    """

    boxes: int
    found: float
    coverage: float
    size: tuple[int, int]


@torch.no_grad()
def detector(name: str, size: int) -> tuple[nn.Module, list[Tensor]]:
    """A detector whose random weights find something, and images."""
    try:
        from torchvision.models import detection
    except (ImportError, RuntimeError) as error:  # none, or made for another torch
        raise SystemExit(f"{error}: pip install the torchvision of this torch") from error

    torch.manual_seed(0)
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None)
    images = [_image(size, size), _image(size * 3 // 4, size)]
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    _spread_scores(model.eval(), images)
    return model, images


def _image(height: int, width: int) -> Tensor:
    """Random patches of several sizes: something to tell apart."""
    scales = (4, 8, 16, 32)
    parts = [torch.rand(1, 3, max(2, height // s), max(2, width // s)) for s in scales]
    grown = [nn.functional.interpolate(p, (height, width), mode="nearest") for p in parts]
    return torch.stack(grown).mean(0)[0]


def _spread_scores(model: nn.Module, images: list[Tensor]) -> None:
    """Let what scores tell places apart: each score spreads about zero over the places."""
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: object, result: Tensor) -> None:
        seen.setdefault(module, result.transpose(0, 1).flatten(1))  # a row for each score

    last = [
        module
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None
        if any(part in path for part in _SCORES)
    ]
    hooks = [module.register_forward_hook(note) for module in last]
    model(images)
    for hook in hooks:
        hook.remove()
    for module, scores in seen.items():
        spread, mean = torch.std_mean(scores, 1, correction=0)
        grow = _SPREAD / spread.clamp(min=_LEAST * float(mean.abs().mean()) + 1e-9)
        weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
        weight.mul_(grow.view(-1, *(1,) * (weight.dim() - 1)))
        bias.sub_(mean).mul_(grow)


@torch.no_grad()
def run(name: str = "ssdlite320_mobilenet_v3_large", *, size: int = 320) -> Numbers:
    """Quantize a detector and compare its boxes."""
    model, images = detector(name, size)
    quantized: Any = qfx.quantize(model, (images,), calibration_data=[(images,)])
    print(quantized.regions)
    expected, found = model(images), quantized(images)
    again = [found_again(e, f) for e, f in zip(expected, found, strict=True)]
    boxes = sum(len(each) for each in again)
    report: qfx.QuantizationReport = quantized.report
    hits = sum(int(each.sum()) for each in again)
    return Numbers(boxes, hits / max(boxes, 1), report.coverage or 0.0, report.size_bytes)


def found_again(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """Of each confident box, whether it was found again."""
    kept = expected["scores"] > CONFIDENT
    boxes, labels = expected["boxes"][kept], expected["labels"][kept]
    same = labels[:, None] == found["labels"][None]
    near = (boxes[:, None] - found["boxes"][None]).abs().amax(-1) <= 1
    return (same & ((_iou(boxes, found["boxes"]) >= 0.9) | near)).any(1)


def _iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union of each with each."""
    low = torch.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = torch.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (ours, theirs)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp(min=1e-9)


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="ssdlite320_mobilenet_v3_large")
    parser.add_argument("--size", type=int, default=320)
    chosen = parser.parse_args()
    numbers = run(chosen.model, size=chosen.size)
    print(f"\n{numbers.found:.1%} of {numbers.boxes} confident boxes found again")
    print(f"MACs in integers: {numbers.coverage:.1%}")
    print("bytes: {:,} -> {:,}".format(*numbers.size))


if __name__ == "__main__":
    main()
