"""Which nodes of a graph call what quantization puts there to watch values."""

from __future__ import annotations

from torch import fx, nn

from qfx.quant.channel_mean import ChannelMean
from qfx.quant.fake_quant import FakeQuantize
from qfx.quant.observers import Observer


def is_observer(node: fx.Node) -> bool:
    """Whether ``node`` calls an observer or a fake-quant."""
    return observer_of(node) is not None


def observer_of(node: fx.Node) -> Observer | FakeQuantize | None:
    """The observer or fake-quant that ``node`` calls, or None."""
    module = _called(node)
    return module if isinstance(module, (Observer, FakeQuantize)) else None


def recorder_of(node: fx.Node) -> ChannelMean | None:
    """The recorder of channel means that ``node`` calls, or None."""
    module = _called(node)
    return module if isinstance(module, ChannelMean) else None


def _called(node: fx.Node) -> nn.Module | None:
    owner = node.graph.owning_module
    if node.op != "call_module" or owner is None:
        return None
    return owner.get_submodule(str(node.target))
