"""What lies at a path: checked before a model is written there, and read as a buffer."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from qfx.errors import FormatError


def check_target(path: Path) -> None:
    """OSError if no file can be written to ``path``, for a reason that is plain beforehand."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file: give a file's name", str(path))
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(folder))
    if path.exists() and not path.is_file():
        raise OSError(
            errno.EINVAL, "a device or pipe, which a file would take the place of", str(path)
        )


def read_buffer(path: str | os.PathLike[str], *, mapped: bool) -> mmap.mmap:
    """The bytes of a file, writable; writes go to no file.

    Args:
        path: the file.
        mapped: whether they stay in the file until they are looked at, or are read now.

    Raises:
        FormatError: the file is empty.
        OSError: it can't be opened.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "a folder, and no file of qfx.save", os.fspath(path))
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise FormatError(f"{os.fspath(path)} is empty")
        if mapped:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        memory = mmap.mmap(-1, size)  # starts where a page does, so that tensors are used in place
        if file.readinto(memory) != size:
            raise FormatError(f"{os.fspath(path)} was cut off while it was read")
        return memory
