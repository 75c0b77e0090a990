"""Networks of torchvision with random weights, made comparable; nothing is downloaded.

A freshly initialised network is a poor subject for quantization: batch-norm statistics are those
of the identity, and some heads and residual branches start muted, so that their errors do not
show. Both are randomised here, with fixed seeds.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType

import torch
from torch import nn

_FIXED_SIZE = {"vit_h_14": 224, "maxvit_t": 224, "inception_v3": 75, "googlenet": 64}
_SMALLEST = {"alexnet": 64, "vgg": 32, "squeezenet": 64, "vit": 224, "densenet": 32, "swin": 64}
_SEED = 0
_TINY = 0.1  # CaiT's layer scales, of which the deepest are 1e-6


@cache
def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators do not load.

    Its Python sources give shapes to ``nms`` and ``qnms`` on import, which fails unless these
    operators exist. Only then are they declared here: where the extension loads, it defines them.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the first try left, half imported
    _declare_operators()
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)  # the declarations go when it goes


_declared: list[torch.library.Library] = []


def classifier_names() -> list[str]:
    """Name all classifiers of torchvision."""
    models = import_torchvision().models
    return [str(name) for name in models.list_models(module=models)]


def image_size(name: str) -> int:
    """Return the edge of a small image that the classifier called ``name`` takes."""
    if name in _FIXED_SIZE:
        return _FIXED_SIZE[name]
    return next((size for prefix, size in _SMALLEST.items() if name.startswith(prefix)), 64)


def classifier(name: str, *, seed: int = _SEED) -> nn.Module:
    """Build a classifier of torchvision in eval mode, with random weights that mute nothing.

    Raises:
        ValueError: torchvision has no classifier of that name.
    """
    if name not in classifier_names():
        raise ValueError(f"torchvision has no model {name!r}; see torchvision.models.list_models()")
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(seed)
    models = import_torchvision().models
    model: nn.Module = models.get_model(name, weights=None, **options)
    randomise(model, seed=seed)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = _SEED) -> None:
    """Randomise batch-norm statistics and wake what starts muted, in place.

    Running mean N(0, 0.1) and variance U(0.5, 1.5). Weights of layers that are all zero (heads of
    ViT) N(0, 0.02); scales of norms that are all zero (last of a residual branch) and scales of
    layers that are all the same and tiny (1e-6 in ConvNeXt) one.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in module.parameters(recurse=False):
            _wake(module, parameter, generator)


def _wake(module: nn.Module, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if not parameter.is_floating_point() or not parameter.numel():
        return
    least, largest = parameter.aminmax()
    weight = parameter is getattr(module, "weight", None)
    if weight and least == largest == 0:
        if parameter.ndim > 1:
            parameter.normal_(0, 0.02, generator=generator)
        else:
            parameter.fill_(1.0)
    elif least == largest and 0 < abs(float(least)) <= _TINY:
        parameter.fill_(1.0)
