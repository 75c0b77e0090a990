"""The facts that decide how many bits activations get, and what a saved model may run on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qfx.backends.hardware import Hardware, hardware, needs_reduced_range

VNNI = Hardware("x86_64", "AVX512", True, True, ("onednn",))


def test_this_machine_is_consistent() -> None:
    here = hardware()
    assert here is hardware()
    assert here.machine
    assert here.missing(here) == ()
    assert needs_reduced_range() == here.reduce_range


@pytest.mark.parametrize(
    ("machine", "vnni", "reduce_range"),
    [("x86_64", True, False), ("amd64", False, True), ("arm64", False, False)],
)
def test_only_x86_without_vnni_needs_7_bits(machine: str, vnni: bool, reduce_range: bool) -> None:
    assert replace(VNNI, machine=machine, vnni=vnni).reduce_range is reduce_range


def test_missing_names_what_is_missing() -> None:
    old, arm = replace(VNNI, vnni=False), replace(VNNI, machine="arm64", vnni=False, onednn=False)
    assert VNNI.missing(needs=old) == ()
    assert "VNNI" in old.missing(needs=VNNI)[0]
    assert arm.missing(needs=VNNI) == (
        "an x86 CPU (this one is arm64)",
        "a PyTorch built with oneDNN",
    )


def test_facts_are_plain_data() -> None:
    assert VNNI.to_dict()["machine"] == "x86_64"
    assert Hardware(**VNNI.to_dict()) == VNNI  # type: ignore[arg-type]
