"""Stubs that mark by hand where the quantized region of a model begins and ends.

Both compute nothing. PyTorch's own stubs are recognised by name, so that nothing has to be imported
from ``torch.ao``.
"""

from __future__ import annotations

from torch import Tensor, nn


class QuantStub(nn.Module):
    """Begins a quantized region: what comes out is quantized. Computes the identity."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input``, a tensor of any shape."""
        return input


class DeQuantStub(nn.Module):
    """Ends a quantized region: what comes out is float. Computes the identity."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input``, a tensor of any shape."""
        return input


_FOREIGN_PACKAGES = ("torch.ao.quantization.", "torch.quantization.")


def _stub_name(module: nn.Module) -> str:
    for kind in type(module).__mro__:
        if kind in (QuantStub, DeQuantStub) or kind.__module__.startswith(_FOREIGN_PACKAGES):
            return kind.__name__
    return ""


def is_quant_stub(module: nn.Module) -> bool:
    """Whether ``module`` begins a quantized region."""
    return _stub_name(module) == "QuantStub"


def is_dequant_stub(module: nn.Module) -> bool:
    """Whether ``module`` ends a quantized region."""
    return _stub_name(module) == "DeQuantStub"


def is_stub(module: nn.Module) -> bool:
    """Whether ``module`` is a stub of qfx or of PyTorch."""
    return is_quant_stub(module) or is_dequant_stub(module)
