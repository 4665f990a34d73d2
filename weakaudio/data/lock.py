"""One run writes to a folder at a time. The operating system keeps the lock, so a killed run leaves none behind."""

from __future__ import annotations

import sys
from pathlib import Path

from weakaudio.errors import StoreError

_LOCK = ".lock"


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
