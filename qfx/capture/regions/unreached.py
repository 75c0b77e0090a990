"""Layers that the example inputs don't reach, and arguments of which any would do to capture them.

Where nothing is calibrated, such a layer needs no data: it is a region of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qfx.capture.regions.recording import Calls, RecordedCall

_Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def spare_calls(module: nn.Module) -> Calls | None:
    """A call that a single layer takes; None for what is none."""
    given = _spare_input(module)
    if given is None:
        return None
    calls = Calls()
    calls.add(RecordedCall((given,), {}))
    return calls


def _spare_input(module: nn.Module) -> Tensor | None:
    if isinstance(module, nn.Linear) and _is_own(module, nn.Linear):
        return module.weight.new_ones(1, module.in_features)
    if isinstance(module, nn.Embedding) and _is_own(module, nn.Embedding):
        return torch.zeros(1, 1, dtype=torch.int64, device=module.weight.device)
    if isinstance(module, _Convolution) and any(_is_own(module, kind) for kind in _Convolution):
        pairs = zip(module.kernel_size, module.dilation, strict=True)
        return module.weight.new_ones(1, module.in_channels, *(d * (k - 1) + 1 for k, d in pairs))
    if _is_transposed_linear(module):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight.new_ones(1, 1, weight.shape[0])
    return None


def _is_own(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` runs as the layer that it is or inherits from."""
    return type(module).forward is kind.forward


def _is_transposed_linear(module: nn.Module) -> bool:
    """Whether ``module`` is the Conv1D of transformers: a linear layer of (in, out) weights."""
    weight = getattr(module, "weight", None)
    named = type(module).__name__ == "Conv1D" and isinstance(getattr(module, "nf", None), int)
    return named and isinstance(weight, Tensor) and weight.dim() == 2
