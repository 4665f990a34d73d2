"""Find the recordings of a run: those below a folder, a single one, or those of a list; and list its failures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.files import printable, write_table

FAILURES = "failures.csv"
_COLUMNS = ["path", "reason", "output"]
_HEADER = b"path,reason,output\n"
_FINGERPRINT_BYTES = 2**16


@dataclass(frozen=True)
class Recording:
    """A file as it was when it was found."""

    name: str
    """in tables: the path relative to the folder given, with / between folders"""
    path: Path
    size: int
    """bytes; -1: it does not exist"""
    changed: int
    """time of its last change, ns"""

    @classmethod
    def at(cls, path: Path, name: str) -> Recording:
        """The file at a path, under a name that is escaped where it is not UTF-8."""
        try:
            stat = path.stat()
        except (OSError, ValueError):  # a name with a 0 in it is a ValueError
            return cls(printable(name), path, -1, -1)
        return cls(printable(name), path, stat.st_size, stat.st_mtime_ns)

    def is_as_found(self) -> bool:
        """Whether the file is still what it was."""
        return Recording.at(self.path, self.name) == self

    def fingerprint(self) -> str:
        """Digest of the file's first and last 64 KiB: cheap, and different for different recordings."""
        digest = blake2b(digest_size=16)
        with suppress(OSError, ValueError), self.path.open("rb") as file:
            digest.update(file.read(_FINGERPRINT_BYTES))
            file.seek(max(self.size - _FINGERPRINT_BYTES, 0))
            digest.update(file.read(_FINGERPRINT_BYTES))
        return digest.hexdigest()


def find_recordings(
    source: str | Path | Sequence[Recording], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Recording], list[tuple[str, str]]]:
    """Find all audio below a folder, sorted by path, without hidden files; or a single file; or take a list.

    Symbolic links to folders are followed, each folder once.

    Parameters
    ----------
    source
        Folder, file, or recordings (`listed_recordings`).
    include, exclude
        Patterns for names (paths below the folder), as `site*/2024-*.wav`, where * also matches /: a recording must
        match one of `include`, if there are any, and none of `exclude`.

    Returns
    -------
    recordings, failures
        The recordings, and path and reason of each folder that could not be read.

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
        raise AudioError(f"{where}: --include and --exclude leave none of its {len(found)} files")
    return _distinct(kept), failures


def _look(source: Path, failures: list[tuple[str, str]]) -> list[Recording]:
    if not source.exists():
        raise AudioError(f"{source}: no such file or folder")
    if source.is_file():
        return [Recording.at(source, source.name)]

    def cannot(error: OSError) -> None:
        where = printable(os.path.relpath(error.filename, source))
        failures.append((where, f"{where}: cannot be read ({error.strerror})"))

    return [Recording.at(path, path.relative_to(source).as_posix()) for path in find_audio(source, cannot)]


def listed_recordings(lines: Iterable[str]) -> list[Recording]:
    """Recordings of a list, one path a line, in its order, without repeats.

    Raises
    ------
    AudioError
        The list is empty.
    """
    paths = list(dict.fromkeys(Path(line.rstrip("\r\n")) for line in lines if line.strip()))
    if not paths:
        raise AudioError("the list of recordings is empty; expected one path a line")
    return [Recording.at(path, path.as_posix()) for path in paths]


def _distinct(recordings: list[Recording]) -> list[Recording]:
    """Refuse different files whose names are equal once escaped."""
    seen: set[str] = set()
    for recording in recordings:
        if recording.name in seen:
            raise AudioError(
                f"two files are called {recording.name!r} once their names are escaped; rename one of them"
            )
        seen.add(recording.name)
    return recordings


def check_failures(out: Path) -> None:
    """Check that failures can be listed beside an output.

    Raises
    ------
    WeakAudioError
        A file of that name exists and is no list of failures.
    """
    path = out.parent / FAILURES
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(_HEADER)):
        raise WeakAudioError(f"{path}: exists and is no list of failures; move it, or choose another folder")


def write_failures(failures: list[tuple[str, str]], out: Path) -> None:
    """List path and reason of the recordings that are missing from an output, in failures.csv beside it.

    The list has the failures of all outputs in its folder; those of an earlier run with this output are replaced, and
    an empty list is removed.

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
