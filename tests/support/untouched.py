"""What of a module a call might touch, to compare before and after."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a call might touch; tensors as clones, by identity too."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in named},
        "identities": {name: id(tensor) for name, tensor in named},
        "versions": {name: tensor._version for name, tensor in named},
        "grads": {name: (t.requires_grad, t.grad) for name, t in model.named_parameters()},
        "training": {name: m.training for name, m in model.named_modules()},
        "modules": {name: id(m) for name, m in model.named_modules()},
        "hooks": {
            name: [dict(v) for k, v in vars(m).items() if k.endswith("_hooks") and v]
            for name, m in model.named_modules()
        },
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = state_of(model)
    for name, tensor in before.pop("tensors").items():
        assert torch.equal(tensor, after["tensors"][name]), name
    after.pop("tensors")
    assert after == before
