"""What the user should know that a graph does not keep of a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from qfx.capture.capture import (
    ASSIGNED,
    BY_DRAW,
    BY_LAYOUT,
    BY_STATE,
    DECIDED_BY_MODE,
    FILLED,
    PASSED,
)
from qfx.graph.copying import computed_weights

_ASSIGNS = (
    "forward sets {names}, and a graph sets no attributes: it goes on with what the example inputs "
    "gave. If that is state, register a buffer and write to it in place, as in "
    "self.count.add_(1); if nothing reads it in the next call, all is well"
)
_FILLS = (
    "forward puts into {names}, a list or dict that it is given, what a graph can't hold: the "
    "quantized model leaves it as it is. Put tensors and numbers there, or return what is put there"
)
_BAKED = (
    "the weights of {names} are computed (weight norm, spectral norm, pruning); they are trained "
    "as the plain weights that they are now"
)
_DECIDES = (
    "forward decides by its training flag at {lines}, and a graph holds one way only: training "
    "goes the way of inference there. Dropout and batch-norm modules, and functions that are "
    "handed training=self.training, do follow the mode"
)
_PASSED = (
    "forward holds gradients back at {lines}, and training does not, since it does so by its "
    "training flag, by gradients, or for a write in place. Hand on x.detach() there instead"
)
_BY_STATE = (
    "forward asks {lines}, and computes something else by the answer; a graph holds one way only, "
    "that of inference without gradients, inference mode and autocast. Decide by an argument, or "
    "by self.training, instead"
)
_BY_DRAW = (
    "forward draws random numbers outside of PyTorch, with {lines}; a graph draws none there, and "
    "goes on with those of the capture in every call. Draw with torch, as in torch.rand(()), which "
    "a graph draws anew, or only where self.training is set"
)
_BY_LAYOUT = (
    "forward decides by the layout of a tensor in memory at {lines}, and computes something else "
    "if it is another; a graph holds one way only, that of the example inputs, and integer kernels "
    "lay tensors out as they like. Write it so that the layout does not matter"
)


def not_kept(model: nn.Module, captured: fx.GraphModule, method: str) -> Iterator[str]:
    """Sentences for warnings, on a graph of ``model`` that was captured for ``method``."""
    if captured.meta[ASSIGNED]:
        yield _ASSIGNS.format(names=", ".join(captured.meta[ASSIGNED]))
    if captured.meta[FILLED]:
        yield _FILLS.format(names=", ".join(captured.meta[FILLED]))
    if method == "qat" and computed_weights(model):
        yield _BAKED.format(names=", ".join(computed_weights(model)))
    if captured.meta.get(PASSED):
        yield _PASSED.format(lines=", ".join(captured.meta[PASSED]))
    if captured.meta[BY_STATE]:
        yield _BY_STATE.format(lines=", ".join(captured.meta[BY_STATE]))
    if captured.meta[BY_DRAW]:
        yield _BY_DRAW.format(lines=", ".join(captured.meta[BY_DRAW]))
    if captured.meta[BY_LAYOUT]:
        yield _BY_LAYOUT.format(lines=", ".join(captured.meta[BY_LAYOUT]))
    if captured.meta[DECIDED_BY_MODE]:
        yield _DECIDES.format(lines=", ".join(captured.meta[DECIDED_BY_MODE]))
