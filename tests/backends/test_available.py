"""Which backends a machine offers."""

from __future__ import annotations

import dataclasses

import pytest

import qfx
from qfx.backends import hardware as facts
from qfx.backends import resolve_backend


def test_an_arm_machine_gets_qnnpack(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's ARM builds list a onednn engine, whose kernels here are for x86."""
    engines = ("qnnpack", "onednn")
    arm = dataclasses.replace(facts.hardware(), machine="aarch64", saturates=False, engines=engines)
    monkeypatch.setattr(facts, "hardware", lambda: arm)
    assert qfx.backends.available() == ("qnnpack", "reference")
    assert qfx.backends.detect() == "qnnpack"
    with pytest.raises(qfx.BackendError, match="an x86 CPU; this machine lacks that"):
        resolve_backend("x86")
