"""Files that are written atomically, names that can be printed, and folders that one run writes to at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from weakaudio.errors import ManifestError, StoreError

if TYPE_CHECKING:
    import pandas as pd

_LOCK = ".lock"


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV without its index; beside first and then renamed into place.

    Raises
    ------
    ManifestError
        It cannot be written, as on a full disk.
    """
    with atomic_write(path) as beside:
        table.to_csv(beside, index=False, lineterminator="\n")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Where to write a file, which is renamed into place when the block ends without an error.

    Raises
    ------
    ManifestError
        It cannot be written, as on a full disk; what was there stays.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # where a file is in the place of a folder
            beside.unlink(missing_ok=True)
        raise ManifestError(
            f"{path}: cannot be written ({error.strerror or error}); mend that and run again"
        ) from error


def printable(text: str) -> str:
    """Text with a file's name in it, as a table can hold it: bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class FolderLock:
    """Holds a folder from its making until `release`, the end of the process, or its kill.

    The file `.lock` in the folder stays: it is empty, and that it is there means nothing.

    Raises
    ------
    StoreError
        Another run holds the folder, or its file system cannot lock.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / _LOCK).open("ab")
        try:
            _lock(self._file.fileno())
        except (BlockingIOError, PermissionError):
            self._file.close()
            raise StoreError(
                f"{folder}: another run writes to it; wait for its end, or give another folder"
            ) from None
        except OSError as error:
            self._file.close()
            raise StoreError(f"{folder}: cannot be locked ({error}); give a folder on another file system") from error

    def release(self) -> None:
        self._file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(number: int) -> None:
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(number: int) -> None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
