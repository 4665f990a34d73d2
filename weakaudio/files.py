"""Atomic writes, printable file names, and folders that only one run may write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from weakaudio.errors import StoreError, WriteError

if TYPE_CHECKING:
    import pandas as pd

_LOCK = ".lock"


@contextmanager
def atomic_write(path: str | Path, unique: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` if the block ends without an error.

    Missing folders are created. After an error the temporary file is deleted and the previous file is unchanged.

    Parameters
    ----------
    path
        The file to write.
    unique
        Put the process id into the temporary name, for files that several processes may write at the same time.

    Raises
    ------
    WriteError
        The file cannot be written, e.g. because the disk is full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part" if unique else f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # e.g. a folder component of the path is a file
            part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise WriteError(
            f"{path}: cannot be written ({error.strerror or error}); the previous content is unchanged: free some "
            "disk space or give another path, and run again"
        ) from error


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV without its index, atomically.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    with atomic_write(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def printable(text: str) -> str:
    """Escape bytes of a file name that are not UTF-8, so that tables and terminals can hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


class FolderLock:
    """Exclusive lock on a folder, held until `release` or the end of the process, however it ends.

    The folder is created if needed. The empty file `.lock` in it stays behind; its presence alone locks nothing.

    Raises
    ------
    StoreError
        Another run holds the folder, or its file system does not support locks.
    WriteError
        The folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / _LOCK).open("ab")
        except OSError as error:
            raise WriteError(
                f"{folder}: cannot be written ({error.strerror or error}); give another folder"
            ) from error
        try:
            _lock(self._file.fileno())
        except (BlockingIOError, PermissionError):
            self._file.close()
            raise StoreError(
                f"{folder}: another run writes to it; wait for it to end, or give another folder"
            ) from None
        except OSError as error:
            self._file.close()
            raise StoreError(f"{folder}: cannot be locked ({error}); give a folder on another file system") from error

    def release(self) -> None:
        self._file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
