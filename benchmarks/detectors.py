"""torchvision's detectors with random weights whose last layers are fitted to find something.

Scores of random heads are noise: which of two places scores higher, and so which box is kept, no
two ways of rounding agree on. Here the backbone, the pyramid and the towers of the heads stay
random, and the last layer of each head is trained, with the losses of torchvision itself, to find
rectangles of three colours in a few images. What is before the last layers yields the same in each
step, and runs once.

Random backbones under batch-norm are chaotic: with the statistics of the images 1 % of noise in the
weights leaves 2 to 12 dB of the features, and boxes jump, in float too. Blocks of ResNets add
little here, which leaves 20 dB; MobileNets have no such way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SIZES = ((256, 256), (320, 448))
"""Heights and widths of the images; all but SSDs scale them to a shorter side of 256."""

_SHORTER_SIDE = {"min_size": 256, "max_size": 512}
_PROPOSALS = {"rpn_post_nms_top_n_test": 100}
_LAST = ("cls_logits", "bbox_reg", "bbox_ctrness", "bbox_pred", "cls_score")
_COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
_TAKEN_OFF, _ADDED = 0.25, 0.2
_STEPS, _STEP = 200, 0.5
"""Steps of training, and by how much one moves an output at most, about."""


class Scene(NamedTuple):
    """An image and what is in it, as torchvision's detectors are trained with."""

    image: Tensor
    target: dict[str, Tensor]


def scenes(size: tuple[int, int], count: int, classes: int) -> list[Scene]:
    """Images of rectangles; the same for the same arguments."""
    generator = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    return [_scene(*size, classes, generator) for _ in range(count)]


def _scene(height: int, width: int, classes: int, generator: torch.Generator) -> Scene:
    rough = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    image = nn.functional.interpolate(rough, (height, width), mode="nearest")[0] * 0.4 + 0.2
    boxes: list[list[int]] = []
    labels: list[int] = []
    while len(boxes) < 4:
        high, wide = (
            int(torch.randint(s // 6, s // 3, (), generator=generator)) for s in (height, width)
        )
        top = int(torch.randint(0, height - high, (), generator=generator))
        left = int(torch.randint(0, width - wide, (), generator=generator))
        box = [left, top, left + wide, top + high]
        if any(_touch(box, other) for other in boxes):
            continue
        colour = len(boxes) % len(_COLOURS)
        grain = 0.1 * torch.rand(3, high, wide, generator=generator)
        image[:, top : top + high, left : left + wide] = _COLOURS[colour][:, None, None] + grain
        boxes.append(box)
        labels.append(1 + colour % (classes - 1))
    return Scene(image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)})


def _touch(box: Sequence[int], other: Sequence[int]) -> bool:
    apart = box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
    return not apart


def detector(name: str) -> tuple[nn.Module, list[list[Scene]]]:
    """A detector that finds something, and the scenes that it was fitted to, by size."""
    from torchvision.models import detection  # type: ignore[import-untyped]

    torch.manual_seed(0)
    classes = 2 if "keypoint" in name else 1 + len(_COLOURS)
    options: dict[str, Any] = {} if name.startswith("ssd") else dict(_SHORTER_SIDE)
    if "rcnn" in name:
        options |= _PROPOSALS
    model: nn.Module = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=classes, **options
    )
    seen = [scenes(size, 2, classes) for size in SIZES]
    _set_norms(model.eval(), seen[0])
    with _without_masks(model):
        fit(model, seen)
    return model.eval(), seen


@torch.no_grad()
def _set_norms(model: nn.Module, batch: Sequence[Scene]) -> None:
    """Give batch-norm statistics under which a random backbone neither forgets nor is chaotic.

    A quarter of the mean is taken off, and what a residual block adds is small.
    """
    for module in model.modules():
        last = getattr(module, "bn3", None)
        if last is not None:
            nn.init.constant_(last.weight, _ADDED)
    hooks = [
        module.register_forward_pre_hook(_set_norm)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    model([scene.image for scene in batch])
    for hook in hooks:
        hook.remove()


def _set_norm(module: Any, args: tuple[Tensor]) -> None:
    values = args[0].transpose(0, 1).flatten(1)
    if values.numel():
        mean = values.mean(1) * _TAKEN_OFF
        module.running_mean.copy_(mean)
        module.running_var.copy_((values - mean[:, None]).square().mean(1) + 1e-8)


# -- fitting --------------------------------------------------------------------------------------
class _Frozen(nn.Module):
    """Yields in every step what it yielded in the first on the same batch."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.held = (module.eval(),)  # no submodule, so that nothing puts it into training mode
        self.batch = self.call = 0
        self.known: dict[tuple[int, int], Any] = {}

    def begin(self, batch: int) -> None:
        """A step on a batch begins."""
        self.batch, self.call = batch, 0

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """The module's result, or what it was in the first step."""
        key = self.batch, self.call
        self.call += 1
        if key not in self.known:
            self.known[key] = self.held[0](*args)
        return self.known[key]


class _Nothing(nn.Module):
    """In the place of the second stage: no boxes and no losses."""

    def forward(self, *_: object) -> tuple[list[Any], dict[str, Tensor]]:
        """None of either."""
        return [], {}


def fit(model: nn.Module, batches: Sequence[Sequence[Scene]]) -> None:
    """Train the last layers of the heads; of two stages, the first first."""
    if not hasattr(model, "roi_heads"):
        with _replaced(model, _towers(model)):
            _train(model, _last_layers(model), batches)
        return
    with _replaced(model, _towers(model)), _put(model, "roi_heads", _Nothing()):
        _train(model, _last_layers(model), batches)
    with _replaced(model, ("backbone", "rpn", "roi_heads.box_head")):
        layers = [m for p, m in _last_layers(model) if p.startswith("roi_heads")]
        _train(model, [("", layer) for layer in layers], batches)


def _towers(model: nn.Module) -> list[str]:
    """The backbone, and what heads have before their last layers."""
    found = [p for p, _ in model.named_modules() if p.endswith("head.conv")]
    return ["backbone", *(p for p in found if not p.startswith("roi_heads"))]


def _last_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found = []
    for path, module in model.named_modules():
        owner, _, leaf = path.rpartition(".")
        if owner.endswith("module_list"):
            found.append((path, module[-1] if isinstance(module, nn.Sequential) else module))
        elif leaf in _LAST:
            found.append((path, module))
    return found


@torch.enable_grad()
def _train(
    model: nn.Module, layers: Iterable[tuple[str, nn.Module]], batches: Sequence[Sequence[Scene]]
) -> None:
    model.train().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    groups: list[dict[str, Any]] = []
    trained = [layer for _, layer in layers]
    with _noted(trained) as sizes:
        _loss(model, batches[0], 0)
    for layer in trained:
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        rate = _STEP / (weight[0].numel() * max(sizes[layer], 1e-9))
        groups += [{"params": [weight], "lr": rate}, {"params": [bias], "lr": _STEP}]
        layer.requires_grad_(True)
    optimizer = torch.optim.Adam(groups)
    for step in range(_STEPS):
        loss = _loss(model, batches[step % len(batches)], step % len(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.requires_grad_(False)


def _loss(model: nn.Module, batch: Sequence[Scene], number: int) -> Tensor:
    for module in model.modules():
        if isinstance(module, _Frozen):
            module.begin(number)
    torch.manual_seed(number)  # boxes are sampled: the same in each step
    losses = model([s.image for s in batch], [dict(s.target) for s in batch])
    return sum(losses.values(), torch.zeros(()))


@contextmanager
def _noted(layers: Iterable[nn.Module]) -> Iterator[dict[nn.Module, float]]:
    """The mean size of the inputs of layers, by the first of their calls."""
    found: dict[nn.Module, float] = {}

    def note(module: nn.Module, args: tuple[Tensor]) -> None:
        found.setdefault(module, float(args[0].abs().mean()))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _replaced(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    frozen = {path: _Frozen(model.get_submodule(path)) for path in paths}
    for path, module in frozen.items():
        model.set_submodule(path, module)
    try:
        yield
    finally:
        for path, module in frozen.items():
            model.set_submodule(path, module.held[0])


@contextmanager
def _put(model: nn.Module, path: str, module: nn.Module) -> Iterator[None]:
    before = model.get_submodule(path)
    model.set_submodule(path, module)
    try:
        yield
    finally:
        model.set_submodule(path, before)


@contextmanager
def _without_masks(model: nn.Module) -> Iterator[None]:
    """``model`` without the heads for masks and keypoints, for which scenes have no targets."""
    heads: Any = getattr(model, "roi_heads", None)
    names = [] if heads is None else ["mask_roi_pool", "keypoint_roi_pool"]
    before = {name: getattr(heads, name) for name in names}
    for name in names:
        setattr(heads, name, None)
    try:
        yield
    finally:
        for name, pool in before.items():
            setattr(heads, name, pool)
