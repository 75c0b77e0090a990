"""torchvision's detectors with random weights whose last layers are fitted to find something.

Scores of random heads are noise: which of two places scores higher, and so which box is kept, no
two ways of rounding agree on. Here the backbone, the pyramid and the towers of the heads stay
random, and the last layers are fitted to objects planted in photos (:mod:`benchmarks.fitting`).

Random networks are chaotic besides: under batch-norms that take off the mean of what they are
given, 1 % of noise in the weights leaves 2 to 12 dB of the features, and boxes jump, in float too.
So these get statistics of the images of which a quarter of the mean is taken off, biases of one,
which leaves activations next to linear, and blocks with a way around them add little. RetinaNets,
whose towers have no norms in the first version, get biases there likewise; and of their nine
anchors a place only those near an object stand for it, or noise would choose among several boxes.

A random depthwise kernel is one number to a smooth image, the sum of its weights, and often next to
none: a norm of that channel's own variance scales up what is left, which is noise. So networks with
depthwise convolutions (MobileNets) get one variance for all channels of a norm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from benchmarks.fitting import fit
from benchmarks.scenes import COLOURS, Scene, scenes

SIZES = ((256, 256), (320, 448))
"""Heights and widths of the images; all but SSDs scale them to a shorter side of 256."""

_SHORTER_SIDE = {"min_size": 256, "max_size": 512}
_TWO_STAGES = {
    "rpn_post_nms_top_n_test": 100, "box_fg_iou_thresh": 0.7, "box_bg_iou_thresh": 0.7,
}  # fmt: skip
_NEAR = {"iou_thresh": 0.6}
_NEAREST = {"fg_iou_thresh": 0.8, "bg_iou_thresh": 0.8}
"""SSDs, RetinaNets and second stages find objects near what they start from: offsets are small."""

_TAKEN_OFF, _BIAS, _ADDED = 0.25, 1.0, 0.2
_SCENES, _TO_CALIBRATE = 3, 2


class Fixture:
    """A detector, and images by size.

    Attributes:
        model: it finds the objects of ``seen``.
        seen: scenes that its last layers were fitted to.
        others: scenes to calibrate with, of which it has seen none.
    """

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        classes = 2 if "keypoint" in name else 1 + len(COLOURS)
        drawn = [scenes(size, _SCENES + _TO_CALIBRATE, classes) for size in SIZES]
        self.seen = [each[:_SCENES] for each in drawn]
        self.others = [each[_SCENES:] for each in drawn]
        self.model = _random(name, classes).eval()
        _set_norms(self.model, [scene for each in drawn for scene in each])
        fit(self.model, self.seen)
        if "_v2" not in name and not name.startswith("ssd"):
            _freeze(self.model.get_submodule("backbone"))
        self.model.eval()


def _random(name: str, classes: int) -> nn.Module:
    from torchvision.models import detection

    options: dict[str, Any] = dict(_NEAR) if name.startswith("ssd") else dict(_SHORTER_SIDE)
    if "rcnn" in name:
        options |= _TWO_STAGES
    if "retinanet" in name:
        options |= _NEAREST
    model: nn.Module = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=classes, **options
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            nn.init.orthogonal_(module.weight)
    return model


@torch.no_grad()
def _set_norms(model: nn.Module, batch: Iterable[Scene]) -> None:
    """Give batch-norms the statistics and the parameters that the module's text tells of."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, _BIAS)
    for norm, has_way_around in _ends_of_blocks(model):
        nn.init.constant_(norm.bias, 0.0)
        nn.init.constant_(norm.weight, _ADDED if has_way_around else 1.0)
    set_norm = _set_norms_alike if any(map(_is_depthwise, model.modules())) else _set_norm
    hooks = [
        module.register_forward_pre_hook(set_norm)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    hooks += [conv.register_forward_hook(_set_bias) for conv in _without_norms(model)]
    model([scene.image for scene in batch])
    for hook in hooks:
        hook.remove()


def _ends_of_blocks(model: nn.Module) -> list[tuple[nn.BatchNorm2d, bool]]:
    """The last batch-norm of each block of ResNets and MobileNets; whether something is added."""
    found = []
    for module in model.modules():
        block: Any = module
        if hasattr(block, "use_res_connect"):
            found.append((block.block[-1][1], bool(block.use_res_connect)))
        elif hasattr(block, "bn3"):
            found.append((block.bn3, True))
    return found


def _without_norms(model: nn.Module) -> list[nn.Module]:
    """The convolutions of towers that have no norms."""
    return [
        module[0]
        for path, module in model.named_modules()
        if path.startswith("head.")
        and isinstance(module, Conv2dNormActivation)
        and len(module) == 2
    ]


def _set_bias(module: Any, args: tuple[Tensor], result: Tensor) -> Tensor:
    """Give a convolution a bias that leaves most of its first result above zero."""
    if module.bias.any():
        return result
    module.bias.fill_(_BIAS * result.std())
    return result + float(module.bias[0])


def _set_norm(module: Any, args: tuple[Tensor]) -> None:
    values = args[0].transpose(0, 1).flatten(1)
    if values.numel():
        mean = values.mean(1) * _TAKEN_OFF
        module.running_mean.copy_(mean)
        module.running_var.copy_((values - mean[:, None]).square().mean(1) + 1e-8)


def _set_norms_alike(module: Any, args: tuple[Tensor]) -> None:
    """:func:`_set_norm`, with one variance for all channels."""
    _set_norm(module, args)
    module.running_var.fill_(module.running_var.mean())


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def _freeze(backbone: nn.Module) -> None:
    """Make batch-norms what they are in a detector with a trained backbone."""
    from torchvision.ops import FrozenBatchNorm2d

    for path, module in list(backbone.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
            frozen.load_state_dict(module.state_dict())
            backbone.set_submodule(path, frozen)
