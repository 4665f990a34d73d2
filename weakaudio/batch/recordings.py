"""Which recordings a run is about: those below a folder, one, or those of a list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.files import printable, write_table

FAILURES = "failures.csv"
_COLUMNS = ["path", "reason", "output"]
_HEADER = b"path,reason,output\n"


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
        except (OSError, ValueError):  # a name with a 0 in it is a ValueError
            return cls(printable(name), path, -1, -1)
        return cls(printable(name), path, stat.st_size, stat.st_mtime_ns)

    def is_as_found(self) -> bool:
        """Whether the file is still what it was."""
        return Recording.at(self.path, self.name) == self


def find_recordings(
    source: str | Path | Sequence[Recording], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Recording], list[tuple[str, str]]]:
    """All audio below a folder, sorted by path, hidden files left out; a single file; or those of a list.

    Folders that are symbolic links are followed, each folder once.

    Parameters
    ----------
    source
        Folder, file, or recordings (`listed_recordings`).
    include, exclude
        Patterns of names, for a folder of paths below it, as `site*/2024-*.wav`, where * also matches /: a recording
        must match one of the former, if there are any, and none of the latter.

    Returns
    -------
    recordings, failures
        What was found, and path and reason of each folder that could not be looked into.

    Raises
    ------
    AudioError
        No such file or folder, or no audio.
    """
    failures: list[tuple[str, str]] = []
    found = _look(Path(source), failures) if isinstance(source, str | Path) else list(source)
    kept = [
        one
        for one in found
        if (not include or any(fnmatch(one.name, pattern) for pattern in include))
        and not any(fnmatch(one.name, pattern) for pattern in exclude)
    ]
    if not kept:
        where = source if isinstance(source, str | Path) else "the list"
        raise AudioError(f"{where}: none of its {len(found)} files is wanted, by --include and --exclude")
    return _distinct(kept), failures


def _look(source: Path, failures: list[tuple[str, str]]) -> list[Recording]:
    if not source.exists():
        raise AudioError(f"{source}: no such file or folder")
    if source.is_file():
        return [Recording.at(source, source.name)]

    def cannot(error: OSError) -> None:
        where = printable(os.path.relpath(error.filename, source))
        failures.append((where, f"{where}: cannot be looked into ({error.strerror})"))

    return [Recording.at(path, path.relative_to(source).as_posix()) for path in find_audio(source, cannot)]


def listed_recordings(lines: Iterable[str]) -> list[Recording]:
    """The recordings of a list, a path a line, in its order; each once.

    Raises
    ------
    AudioError
        The list is empty.
    """
    paths = list(dict.fromkeys(Path(line.rstrip("\r\n")) for line in lines if line.strip()))
    if not paths:
        raise AudioError("the list of recordings is empty; a path a line is expected")
    return [Recording.at(path, path.as_posix()) for path in paths]


def _distinct(recordings: list[Recording]) -> list[Recording]:
    """Refuse names that are one when they are printed."""
    seen: set[str] = set()
    for recording in recordings:
        if recording.name in seen:
            raise AudioError(f"two files are called {recording.name!r} where bytes are escaped; rename one of them")
        seen.add(recording.name)
    return recordings


def check_failures(out: Path) -> None:
    """Find out whether failures can be listed beside an output.

    Raises
    ------
    WeakAudioError
        A file that is not such a list has its name.
    """
    path = out.parent / FAILURES
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(_HEADER)):
        raise WeakAudioError(f"{path}: is there and no list of ours; move it, or write the output to another folder")


def write_failures(failures: list[tuple[str, str]], out: Path) -> None:
    """List path and reason of recordings that were left out of an output, in failures.csv beside it.

    The list has the failures of all outputs in its folder; those of an earlier run with this output go, and so does
    a list that has become empty.

    Raises
    ------
    WeakAudioError
        As `check_failures`.
    """
    check_failures(out)
    path = out.parent / FAILURES
    table = pd.DataFrame([(*failure, out.name) for failure in failures], columns=_COLUMNS)
    if path.is_file():
        listed = pd.read_csv(path, keep_default_na=False, dtype=str)
        table = pd.concat([listed[listed["output"] != out.name], table]).sort_values("output", kind="stable")
    if len(table):
        write_table(table, path)
    else:
        path.unlink(missing_ok=True)
