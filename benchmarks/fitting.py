"""Fits the last layers of torchvision's detectors, with the losses of torchvision itself.

Everything before the last layers stays random, yields the same in each step, and runs once. It also
runs with noise in its weights, and the last layers are fitted to what it yields then, too: as those
of trained detectors, they don't hang on the last percent of a feature. Their steps are taken in
coordinates in which the input channels of a layer are white, damped as in a ridge regression.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.scenes import Scene

_LAST = ("cls_logits", "bbox_reg", "bbox_ctrness", "bbox_pred", "cls_score")
_COPIES, _NOISE = 4, 0.02
"""How often what is before the last layers runs, and the noise that it has but in the first."""
_STEPS, _STEP, _RIDGE = 150, 0.5, 1.0
_LOOKED_AT = 4
"""Of the places of a convolution, one in so many says what its channels are like."""


class _Batch(NamedTuple):
    """Scenes, seen by a copy of the network; a number of their own tells batches apart."""

    number: int
    copy: int
    scenes: Sequence[Scene]


def with_noise(model: nn.Module, seed: int, noise: float = _NOISE) -> nn.Module:
    """A copy whose weights are off by a fraction of their standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    noisy = copy.deepcopy(model)
    with torch.no_grad():
        for weight in (p for p in noisy.parameters() if p.dim() > 1):
            error = torch.randn(weight.shape, generator=generator) * weight.std()
            weight.add_(error, alpha=noise)
    return noisy


class _Frozen(nn.Module):
    """Yields in every step what it yielded in the first on the same batch."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        noisy = (with_noise(module, 100 + n) for n in range(1, _COPIES))
        self.held = (module.eval(), *noisy)  # no submodules: nothing puts them into training mode
        self.batch = _Batch(0, 0, ())
        self.call = 0
        self.known: dict[tuple[int, int], Any] = {}

    def begin(self, batch: _Batch) -> None:
        """A step on a batch begins."""
        self.batch, self.call = batch, 0

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """The module's result, or what it was in the first step."""
        key = self.batch.number, self.call
        self.call += 1
        if key not in self.known:
            self.known[key] = self.held[self.batch.copy](*args)
        return self.known[key]


class _Nothing(nn.Module):
    """In the place of the second stage: no boxes and no losses."""

    def forward(self, *_: object) -> tuple[list[Any], dict[str, Tensor]]:
        """None of either."""
        return [], {}


def fit(model: nn.Module, seen: Sequence[Sequence[Scene]]) -> None:
    """Train the last layers of the heads; of two stages, the first first."""
    pairs = [(copy, scenes) for copy in range(_COPIES) for scenes in seen]
    batches = [_Batch(number, *pair) for number, pair in enumerate(pairs)]
    with _without_masks(model):
        if not hasattr(model, "roi_heads"):
            with _replaced(model, _towers(model)):
                _train(model, _last_layers(model), batches)
            return
        with _replaced(model, _towers(model)), _put(model, "roi_heads", _Nothing()):
            _train(model, _last_layers(model), batches)
        with _replaced(model, ("backbone", "rpn", "roi_heads.box_head")):
            _train(model, _last_layers(model.get_submodule("roi_heads")), batches)


def _towers(model: nn.Module) -> list[str]:
    """The backbone, and what heads have before their last layers."""
    found = [p for p, _ in model.named_modules() if p.endswith("head.conv")]
    return ["backbone", *(p for p in found if not p.startswith("roi_heads"))]


def _last_layers(model: nn.Module) -> list[nn.Module]:
    found = []
    for path, module in model.named_modules():
        owner, _, leaf = path.rpartition(".")
        if owner.endswith("module_list"):
            found.append(module[-1] if isinstance(module, nn.Sequential) else module)
        elif leaf in _LAST:
            found.append(module)
    return found


@torch.enable_grad()
def _train(model: nn.Module, layers: Sequence[nn.Module], batches: Sequence[_Batch]) -> None:
    model.train().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    groups: list[dict[str, Any]] = []
    for layer, moments in _moments(model, layers, batches).items():
        parametrize.register_parametrization(layer, "weight", _White(moments))
        layer.requires_grad_(True)
        bias = layer.get_parameter("bias")
        weight = layer.get_parameter("parametrizations.weight.original")
        groups += [{"params": [weight], "lr": _STEP / weight[0].numel() ** 0.5}, {"params": [bias]}]
    optimizer = torch.optim.Adam(groups, lr=_STEP)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    for step in range(_STEPS):
        loss = _loss(model, batches[step % len(batches)])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        slower.step()
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    model.requires_grad_(False)


def _loss(model: nn.Module, batch: _Batch) -> Tensor:
    for module in model.modules():
        if isinstance(module, _Frozen):
            module.begin(batch)
    torch.manual_seed(batch.number)  # boxes are sampled: the same in each step
    scenes = batch.scenes
    losses = model([s.image for s in scenes], [dict(s.target) for s in scenes])
    return sum(losses.values(), torch.zeros(()))


class _White(nn.Module):
    """A weight in coordinates in which its input channels are white: ``V L^-1``, ``C = L L^T``."""

    _factor: Tensor
    _inverse: Tensor

    def __init__(self, moments: Tensor) -> None:
        super().__init__()
        ridge = torch.eye(len(moments)) * (_RIDGE * moments.diagonal().mean() + 1e-12)
        factor = torch.linalg.cholesky(moments + ridge)
        identity = torch.eye(len(moments), dtype=moments.dtype)
        self._factor = factor.float()
        self._inverse = torch.linalg.solve_triangular(factor, identity, upper=False).float()

    def forward(self, white: Tensor) -> Tensor:
        """The weight."""
        return _over_channels(white, self._inverse)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What it is in the other coordinates."""
        return _over_channels(weight, self._factor)


def _over_channels(weight: Tensor, matrix: Tensor) -> Tensor:
    """The product along the input channels, dim 1."""
    return torch.einsum("oi...,ij->oj...", weight, matrix)


@torch.no_grad()
def _moments(
    model: nn.Module, layers: Sequence[nn.Module], batches: Iterable[_Batch]
) -> dict[nn.Module, Tensor]:
    """Second moments of the channels that each layer is given, f64[n, n], over all batches."""
    total: dict[nn.Module, Tensor] = {}
    rows: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: tuple[Tensor]) -> None:
        seen = _rows(module, args[0])
        total[module] = total.get(module, 0) + (seen.T @ seen).double()
        rows[module] = rows.get(module, 0) + len(seen)

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    for batch in batches:
        _loss(model, batch)
    for hook in hooks:
        hook.remove()
    return {layer: moments / rows[layer] for layer, moments in total.items()}


def _rows(layer: nn.Module, given: Tensor) -> Tensor:
    """What a layer is given, a row of channels for each place that is looked at."""
    if not isinstance(layer, nn.Conv2d):
        return given.flatten(0, -2)
    return given.flatten(2)[..., ::_LOOKED_AT].transpose(1, 2).flatten(0, 1)


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
