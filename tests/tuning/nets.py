"""A model whose score is planted: what each layer costs in 8 bits, and in 4, is a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx

X = torch.linspace(-1, 1, 64).reshape(4, 16)


class Net(nn.Module):
    """Layers as modules, and one as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 32)
        self.weight = nn.Parameter(torch.randn(8, 32) / 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return F.linear(x, self.weight)


def net(seed: int = 0) -> nn.Module:
    """One of these, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().eval()


LABELS = {"first": "first", "second": "second", "last": "linear"}


def bits_of(module: nn.Module) -> dict[str, int]:
    """In how many bits each layer is."""
    if not isinstance(module, qfx.QuantizedModel):
        return dict.fromkeys(LABELS, 32)
    packed = {name for name, _ in module.reference.named_buffers()}
    sites = {site.label: site for site in module.report.sites}
    found = {}
    for layer, label in LABELS.items():
        stem = "weight" if layer == "last" else f"{layer}.weight"
        narrow = any(stem.replace(".", "_") in n.replace(".", "_") and "q4" in n for n in packed)
        found[layer] = 32 if sites[label].decision == "float" else 4 if narrow else 8
    return found


class Planted:
    """An ``evaluate`` whose score is 1 less what layers cost; counts its calls.

    Args:
        costs: by layer and bits.
        hook: called first, with the number of the call.
    """

    def __init__(
        self, costs: Mapping[tuple[str, int], float], hook: Callable[[int], None] | None = None
    ) -> None:
        self.costs, self.hook, self.calls = costs, hook, 0

    def __call__(self, module: nn.Module) -> float:
        self.calls += 1
        if self.hook is not None:
            self.hook(self.calls)
        return 1 - sum(self.costs.get(each, 0.0) for each in bits_of(module).items())
