"""What is known of the stages of networks: a JSON file that several processes may share and add to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.files import atomic_write

_KIND = "weakaudio stages"


class StageStore:
    """The errors of stages by what the stages are; None is the error of one whose training diverged.

    What was added stays whenever a process is killed.

    Parameters
    ----------
    path
        Made with the first stage that is added.
    settings
        All that decides the errors beside the stages, as JSON.

    Raises
    ------
    StoreError
        The file is none of this kind, damaged, or of other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings))  # as they are when they are read again
        self._errors = self._read()

    def __contains__(self, key: str) -> bool:
        """Whether a stage is known, also if another process has added it meanwhile."""
        if key not in self._errors:
            self._errors = self._read()
        return key in self._errors

    def __getitem__(self, key: str) -> float | None:
        return self._errors[key]

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, key: str, error: float | None) -> None:
        """Keep a stage's error; when this returns it is in the file.

        Raises
        ------
        StoreError
            The file has been damaged meanwhile.
        WeakAudioError
            It cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                self._errors = {key: error, **self._read()}  # the first to know it
                content = {"kind": _KIND, "settings": self._settings, "stages": self._errors}
                with atomic_write(self.path) as beside:
                    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
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
            raise StoreError(f"{self.path}: damaged ({error}); delete it to begin anew") from error
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise StoreError(f"{self.path}: holds no stages; give another file")
        found, stages = content.get("settings"), content.get("stages")
        if not isinstance(found, dict) or not isinstance(stages, dict) or not all(map(_is_error, stages.values())):
            raise StoreError(f"{self.path}: damaged (no settings, or an error that is no number); delete it")
        if found != self._settings:
            names = sorted(name for name in found.keys() | self._settings.keys() if self._differs(found, name))
            different = ", ".join(f"{name} {found.get(name)}, now {self._settings.get(name)}" for name in names)
            raise StoreError(f"{self.path}: of other settings ({different}); give another file, or those settings")
        return stages

    def _differs(self, found: dict[str, Any], name: str) -> bool:
        return bool(found.get(name) != self._settings.get(name))


def _is_error(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300)
