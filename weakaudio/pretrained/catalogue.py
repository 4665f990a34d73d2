"""What `registry.toml` says of the models that are known by name. Needs no torch, so that listing them is quick."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from weakaudio.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REGISTRY = "registry.toml"
CACHE_VARIABLE = "WEAKAUDIO_CACHE"


@dataclass(frozen=True)
class Metric:
    """A figure of a model, and who says so."""

    data: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Entry:
    """A model that is known by name: shipped (it has `file`), published (it has `urls`), or built in code."""

    name: str
    description: str
    licence: str
    """of the weights"""
    sample_rate: int
    """Hz"""
    labels: str
    """name of the class list; "audioset-527": AudioSet's classes in AudioSet's order"""
    classes: int
    parameters: int | None = None
    file: str | None = None
    """name of the file that is shipped"""
    urls: tuple[str, ...] = ()
    """where the file is published, and mirrors in the order in which they are tried"""
    size: int | None = None
    """of the file, in bytes"""
    sha256: str | None = None
    """of the file, in hexadecimal; None where this project could not verify it"""
    convert: str | None = None
    """whose layout the file has, a kind of `weakaudio.pretrained.converters`; None: this project's"""
    metrics: tuple[Metric, ...] = ()

    @property
    def path(self) -> Path | None:
        """Where its file is, or will be once it is downloaded; None if it is built in code."""
        if self.file is not None:
            return shipped_folder() / self.file
        if self.urls:
            return cache_folder() / unquote(urlsplit(self.urls[0]).path.rpartition("/")[2])
        return None

    @property
    def at_hand(self) -> bool:
        """Whether it opens without a download."""
        return self.path is None or self.path.is_file()

    def value(self, data: str, metric: str) -> float | None:
        """A figure of this model, None if nobody measured it."""
        found = [entry.value for entry in self.metrics if (entry.data, entry.metric) == (data, metric)]
        return found[0] if found else None


def catalogue() -> dict[str, Entry]:
    """All models that are known by name, in the order of the registry.

    Raises
    ------
    CheckpointError
        The registry is not there or cannot be read: the installation is damaged.
    """
    path = shipped_folder() / REGISTRY
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(name, table) for name, table in tables.items()}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the list of models cannot be read ({error}); install weakaudio anew"
        ) from error


def shipped_folder() -> Path:
    """Where the registry and the weights of this project are: inside the installed package, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_shipped"
    return inside if inside.is_dir() else package.parent / "pretrained"


def cache_folder() -> Path:
    """Where downloads are kept: what WEAKAUDIO_CACHE names, else the user's folder for caches."""
    import pooch  # takes longer than all else that `weakaudio models` does

    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("weakaudio"))


def _entry(name: str, table: dict[str, Any]) -> Entry:
    metrics = tuple(Metric(**metric) for metric in table.get("metrics", ()))
    return Entry(name, **{**table, "urls": tuple(table.get("urls", ())), "metrics": metrics})
