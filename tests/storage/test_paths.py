"""Where files are written: links stay, permissions are kept, the process stays as it is."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx


@pytest.fixture(scope="module")
def qmodel() -> qfx.QuantizedModel:
    made = qfx.quantize(nn.Linear(4, 4).eval(), torch.randn(2, 4), check=False)
    assert isinstance(made, qfx.QuantizedModel)
    return made


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_what_the_umask_leaves(
    qmodel: qfx.QuantizedModel, tmp_path: Path, umask: None
) -> None:
    assert mode(qfx.save(qmodel, tmp_path / "m.qfx")) == 0o640


def test_a_file_that_is_replaced_keeps_its_permissions(
    qmodel: qfx.QuantizedModel, tmp_path: Path
) -> None:
    path = tmp_path / "m.qfx"
    path.write_bytes(b"before")
    path.chmod(0o600)
    assert mode(qfx.save(qmodel, path)) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["m.qfx"]


def test_the_umask_is_never_touched(
    qmodel: qfx.QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(mask: int) -> int:
        raise AssertionError("it belongs to the whole process")

    monkeypatch.setattr(os, "umask", refused)
    threads = [
        threading.Thread(target=qfx.save, args=(qmodel, tmp_path / f"{i}.qfx")) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("dangles", [False, True])
def test_a_link_stays_one(qmodel: qfx.QuantizedModel, tmp_path: Path, dangles: bool) -> None:
    (tmp_path / "versions").mkdir()
    real, link = tmp_path / "versions" / "1.qfx", tmp_path / "latest.qfx"
    if not dangles:
        real.write_bytes(b"before")
    link.symlink_to(real)
    assert qfx.save(qmodel, link) == link
    assert link.is_symlink()
    assert link.readlink() == real
    assert [each.name for each in real.parent.iterdir()] == ["1.qfx"]
    qfx.load(link), qfx.load(real)


def test_links_that_lead_nowhere(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    link = tmp_path / "latest.qfx"
    link.symlink_to(tmp_path / "gone" / "1.qfx")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        qfx.save(qmodel, link)


def test_what_is_no_file_is_not_replaced(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="a device or pipe"):
        qfx.save(qmodel, pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_that_may_not_be_written_to(qmodel: qfx.QuantizedModel) -> None:
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    folder.chmod(0o555)
    try:
        if user == 0:  # who may write anywhere
            os.seteuid(65534)
        with pytest.raises(PermissionError) as raised:
            qfx.save(qmodel, folder / "m.qfx")
    finally:
        os.seteuid(user)
        folder.rmdir()
    assert raised.value.filename == str(folder / "m.qfx")


def test_long_names(qmodel: qfx.QuantizedModel, tmp_path: Path) -> None:
    assert qfx.load(qfx.save(qmodel, tmp_path / ("m" * 251 + ".qfx"))).backend == qmodel.backend
