"""Results of a run over many recordings, kept on disk as they are found, so that a killed run resumes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from weakaudio.batch.recordings import Recording
from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.networks.runtime import DTYPES
from weakaudio.settings import differences

Arrays = dict[str, NDArray[Any]]

_VERSION = 2
_SCHEMA = """
CREATE TABLE settings (value TEXT NOT NULL);
CREATE TABLE source (value TEXT NOT NULL);
CREATE TABLE recordings (
    name TEXT PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    finished INTEGER NOT NULL, seconds REAL NOT NULL, reason TEXT
);
CREATE TABLE parts (
    name TEXT NOT NULL, n INTEGER NOT NULL, n_rows INTEGER NOT NULL, arrays BLOB NOT NULL, PRIMARY KEY (name, n)
);
"""


@dataclass(frozen=True)
class Outcome:
    """Result of a recording, or of some of its parts."""

    recording: Recording
    parts: list[Arrays]
    """from `first_part` on"""
    first_part: int = 0
    seconds: float = 0.0
    """length of the recording, as far as it is known"""
    finished: bool = True
    reason: str | None = None
    """why it failed, if it did"""


class RunCheckpoint:
    """Results of recordings in an SQLite file; what `add` was given survives a kill at any moment.

    Parameters
    ----------
    path
        Is created if it does not exist.
    settings
        All settings that decide the results, as JSON. Results kept above a lower `score_floor` serve a higher one.
    source
        The folder or list that the recordings are from.
    overwrite
        Start again if the results there were made with other settings, or from another source.

    Raises
    ------
    StoreError
        The file is no journal of a run, was made with other settings, or another run has it open.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], source: str = "", overwrite: bool = False) -> None:
        self.path, self._source, self._overwrite = Path(path), source, overwrite
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._clear_errors():
            self._open()
            found = self._read_settings()
            different = "" if found is None else _differences(found, settings)
            if different and not overwrite:
                self.close()
                raise StoreError(
                    f"{self.path}: was made {different}; give another output, or --overwrite to start again"
                )
            if different:
                self._start_again()
            if found is None or different:
                self._create(settings)
            self.settings = settings if found is None or different else found
            """those that the results were made with"""

    def match(self, recordings: Sequence[Recording]) -> None:
        """Keep the results of files that are still as they were, and drop all others.

        Files are known by name, size and time of the last change. After a move or copy of their folder they are known
        by a fingerprint of their content instead: a copy may have other times, and recorders on one schedule write
        files of equal name, size and time.

        Raises
        ------
        StoreError
            The source is another one than that of the results, and has less than half of their files.
        """
        with self._clear_errors():
            (before,) = self._database.execute("SELECT value FROM source").fetchone()
            moved = before != self._source
            current = {recording.name: recording for recording in recordings}
            rows = self._database.execute("SELECT name, size, changed, fingerprint FROM recordings").fetchall()
            kept = set()
            for name, size, changed, fingerprint in rows:
                own = current.get(name)
                if (
                    own
                    and own.size == size
                    and (own.fingerprint() == fingerprint if moved else own.changed == changed)
                ):
                    kept.add(name)
            if moved and 2 * len(kept) < len(rows) and not self._overwrite:
                raise StoreError(
                    f"{self.path}: was made from {before}, of whose {len(rows)} files {len(kept)} are here; give "
                    "another output, or --overwrite to start again"
                )
            with self._transaction():
                self._database.execute("UPDATE source SET value = ?", (self._source,))
                for name in kept if moved else ():
                    self._database.execute(
                        "UPDATE recordings SET changed = ? WHERE name = ?", (current[name].changed, name)
                    )
                for name in {name for name, *_ in rows} - kept:
                    for table in ("recordings", "parts"):
                        self._database.execute(f"DELETE FROM {table} WHERE name = ?", (name,))

    def finished(self) -> set[str]:
        """Names of the recordings that are done; not of those that failed, which may succeed another time."""
        with self._clear_errors():
            rows = self._database.execute("SELECT name FROM recordings WHERE finished AND reason IS NULL").fetchall()
        return {name for (name,) in rows}

    def n_parts(self, name: str) -> int:
        """Number of parts kept of a recording."""
        with self._clear_errors():
            row = self._database.execute("SELECT COUNT(*) FROM parts WHERE name = ?", (name,)).fetchone()
        return int(row[0])

    def n_rows(self, name: str) -> int:
        """Length of the arrays of a recording, over all of its parts."""
        with self._clear_errors():
            row = self._database.execute("SELECT SUM(n_rows) FROM parts WHERE name = ?", (name,)).fetchone()
        return int(row[0] or 0)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes: all of them or, if the run is killed meanwhile, none."""
        with self._clear_errors(), self._transaction():
            for outcome in outcomes:
                own = outcome.recording
                row = (own.name, own.size, own.changed, own.fingerprint())
                self._database.execute(
                    "INSERT OR REPLACE INTO recordings VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row, outcome.finished, outcome.seconds, outcome.reason),
                )
                rows = (
                    (own.name, outcome.first_part + n, len(next(iter(part.values()))), _content(part))
                    for n, part in enumerate(outcome.parts)
                )
                self._database.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", rows)

    def outcomes(self, recordings: Sequence[Recording]) -> Iterator[tuple[Recording, float, str | None]]:
        """Each recording with its length in seconds and, if it failed, the reason, in the order given."""
        with self._clear_errors():
            for recording in recordings:
                row = self._database.execute(
                    "SELECT seconds, reason FROM recordings WHERE name = ?", (recording.name,)
                ).fetchone()
                yield recording, *row

    def parts(self, name: str) -> Iterator[Arrays]:
        """The parts of a recording, in their order."""
        with self._clear_errors():
            for (arrays,) in self._database.execute("SELECT arrays FROM parts WHERE name = ? ORDER BY n", (name,)):
                yield load(arrays)

    def close(self) -> None:
        self._database.close()

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path, timeout=0.1, isolation_level=None)
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")  # until it is closed
        self._database.execute("BEGIN EXCLUSIVE").execute("COMMIT")

    def _start_again(self) -> None:
        self.close()
        self.path.unlink()
        self._open()

    def _create(self, settings: dict[str, Any]) -> None:
        self._database.executescript("BEGIN IMMEDIATE;" + _SCHEMA)
        content = json.dumps({"version": _VERSION, **settings}, sort_keys=True)
        self._database.execute("INSERT INTO settings VALUES (?)", (content,))
        self._database.execute("INSERT INTO source VALUES (?)", (self._source,))
        self._database.execute("COMMIT")

    def _read_settings(self) -> dict[str, Any] | None:
        if not self._database.execute("SELECT name FROM sqlite_master").fetchall():
            return None
        (found,) = self._database.execute("SELECT value FROM settings").fetchone()
        return dict(json.loads(found))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoreError(f"{self.path}: another run writes to it; wait for its end") from error
            raise WeakAudioError(
                f"{self.path}: cannot be written ({error}); results so far are kept, run again to resume"
            ) from error
        except (sqlite3.DatabaseError, SafetensorError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.path}: damaged, or no journal of a run ({error}); delete it to start again"
            ) from error


def kept_dtype(path: Path) -> str | None:
    """The dtype that the results in a run checkpoint were made with, if there is one at this path."""
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=0.1)) as database:
            (content,) = database.execute("SELECT value FROM settings").fetchone()
            dtype = json.loads(content).get("dtype")
    except (sqlite3.Error, TypeError, ValueError):  # what is wrong with it, `RunCheckpoint` says
        return None
    return dtype if dtype in DTYPES else None


def _content(arrays: Arrays) -> bytes:
    """Arrays as safetensors, which stores memory as it lies: in C order, therefore."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """How the settings of a journal differ from those wanted, to be read after "was made"; empty if they serve."""
    if found.pop("version", None) != _VERSION:
        return "by another release of weakaudio"
    floor = found.get("score_floor")
    if floor is not None and floor <= wanted.get("score_floor", floor):
        wanted = {**wanted, "score_floor": floor}
    different = "; ".join(differences(found, wanted))
    return different and f"with other settings ({different})"
