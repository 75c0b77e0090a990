"""Probes accept right kernels, and name what is wrong with others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from qfx.backends.onednn.probes import PROBES
from qfx.backends.probing import probe as probes
from qfx.backends.probing.probe import REASON, judge, probe
from qfx.backends.probing.trials import Combination, ProbeRun

SOUND = [
    ("onednn.qconv1d", ()),
    ("onednn.qconv1d", ("relu",)),
    ("onednn.qconv2d", ()),
    ("onednn.qconv2d", ("clamp",)),
    ("onednn.qconv2d", ("hardswish",)),
    ("onednn.qconv2d", ("silu",)),
    ("onednn.qconv2d", ("add",)),
    ("onednn.qconv2d", ("add", "relu")),
    ("onednn.qconv3d", ()),
    ("onednn.qlinear", ()),
    ("onednn.qlinear", ("gelu",)),
    ("onednn.qlinear", ("tanh",)),
    ("onednn.qlinear", ("leaky_relu",)),
    ("onednn.qlinear", ("add", "relu")),
]
COMBINATION = Combination("made-up kernel")


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("kernel", "post"), SOUND)
def test_kernels_of_the_table_work_here(
    kernel: str, post: tuple[str, ...], dtype: torch.dtype
) -> None:
    verdict = probe(kernel, PROBES[kernel], post, dtype)
    assert verdict, verdict.detail
    assert verdict.reason == ""


@pytest.mark.parametrize("kernel", ["uint8 max_pool2d"])
def test_uint8_kernels_work_here(kernel: str) -> None:
    verdict = probe(kernel, PROBES[kernel])
    assert verdict, verdict.detail


@pytest.mark.parametrize(
    ("kernel", "post"), [("onednn.qconv2d", ("gelu",)), ("onednn.qconv3d", ("relu",))]
)
def test_a_kernel_that_raises_is_absent(kernel: str, post: tuple[str, ...]) -> None:
    verdict = probe(kernel, PROBES[kernel], post)
    assert not verdict
    assert verdict.reason == REASON
    assert "Unsupported post op" in verdict.detail
    assert verdict in probes.failures()


def test_a_kernel_with_wrong_codes_is_absent_and_shows_them() -> None:
    def corrupts_large_codes(_: Combination) -> Iterator[ProbeRun]:
        exact = torch.tensor([0.0, 127.2, 200.0])
        yield ProbeRun("3 elements", torch.tensor([0, 127, 72], dtype=torch.uint8), exact)

    verdict = judge(COMBINATION, corrupts_large_codes)
    assert not verdict
    assert verdict.detail == "3 elements: gave 72, exact is 200.00"


@pytest.mark.parametrize("got", [127.0, 128.0])
def test_either_neighbour_of_a_tie_is_right(got: float) -> None:
    trial = ProbeRun("tie", torch.tensor([got]), torch.tensor([127.5]))
    assert trial.fault() == ""


def test_a_step_and_a_half_is_wrong() -> None:
    trial = ProbeRun("near", torch.tensor([126.0]), torch.tensor([127.5]))
    assert trial.fault() == "near: gave 126, exact is 127.50"


def test_nan_is_wrong() -> None:
    assert "nan" in ProbeRun("x", torch.tensor([torch.nan]), torch.tensor([1.0])).fault()


def test_a_wrong_shape_is_wrong() -> None:
    assert ProbeRun("x", torch.zeros(2), torch.zeros(3)).fault() == "x: shape [2], not [3]"


def test_kernels_without_a_probe_are_taken_to_work() -> None:
    assert probe("uint8 reshape", None)


def test_a_kernel_is_tried_once_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(combination: Combination) -> Iterator[ProbeRun]:
        runs.append(combination)
        yield ProbeRun("fine", torch.zeros(1), torch.zeros(1))

    monkeypatch.setattr(probes, "_verdicts", {})
    threads = [threading.Thread(target=probe, args=("counted", counted)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1


def test_a_probe_leaves_global_defaults_alone_and_ignores_them() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        verdict = judge(Combination("onednn.qconv2d"), PROBES["onednn.qconv2d"])
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert verdict, verdict.detail
