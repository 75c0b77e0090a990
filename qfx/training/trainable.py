"""A model in quantization-aware training: an ordinary module, whatever is done to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, fx, nn

from qfx.history.history import History
from qfx.quant.fake_quant import FakeQuantize
from qfx.runtime.own_code import with_own_code
from qfx.runtime.prepared import PreparedModel
from qfx.runtime.trained import by_mode
from qfx.torch_private import BATCH_NORMS
from qfx.training.agreement import agree, is_distributed

if TYPE_CHECKING:
    from qfx.training.schedule import QATSchedule


class TrainableModel(PreparedModel):
    """A model with fake-quants in place: train it, then ``qfx.convert`` it.

    Parameters have the names that they had in the model, ``train()`` and ``eval()`` do what they do
    elsewhere, and ``state_dict()`` holds all that training needs to go on. In eval mode it computes
    what the converted model will compute (its reference form, bit for bit).

    Attributes:
        history: the stages so far.
        batchnorm_frozen: whether batch-norm keeps to its running statistics; see
            :func:`qfx.freeze_batchnorm`.
        schedule: the schedule that was saved with it, if it comes from a file.
    """

    batchnorm_frozen: bool
    schedule: QATSchedule | None = None
    called: ClassVar[str] = "TrainableModel"

    @property
    def fake_quants(self) -> dict[str, FakeQuantize]:
        """The fake-quants by name, each with switches of its own.

        ``prepared.fake_quants["conv1.weight_fake_quant"].fake_quant_enabled = False``
        """
        return {n: m for n, m in self.named_modules() if isinstance(m, FakeQuantize)}

    def train(self, mode: bool = True) -> TrainableModel:
        """Train, or not; batch-norm that is frozen stays so."""
        nn.Module.train(self, mode)
        if self.__dict__.get("batchnorm_frozen", False):
            self._freeze_batchnorm()
        return self

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the model; ranks of a distributed training then agree on what they saw."""
        result = super().__call__(*args, **kwargs)
        if self.training and is_distributed():
            agree(self)
        return result

    def freeze_batchnorm(self) -> None:
        """Normalize with running statistics from now on, in training too."""
        self.batchnorm_frozen = True
        self._freeze_batchnorm()

    def _freeze_batchnorm(self) -> None:
        for module in self.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()

    def in_mode_of(self, model: nn.Module) -> TrainableModel:
        """Take over the training flags of ``model``."""
        self.train(model.training)
        flags = {path: module.training for path, module in model.named_modules()}
        for path, module in self.named_modules():
            module.training = flags.get(path, module.training)
        return self

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Let fake-quants observe and not round, and all else run as in inference."""
        modes = {module: module.training for module in self.modules()}
        rounding = {each: each.fake_quant_enabled for each in self.fake_quants.values()}
        self.eval()
        for fake_quant in rounding:
            fake_quant.train()
            fake_quant.fake_quant_enabled, fake_quant.calibrates = False, True
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for fake_quant, enabled in rounding.items():
                fake_quant.fake_quant_enabled, fake_quant.calibrates = enabled, False

    def get_extra_state(self) -> Tensor:
        """Whether batch-norm is frozen."""
        return torch.tensor(self.batchnorm_frozen)

    def set_extra_state(self, state: Tensor) -> None:
        """Freeze batch-norm, or let it learn, as it was."""
        before, self.batchnorm_frozen = self.batchnorm_frozen, bool(state)
        if self.batchnorm_frozen != before:  # else nested training flags stay as they are
            self.train(self.training)

    def recompile(self) -> Any:
        """Generate the code of the graph and of the graph that it means, and one for calls."""
        code = super().recompile()
        type(self).__call__ = with_own_code(TrainableModel.__call__)  # type: ignore[method-assign]
        if self.settings.trained is not None:
            kind = type(self)
            kind.forward = by_mode(kind.forward, self, self.settings.trained)
        return code

    def restore_buffers(self) -> None:
        """Nothing: what training does to buffers is meant."""

    def copy_to_convert(self) -> PreparedModel:
        """A copy for conversion to use up, in eval mode: layers that stay as they are infer."""
        copied = copy.deepcopy(self)
        copied.eval()
        return copied

    def _made_of(self, graph_module: fx.GraphModule, history: History) -> TrainableModel:
        return trainable(graph_module, history, self.settings, frozen=self.batchnorm_frozen)


def trainable(
    graph_module: fx.GraphModule, history: History, settings: Any, *, frozen: bool = False
) -> TrainableModel:
    """A :class:`TrainableModel` over the parameters and modules of ``graph_module``."""
    made = TrainableModel(graph_module, history, settings)
    made.batchnorm_frozen = frozen
    return made
