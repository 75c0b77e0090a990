"""The callback for PyTorch Lightning, in its trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from tests.cases.flow import randn, seeded
from tests.cases.test_case_qat import Net, X, prepared
from tools.networks import import_torchvision


def fit(path: Path, steps: int, accumulate: int = 1, checkpoint: str | None = None) -> nn.Module:
    import_torchvision()  # torchmetrics imports it
    pl = pytest.importorskip("pytorch_lightning")  # seconds: not where the tests are collected
    from qfx.integrations.lightning import QATCallback

    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = prepared(seeded(Net).train())

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    data = torch.utils.data.TensorDataset(randn(48, 3, 8, 8))
    loader = torch.utils.data.DataLoader(data, 8)
    task = Task()
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=path, accumulate_grad_batches=accumulate,
        callbacks=[QATCallback(freeze_observers=2, freeze_batchnorm=4)], enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(task, loader, ckpt_path=checkpoint)
    trainer.save_checkpoint(path / f"{steps}.ckpt")
    return task


def frozen(task: nn.Module) -> tuple[bool, bool]:
    site = next(iter(task.net.fake_quants.values()))
    return not site.observer_enabled, task.net.batchnorm_frozen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_freezes_at_optimizer_steps_and_resumes(tmp_path: Path) -> None:
    task = fit(tmp_path, 3, accumulate=2)
    assert frozen(task) == (True, False)
    resumed = fit(tmp_path, 5, checkpoint=str(tmp_path / "3.ckpt"))
    assert frozen(resumed) == (True, True)
    converted = qfx.convert(resumed.net)
    assert torch.equal(resumed.net.eval()(X), converted.reference(X))
