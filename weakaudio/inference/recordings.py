"""Which recordings a run is about: those below a folder, one, or those of a list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.data.manifest import write_table
from weakaudio.errors import AudioError

FAILURES = "failures.csv"


@dataclass(frozen=True)
class Recording:
    """A file, as it was when it was found."""

    name: str
    """as it stands in tables: relative to the folder given, with / between folders"""
    path: Path
    size: int
    """bytes; -1: it is gone"""
    changed: int
    """time of its last change, ns"""

    @classmethod
    def at(cls, path: Path, name: str) -> Recording:
        try:
            stat = path.stat()
        except OSError:
            return cls(printable(name), path, -1, -1)
        return cls(printable(name), path, stat.st_size, stat.st_mtime_ns)

    def is_as_found(self) -> bool:
        """Whether the file is still what it was."""
        return Recording.at(self.path, self.name) == self


def find_recordings(
    source: str | Path, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Recording], list[tuple[str, str]]]:
    """All audio below a folder, sorted by path, hidden files left out; or, if `source` is a file, that one.

    Folders that are symbolic links are followed, each folder once.

    Parameters
    ----------
    source
        Folder or file.
    include, exclude
        Patterns of paths below the folder, as `site*/2024-*.wav`, where * also matches /: a recording must match
        one of the former, if there are any, and none of the latter.

    Returns
    -------
    recordings, failures
        What was found, and path and reason of each folder that could not be looked into.

    Raises
    ------
    AudioError
        No such file or folder, or no audio.
    """
    source = Path(source)
    if not source.exists():
        raise AudioError(f"{source}: no such file or folder")
    if source.is_file():
        return [Recording.at(source, source.name)], []
    failures: list[tuple[str, str]] = []

    def cannot(error: OSError) -> None:
        where = printable(os.path.relpath(error.filename, source))
        failures.append((where, f"{where}: cannot be looked into ({error.strerror})"))

    names = [path.relative_to(source).as_posix() for path in find_audio(source, cannot)]
    kept = [
        name
        for name in names
        if (not include or any(fnmatch(name, pattern) for pattern in include))
        and not any(fnmatch(name, pattern) for pattern in exclude)
    ]
    if not kept:
        raise AudioError(f"{source}: none of its {len(names)} files is wanted, by --include and --exclude")
    return [Recording.at(source / name, name) for name in kept], failures


def listed_recordings(lines: Iterable[str]) -> list[Recording]:
    """The recordings of a list, a path a line, in its order; each once.

    Raises
    ------
    AudioError
        The list is empty.
    """
    paths = list(dict.fromkeys(line.rstrip("\r\n") for line in lines if line.strip()))
    if not paths:
        raise AudioError("the list of recordings is empty; a path a line is expected")
    return [Recording.at(Path(path), path) for path in paths]


def printable(text: str) -> str:
    """Text with a file's name in it, as a table can hold it: bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_failures(failures: list[tuple[str, str]], folder: Path) -> None:
    """Write path and reason of recordings that were left out to failures.csv, or remove an earlier run's list."""
    if failures or _is_ours(folder / FAILURES):
        (folder / FAILURES).unlink(missing_ok=True)
    if failures:
        write_table(pd.DataFrame(failures, columns=["path", "reason"]), folder / FAILURES)


def _is_ours(path: Path) -> bool:
    """Whether an earlier run wrote this list; another file of the name is not ours to delete."""
    return path.is_file() and path.read_bytes().startswith(b"path,reason\n")
