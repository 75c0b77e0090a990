"""Saving and loading is the same in whatever mode of PyTorch it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qfx


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.rnn, self.linear = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.linear(self.rnn(y[:, None])[0])


X = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "meta": lambda: default_device("meta"),
    "on meta": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "half": lambda: default_dtype(torch.float16),
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
}


def made(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "qat":
        trained = qfx.prepare(Net().train(), X, method="qat")
        trained(torch.cat([X, X + 1]))
        return trained
    if kind == "prepared":
        return qfx.calibrate(qfx.prepare(Net().eval(), X), [X])
    return qfx.quantize(Net().eval(), X, method=kind, check=False)


def told(model: nn.Module) -> list[tuple[object, ...]]:
    """All that is known of a model's tensors and results."""
    held = (*model.named_parameters(), *model.named_buffers())
    model.eval()
    with torch.no_grad():
        tensors = [*held, ("output", model(X))]
    return [(n, t.dtype, t.device, t.requires_grad, t.is_inference(), repr(t)) for n, t in tensors]


@pytest.mark.sweep(first=2)
@pytest.mark.parametrize("kind", ["static", "dynamic", "weight_only", "prepared", "qat"])
def test_modes(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    path = qfx.save(model, tmp_path / "m.qfx")
    expected, data = told(qfx.load(path)), path.read_bytes()
    for name, mode in MODES.items():
        with mode():
            assert qfx.save(model, tmp_path / "again.qfx").read_bytes() == data, name
            loaded = qfx.load(path)
        assert told(loaded) == expected, name


def test_what_is_prepared_in_another_dtype_loads(tmp_path: Path) -> None:
    with default_dtype(torch.float64):
        model = qfx.prepare(Net().float().train(), X, method="qat")
        path = qfx.save(model, tmp_path / "m.qfx")
    assert told(qfx.load(path)) == told(qfx.load(path))
