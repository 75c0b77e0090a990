"""Modes of PyTorch that a caller may be in, and that must not decide what a quantized model is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICE_TYPES = (
    *("cpu", "cuda", "xpu", "mps", "hpu", "ipu", "xla", "mtia", "maia"),
    "privateuseone",  # whatever name a backend of someone else goes by
)

_is_on = torch.is_autocast_enabled  # itself: capture puts another in its place


@contextmanager
def without_autocast() -> Iterator[None]:
    """Autocast switched off for every type of device; afterwards it is as it was."""
    with ExitStack() as undo:
        for device_type in filter(_casts, _DEVICE_TYPES):
            undo.callback(torch.set_autocast_enabled, device_type, True)
            torch.set_autocast_enabled(device_type, False)
        yield


def _casts(device_type: str) -> bool:
    try:
        return _is_on(device_type)
    except RuntimeError:
        return False  # this PyTorch knows of no autocast there


@contextmanager
def on_cpu() -> Iterator[None]:
    """Tensors are made on the CPU, whatever device is the default. Decorates, too."""
    with ExitStack() as undo:
        if torch.get_default_device().type != "cpu":  # the mode itself costs every call something
            undo.enter_context(torch.device("cpu"))
        yield


@contextmanager
def draws_undone() -> Iterator[None]:
    """Random numbers that are drawn on the CPU are drawn again afterwards. Decorates, too."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave autocast and inference mode, whose tensors can't be calibrated. Decorates, too."""
    with torch.inference_mode(False), without_autocast():
        yield
