"""What a run has found out so far, on disk: a killed run goes on where it was, and a later one does what is new."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load, save

from weakaudio.batch.recordings import Recording
from weakaudio.errors import StoreError, WeakAudioError

Arrays = dict[str, NDArray[Any]]

_VERSION = 1
_SCHEMA = """
CREATE TABLE settings (value TEXT NOT NULL);
CREATE TABLE recordings (
    name TEXT PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL,
    finished INTEGER NOT NULL, seconds REAL NOT NULL, reason TEXT
);
CREATE TABLE parts (
    name TEXT NOT NULL, n INTEGER NOT NULL, n_rows INTEGER NOT NULL, arrays BLOB NOT NULL, PRIMARY KEY (name, n)
);
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a recording, or of a stretch of it."""

    recording: Recording
    parts: list[Arrays]
    """of the parts from `first_part` on"""
    first_part: int = 0
    seconds: float = 0.0
    """length of the recording, as far as it is known"""
    finished: bool = True
    reason: str | None = None
    """why it was left out, if it was"""


class RunCheckpoint:
    """Results of recordings, in SQLite; what `add` was given stays, whenever the run is killed.

    Parameters
    ----------
    path
        Made if it is not there.
    settings
        All that decides the results, as JSON.
    overwrite
        Begin anew if the journal there has other settings.

    Raises
    ------
    StoreError
        The file is no journal, has other settings, or belongs to a run that is going on.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        wanted = json.dumps({"version": _VERSION, **settings}, sort_keys=True)
        with self._clear_errors():
            self._open()
            found = self._settings()
            if found is not None and found != wanted and overwrite:
                self.close()
                self.path.unlink()
                self._open()
                found = None
            if found is None:
                self._database.executescript("BEGIN IMMEDIATE;" + _SCHEMA)
                self._database.execute("INSERT INTO settings VALUES (?)", (wanted,))
                self._database.execute("COMMIT")
        if found not in (None, wanted):
            different = ", ".join(_different(json.loads(str(found)), json.loads(wanted)))
            self.close()
            raise StoreError(
                f"{self.path}: of a run with other settings ({different}); give another output, or --overwrite to "
                "begin anew"
            )

    def forget(self, recordings: list[Recording]) -> None:
        """Drop all that is not about these files as they are now."""
        with self._clear_errors(), self._transaction():
            current = {recording.name: recording for recording in recordings}
            for name, size, changed in self._database.execute(
                "SELECT name, size, changed FROM recordings"
            ).fetchall():
                known = current.get(name)
                if known is None or (known.size, known.changed) != (size, changed):
                    self._drop(name)

    def finished(self) -> set[str]:
        """Names of the recordings that are done; not of those that failed, which may go better another time."""
        with self._clear_errors():
            rows = self._database.execute("SELECT name FROM recordings WHERE finished AND reason IS NULL").fetchall()
        return {name for (name,) in rows}

    def n_parts(self, name: str) -> int:
        """How many parts of a recording there are."""
        with self._clear_errors():
            row = self._database.execute("SELECT COUNT(*) FROM parts WHERE name = ?", (name,)).fetchone()
        return int(row[0])

    def n_rows(self, name: str) -> int:
        """How long the arrays of a recording's parts are, all together."""
        with self._clear_errors():
            row = self._database.execute("SELECT SUM(n_rows) FROM parts WHERE name = ?", (name,)).fetchone()
        return int(row[0] or 0)

    def add(self, outcomes: list[Outcome]) -> None:
        """Keep outcomes: all of them or, when the run is killed meanwhile, none."""
        with self._clear_errors(), self._transaction():
            for outcome in outcomes:
                own = outcome.recording
                self._database.execute(
                    "INSERT OR REPLACE INTO recordings VALUES (?, ?, ?, ?, ?, ?)",
                    (own.name, own.size, own.changed, outcome.finished, outcome.seconds, outcome.reason),
                )
                rows = (
                    (own.name, outcome.first_part + n, len(next(iter(part.values()))), save(part))
                    for n, part in enumerate(outcome.parts)
                )
                self._database.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", rows)

    def outcomes(self, recordings: list[Recording]) -> Iterator[tuple[Recording, float, str | None]]:
        """Recording, its length in seconds and, if it failed, the reason, in the order given."""
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

    def _settings(self) -> str | None:
        if not self._database.execute("SELECT name FROM sqlite_master").fetchall():
            return None
        (found,) = self._database.execute("SELECT value FROM settings").fetchone()
        return str(found)

    def _drop(self, name: str) -> None:
        for table in ("recordings", "parts"):
            self._database.execute(f"DELETE FROM {table} WHERE name = ?", (name,))

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
                f"{self.path}: cannot be written ({error}); what is done is kept, run again when that is mended"
            ) from error
        except (sqlite3.DatabaseError, TypeError) as error:
            raise StoreError(f"{self.path}: damaged, or no journal ({error}); delete it to begin anew") from error


def _different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
