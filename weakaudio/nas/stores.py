"""The files in which a search keeps what it has measured, and from which a killed run resumes.

`SearchLog` has a line of JSON for each evaluation: the first line holds the settings, and a last line that a kill cut
short is dropped when the log is opened again. `StageStore` has the errors of stages, and is shared by processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.files import FolderLock, atomic_write
from weakaudio.nas.search_space import ArchitectureConfig
from weakaudio.settings import differences

_LOG, _STAGES = "weakaudio search", "weakaudio stages"
_LOG_VERSION = 1


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and lock it within the block.

    Raises
    ------
    StoreError, WriteError
        As `FolderLock`.
    """
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()


# --- the log of a search


@dataclass(frozen=True)
class Evaluation:
    """An architecture and its score."""

    number: int
    """from 0, in the order of the search"""
    architecture: ArchitectureConfig
    parent: int | None
    """number of the evaluation it is a mutation of; None in the first population"""
    factor: str | None
    """that was mutated"""
    latency: float | None
    """seconds; None if it is unknown"""
    score: float | None
    """lower is better; None if there is an `error`"""
    seconds: float
    """duration of the evaluation"""
    seed: int
    """of the search"""
    error: str | None = None
    """why there is no score"""
    same_as: int | None = None
    """number of the evaluation of the same network, whose score is repeated here"""

    @property
    def known_score(self) -> float:
        """The score of an evaluation that has one."""
        assert self.score is not None
        return self.score

    def to_json(self) -> str:
        fields = {**vars(self), "genome": self.architecture.to_config()}  # its name in the file
        return json.dumps({name: value for name, value in fields.items() if name != "architecture"})

    @classmethod
    def from_json(cls, line: str) -> Evaluation:
        """
        Raises
        ------
        ValueError, TypeError, KeyError
            It is no line of `to_json`.
        """
        fields = json.loads(line)
        evaluation = cls(architecture=ArchitectureConfig.from_config(fields.pop("genome")), **fields)
        if (evaluation.score is None) != (evaluation.error is not None):
            raise ValueError("neither or both of score and error")
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(evaluation, name), kinds):
                raise TypeError(f"{name} {getattr(evaluation, name)!r}")
        return evaluation


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "number": (int,),
    "seconds": (float, int),
    **dict.fromkeys(("parent", "same_as"), (int, _NONE)),
    **dict.fromkeys(("latency", "score"), (float, int, _NONE)),
    **dict.fromkeys(("factor", "error"), (str, _NONE)),
}


class SearchLog:
    """The evaluations of a search, to which more are appended.

    Parameters
    ----------
    path
        Created if it does not exist.
    settings
        All that decides the evaluations, as JSON.

    Raises
    ------
    StoreError
        The file is no log, is damaged, or was made with other settings.
    WeakAudioError
        It cannot be written.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        settings = json.loads(json.dumps(settings))  # as they will be read again
        found, self.evaluations, end = _read_log(self.path)
        if found is not None:
            _check_settings(self.path, found, settings)
        try:
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(end)
        except OSError as error:
            raise self._unwritable(error) from error
        if found is None:
            self._append(json.dumps({"kind": _LOG, "version": _LOG_VERSION, "settings": settings}))

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
            f"{self.path}: cannot be written ({error.strerror or error}); evaluations so far are kept: mend that and "
            "run again"
        )


def read_log(path: str | Path) -> tuple[dict[str, Any], list[Evaluation]]:
    """Read the settings and evaluations of a search, which may still be running.

    Raises
    ------
    StoreError
        There is no such file, it is no log, or it is damaged.
    """
    settings, evaluations, _ = _read_log(Path(path))
    if settings is None:
        raise StoreError(f"{path}: no log of a search; `weakaudio search run` writes one")
    return settings, evaluations


def _read_log(path: Path) -> tuple[dict[str, Any] | None, list[Evaluation], int]:
    """Settings, evaluations and the end of the last complete line; None, [] and 0 where there is nothing yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, [], 0
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
    start = json.dumps({"kind": _LOG})[:-1].encode()
    if not (content.startswith(start) or start.startswith(content)):
        raise StoreError(f"{path}: no log of a search; give another folder")
    end = content.rfind(b"\n") + 1
    if not end:
        return None, [], 0
    first, *lines = content[:end].splitlines()
    try:
        header = json.loads(first)
        settings, version = dict(header["settings"]), header["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path}, line 1: damaged ({error!r})") from error
    if version != _LOG_VERSION:
        raise StoreError(f"{path}: written by another version of weakaudio; give another folder")
    evaluations = []
    for number, line in enumerate(lines):
        where, advice = f"{path}, line {number + 2}", "delete it and what follows"
        try:
            evaluation = Evaluation.from_json(line.decode())
        except (ValueError, TypeError, KeyError, AttributeError, WeakAudioError) as error:
            raise StoreError(f"{where}: damaged ({error}); {advice}") from error
        earlier = [n for n in (evaluation.parent, evaluation.same_as) if n is not None]
        if evaluation.number != number or any(not 0 <= n < number for n in earlier):
            raise StoreError(f"{where}: evaluations are out of order; {advice}")
        evaluations.append(evaluation)
    return settings, evaluations, end


# --- errors of stages


class StageStore:
    """Errors of stages by their description; None is the error of one whose training diverged.

    A JSON file to which several processes may add; what was added survives a kill.

    Parameters
    ----------
    path
        Created with the first stage that is added.
    settings
        All that decides the errors besides the stages, as JSON.

    Raises
    ------
    StoreError
        The file is of another kind, damaged, or was made with other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings))  # as they will be read again
        self._errors = self._read()

    def __contains__(self, key: str) -> bool:
        """Whether a stage is known; includes those that other processes have added since."""
        if key not in self._errors:
            self._errors = self._read()
        return key in self._errors

    def __getitem__(self, key: str) -> float | None:
        return self._errors[key]

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, key: str, error: float | None) -> None:
        """Write a stage's error; when this returns it is in the file.

        Raises
        ------
        StoreError
            The file has been damaged since.
        WeakAudioError
            It cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                self._errors = {key: error, **self._read()}  # the first process to add a stage decides
                content = {"kind": _STAGES, "settings": self._settings, "stages": self._errors}
                with atomic_write(self.path) as part:
                    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as caught:
            raise WeakAudioError(f"{self.path}: cannot be written ({caught.strerror or caught})") from caught

    def _read(self) -> dict[str, float | None]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise StoreError(f"{self.path}: damaged ({error}); delete it to start from scratch") from error
        if not isinstance(content, dict) or content.get("kind") != _STAGES:
            raise StoreError(f"{self.path}: holds no stages; give another file")
        found, stages = content.get("settings"), content.get("stages")
        if not isinstance(found, dict) or not isinstance(stages, dict) or not all(map(_is_error, stages.values())):
            raise StoreError(f"{self.path}: damaged (no settings, or an error that is no number); delete it")
        _check_settings(self.path, found, self._settings)
        return stages


def _is_error(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300)


# --- settings


def _check_settings(path: Path, found: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if found != now:
        different = "; ".join(differences(found, now))
        raise StoreError(f"{path}: was made with other settings ({different}); give another path, or those settings")
