"""A callback for PyTorch Lightning (``pip install qfx[lightning]``).

Prepare the network inside the LightningModule, and let the trainer do the rest::

    module.net = qfx.prepare(module.net, example_inputs, method="qat")
    freeze = QATCallback(freeze_observers=800, freeze_batchnorm=900)
    pl.Trainer(max_steps=1000, callbacks=[freeze]).fit(module, loader)
    qmodel = qfx.convert(module.net)
"""

from __future__ import annotations

import pytorch_lightning as pl

from qfx.training.schedule import QATSchedule
from qfx.training.trainable import TrainableModel


class QATCallback(pl.Callback):
    """Freezes observers and batch-norm of a prepared model at given optimizer steps.

    Args:
        freeze_observers: after how many optimizer steps; None for never.
        freeze_batchnorm: likewise.
    """

    def __init__(
        self, *, freeze_observers: int | None = None, freeze_batchnorm: int | None = None
    ) -> None:
        super().__init__()
        self._at = {"freeze_observers": freeze_observers, "freeze_batchnorm": freeze_batchnorm}
        self._schedule: QATSchedule | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the prepared model; ConfigError if the module has none.

        A trainer leaves modes as they are, and ``qfx.prepare`` keeps that of the model: a prepared
        model in eval mode would not train.
        """
        for module in pl_module.modules():
            if isinstance(module, TrainableModel) and not module.training:
                module.train()
        self._schedule = QATSchedule(pl_module, **self._at)
        self._schedule.load_state_dict({"steps": trainer.global_step})

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Count optimizer steps, of which accumulated gradients make one of several batches."""
        assert self._schedule is not None
        while self._schedule.steps < trainer.global_step:
            self._schedule.step()
