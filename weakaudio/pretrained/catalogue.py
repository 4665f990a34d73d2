"""The models of `registry.toml`, and the table that shows them. Imports no torch, so that listing models is quick."""

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
REINSTALL = "reinstall weakaudio from its wheel or a complete checkout"
COLUMNS = ("name", "params", "kHz", "classes", "mAP", "ESC-50", "licence")
NOTE = (
    "mAP: on AudioSet's evaluation set, as stated by the publisher. ESC-50: accuracy that this project measured "
    "(frozen embedding, linear SVM, five folds)."
)


@dataclass(frozen=True)
class Metric:
    """A published or measured figure of a model."""

    data: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Entry:
    """One model of the registry: shipped (it has `file`), published (it has `urls`), or built in code (neither)."""

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
    """name of the shipped file"""
    urls: tuple[str, ...] = ()
    """the published file and its mirrors, in the order in which they are tried"""
    size: int | None = None
    """of the file, in bytes"""
    sha256: str | None = None
    """of the file, in hexadecimal; None where this project could not verify it"""
    convert: str | None = None
    """the converter of the file's layout, a key of `converters.CONVERTERS`; None: this project's format"""
    metrics: tuple[Metric, ...] = ()

    @property
    def path(self) -> Path | None:
        """The file's path, also before it is downloaded; None for a model that is built in code."""
        if self.file is not None:
            return shipped_folder() / self.file
        if self.urls:
            return cache_folder() / unquote(urlsplit(self.urls[0]).path.rpartition("/")[2])
        return None

    @property
    def is_available(self) -> bool:
        """Whether the model opens without a download."""
        return self.path is None or self.path.is_file()

    @property
    def origin(self) -> str:
        """How any machine gets the model: "built in", "shipped" or "download"."""
        if not self.urls:
            return "built in" if self.file is None else "shipped"
        return "download" if self.size is None else f"download, {self.size / 1e6:.1f} MB"

    @property
    def location(self) -> str:
        """The model's state on this machine: `origin`, "missing", "downloaded" or "to download"."""
        if not self.urls:
            return self.origin if self.is_available else "missing"
        return "downloaded" if self.is_available else f"to {self.origin}"

    @property
    def cells(self) -> tuple[str, ...]:
        """One table cell for each of `COLUMNS`."""
        mean_ap, accuracy = self.value("AudioSet", "mAP"), self.value("ESC-50", "accuracy")
        return (
            self.name,
            "" if self.parameters is None else f"{self.parameters / 1e6:.2f} M",
            f"{self.sample_rate / 1000:g}",
            str(self.classes),
            "" if mean_ap is None else f"{mean_ap:.3f}",
            "" if accuracy is None else f"{accuracy:.1%}",
            self.licence,
        )

    def value(self, data: str, metric: str) -> float | None:
        """The value of one of the model's `metrics`, None if the registry has none."""
        return next((m.value for m in self.metrics if (m.data, m.metric) == (data, metric)), None)


def list_models() -> list[str]:
    """Names that `load_model` takes, in the order of the registry: shipped, published, then untrained models.

    Raises
    ------
    CheckpointError
        The registry is missing or damaged.
    """
    return list(catalogue())


def catalogue() -> dict[str, Entry]:
    """All models of the registry by name, in its order.

    Raises
    ------
    CheckpointError
        The registry is missing or damaged.
    """
    path = shipped_folder() / REGISTRY
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(name, table) for name, table in tables.items()}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: the list of models cannot be read ({error}); {REINSTALL}") from error


def shipped_folder() -> Path:
    """Folder of the registry and the shipped weights: inside the installed package, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_shipped"
    return inside if inside.is_dir() else package.parent / "pretrained"


def cache_folder() -> Path:
    """Folder of downloaded weights: the environment variable WEAKAUDIO_CACHE, else the user's cache folder."""
    import pooch  # slower to import than everything else that `weakaudio models` needs

    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("weakaudio"))


def _entry(name: str, table: dict[str, Any]) -> Entry:
    metrics = tuple(Metric(**metric) for metric in table.get("metrics", ()))
    return Entry(name, **{**table, "urls": tuple(table.get("urls", ())), "metrics": metrics})
