"""The facts that decide how many bits activations get, and what a saved model may run on."""

from __future__ import annotations

from dataclasses import replace

from qfx.backends.hardware import Hardware, hardware
from qfx.backends.onednn import saturation as onednn_saturation

VNNI = Hardware("x86_64", "AVX512", False, True, ("onednn",))


def test_this_machine_is_consistent() -> None:
    here = hardware()
    assert here is hardware()
    assert here.machine
    assert here.missing(here) == ()
    assert here.saturates == (here.is_x86 and onednn_saturation.saturates())


def test_missing_names_what_is_missing() -> None:
    old, arm = replace(VNNI, saturates=True), replace(VNNI, machine="arm64", onednn=False)
    assert VNNI.missing(needs=old) == ()
    assert old.missing(needs=arm) == ()
    assert "VNNI" in old.missing(needs=VNNI)[0]
    assert arm.missing(needs=VNNI) == (
        "an x86 CPU (this one is arm64)",
        "a PyTorch built with oneDNN",
    )


def test_facts_are_plain_data() -> None:
    assert VNNI.to_dict()["machine"] == "x86_64"
    assert Hardware(**VNNI.to_dict()) == VNNI  # type: ignore[arg-type]
