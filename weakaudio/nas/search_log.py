"""The log of a search: a line of JSON for each evaluation, which stays whenever the search is killed.

The first line holds the settings; a line that a kill has torn is dropped when the log is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.nas.search_space import ArchitectureConfig

_KIND = "weakaudio search"
_VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """A genome and what it is worth."""

    number: int
    """from 0, in the order of the search"""
    genome: ArchitectureConfig
    parent: int | None
    """number of the evaluation it is a mutation of; None of the first population"""
    factor: str | None
    """that was mutated"""
    latency: float | None
    """seconds; None if it cannot be told"""
    score: float | None
    """lower is better; None if there is an `error`"""
    seconds: float
    """that the evaluation took"""
    seed: int
    """of the search"""
    error: str | None = None
    """why the genome was left out"""
    same_as: int | None = None
    """number of the evaluation of the same network, whose score this is"""

    def to_json(self) -> str:
        return json.dumps({**vars(self), "genome": self.genome.to_config()})

    @classmethod
    def from_json(cls, line: str) -> Evaluation:
        """
        Raises
        ------
        ValueError, TypeError, KeyError
            It is no line of `to_json`.
        """
        fields = json.loads(line)
        evaluation = cls(**{**fields, "genome": ArchitectureConfig.from_config(fields["genome"])})
        if (evaluation.score is None) != (evaluation.error is not None):
            raise ValueError("neither or both of score and error")
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(evaluation, name), kinds):
                raise TypeError(f"{name} {getattr(evaluation, name)!r}")
        return evaluation


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "number": (int,),
    "parent": (int, _NONE),
    "factor": (str, _NONE),
    "latency": (float, int, _NONE),
    "score": (float, int, _NONE),
    "seconds": (float, int),
    "error": (str, _NONE),
    "same_as": (int, _NONE),
}


class SearchLog:
    """The evaluations of a search, and where the next ones go.

    Parameters
    ----------
    path
        Made if it is not there.
    settings
        All that decides the evaluations, as JSON.

    Raises
    ------
    StoreError
        The file is no log, is damaged, or belongs to a search of other settings.
    WeakAudioError
        It cannot be written.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        wanted = json.loads(json.dumps(settings))  # as they are when they are read again
        found, self.evaluations, end = _read(self.path)
        if found is not None and found != wanted:
            different = "; ".join(_differences(found, wanted))
            raise StoreError(
                f"{self.path}: a search with other settings ({different}); give another folder, or those settings"
            )
        try:
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(end)
        except OSError as error:
            raise self._unwritable(error) from error
        if found is None:
            self._append(json.dumps({"kind": _KIND, "version": _VERSION, "settings": wanted}))

    def add(self, evaluation: Evaluation) -> None:
        """Write an evaluation; when this returns it is on the disk.

        Raises
        ------
        WeakAudioError
            It cannot be written.
        """
        self._append(evaluation.to_json())
        self.evaluations.append(evaluation)

    def __enter__(self) -> SearchLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, line: str) -> None:
        try:
            rest = memoryview(line.encode() + b"\n")
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> WeakAudioError:
        return WeakAudioError(
            f"{self.path}: cannot be written ({error.strerror or error}); what is done is kept, run again when that "
            "is mended"
        )


def read_log(path: str | Path) -> tuple[dict[str, Any], list[Evaluation]]:
    """Settings and evaluations of a search, which may still be going on.

    Raises
    ------
    StoreError
        There is no such file, it is no log, or it is damaged.
    """
    settings, evaluations, _ = _read(Path(path))
    if settings is None:
        raise StoreError(f"{path}: no log of a search; `weakaudio search run` writes one")
    return settings, evaluations


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Evaluation], int]:
    """Settings, evaluations and where the last whole line ends; None, [] and 0 where there is nothing yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, [], 0
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
    start = json.dumps({"kind": _KIND})[:-1].encode()
    if not (content.startswith(start) or start.startswith(content)):
        raise StoreError(f"{path}: no log of a search; give another folder")
    end = content.rfind(b"\n") + 1
    if not end:
        return None, [], 0
    first, *lines = content[:end].splitlines()
    try:
        header = json.loads(first)
        settings = dict(header["settings"])
        version = header["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path}, line 1: damaged ({error!r})") from error
    if version != _VERSION:
        raise StoreError(f"{path}: written by another version of weakaudio; give another folder")
    evaluations = []
    for number, line in enumerate(lines):
        try:
            evaluation = Evaluation.from_json(line.decode())
        except (ValueError, TypeError, KeyError, AttributeError, WeakAudioError) as error:
            raise StoreError(f"{path}, line {number + 2}: damaged ({error}); delete it and what follows") from error
        earlier = [n for n in (evaluation.parent, evaluation.same_as) if n is not None]
        if evaluation.number != number or any(not 0 <= n < number for n in earlier):
            raise StoreError(f"{path}, line {number + 2}: evaluations are out of order; delete it and what follows")
        evaluations.append(evaluation)
    return settings, evaluations, end


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> list[str]:
    """What differs, by name: `seed 0, now 1`."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        old, new = one.get(name), other.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{above}{name}.")
        elif old != new:
            found.append(f"{above}{name} {json.dumps(old)}, now {json.dumps(new)}")
    return found
