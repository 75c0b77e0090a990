"""Checksums are computed beside, and are those of the file, whoever computes them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from qfx.storage.checksums import Checksums
from qfx.storage.container import Container, checksum, container_parts

TENSORS = {"large": torch.arange(40_000), "small": torch.arange(5)}


@pytest.fixture
def container() -> Container:
    return Container(bytearray(b"".join(map(bytes, container_parts(TENSORS, {})))))


def test_large_tensors_are_read_on_a_thread_beside(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: dict[str, threading.Thread] = {}
    compute = Container.checksum

    def noted(self: Container, name: str) -> int:
        where[name] = threading.current_thread()
        return compute(self, name)

    monkeypatch.setattr(Container, "checksum", noted)
    with Checksums() as checksums:
        checksums.start(container, ["absent", *TENSORS])
        found = {name: checksums.of(container, name) for name in TENSORS}
    assert found == {name: checksum(tensor) for name, tensor in TENSORS.items()}
    assert where["small"] is threading.current_thread() is not where["large"]


def test_what_is_asked_for_later_is_computed_then(container: Container) -> None:
    with Checksums() as checksums:
        checksums.start(container, TENSORS)
    assert checksums.of(container, "large") == checksum(TENSORS["large"])


def test_where_no_thread_can_be_started_it_is_computed_at_once(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuses)
    with Checksums() as checksums:
        checksums.start(container, TENSORS)
        assert checksums.of(container, "large") == checksum(TENSORS["large"])
