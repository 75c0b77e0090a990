"""What quantization-aware training adds to a training loop: when ranges and statistics stop moving.

Late in training the noise of moving ranges and batch statistics costs more than it helps
(Krishnamoorthi 2018, arXiv:1806.08342, section 4.2): first the ranges are frozen, then the
statistics of batch-norm.
"""

from __future__ import annotations

from torch import nn

from qfx.errors import ConfigError, warn
from qfx.graph.meta import where
from qfx.runtime.prepared import PreparedModel
from qfx.training.trainable import TrainableModel


def freeze_observers(prepared: nn.Module) -> None:
    """Let ranges stay as they are from now on, those of weights included.

    Args:
        prepared: from ``qfx.prepare(..., method="qat")``, as it is or wrapped (DDP, EMA, compile).

    Raises:
        ConfigError: it is no such model.
    """
    for model in _prepared(prepared, "freeze_observers"):
        fake_quants = model.fake_quants
        for fake_quant in fake_quants.values():
            fake_quant.observer_enabled = False
        lacking = {name for name, each in fake_quants.items() if each.lacks_range}
        places = [where(node) for node in model.graph.nodes if node.target in lacking]
        if places:
            warn(
                f"there is no range to freeze at {', '.join(dict.fromkeys(places))}: nothing but "
                "zeros was seen there. The first values that are not zero will give one"
            )


def freeze_batchnorm(prepared: nn.Module) -> None:
    """Let batch-norm use its running statistics from now on, and leave them as they are.

    It holds through ``train()`` and is part of ``state_dict``.

    Args:
        prepared: as for :func:`freeze_observers`.

    Raises:
        ConfigError: it is no such model.
    """
    for model in _prepared(prepared, "freeze_batchnorm"):
        model.freeze_batchnorm()


class QATSchedule:
    """Freezes observers and batch-norm at given steps of a training loop.

    Call :meth:`step` once per optimizer step (or per epoch, and count in epochs)::

        schedule = qfx.QATSchedule(prepared, freeze_observers=800, freeze_batchnorm=900)
        for batch in loader:
            ...
            optimizer.step()
            schedule.step()

    Args:
        prepared: as for :func:`freeze_observers`.
        freeze_observers: after how many steps; None for never.
        freeze_batchnorm: likewise.

    Attributes:
        steps: how many were taken.

    Raises:
        ConfigError: ``prepared`` is no such model, or a number of steps is none.
    """

    def __init__(
        self,
        prepared: nn.Module,
        *,
        freeze_observers: int | None = None,
        freeze_batchnorm: int | None = None,
    ) -> None:
        for name, at in (
            ("freeze_observers", freeze_observers),
            ("freeze_batchnorm", freeze_batchnorm),
        ):
            if at is not None and (isinstance(at, bool) or not isinstance(at, int) or at < 0):
                raise ConfigError(f"{name}={at!r}: give a number of steps from 0 on, or None")
        _prepared(prepared, "QATSchedule")
        self._prepared = prepared
        self._at = ((freeze_observers, _freeze_observers), (freeze_batchnorm, _freeze_batchnorm))
        self.steps = 0
        self._apply()

    def __repr__(self) -> str:
        steps, observers, batchnorm = self.at
        return (
            f"QATSchedule(steps={steps}, freeze_observers={observers}, "
            f"freeze_batchnorm={batchnorm})"
        )

    def step(self) -> None:
        """Count one step, and freeze what is due."""
        self.steps += 1
        self._apply()

    @property
    def at(self) -> tuple[int, int | None, int | None]:
        """The steps taken, and those after which observers and batch-norm are frozen."""
        (observers, _), (batchnorm, _) = self._at
        return self.steps, observers, batchnorm

    def trains(self, model: nn.Module) -> bool:
        """Whether it is the schedule of ``model``, as it is or wrapped."""
        return model in _prepared(self._prepared, "QATSchedule")

    def state_dict(self) -> dict[str, int]:
        """The number of steps taken."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where :meth:`state_dict` was taken; what is due by then is frozen."""
        self.steps = state["steps"]
        for at, freeze in self._at:
            if at is not None and at <= self.steps:
                freeze(self._prepared)

    def _apply(self) -> None:
        for at, freeze in self._at:
            if at is not None and at == self.steps:
                freeze(self._prepared)


_freeze_observers, _freeze_batchnorm = freeze_observers, freeze_batchnorm


def _prepared(model: object, taker: str) -> list[TrainableModel]:
    """The prepared models in ``model``: itself, or what a wrapper holds."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    found = [m for m in modules if isinstance(m, TrainableModel)]
    if not found:
        other = any(isinstance(m, PreparedModel) for m in modules)
        made = "a model prepared for calibration" if other else f"a {type(model).__name__}"
        raise ConfigError(
            f'{taker} takes what qfx.prepare(model, example_inputs, method="qat") returned, not '
            f"{made}"
        )
    return found
