"""The steps that end every preparation: pack clips, list failures, write manifest and class list, summarise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import audio_info
from weakaudio.data.corpus import FAILURES, MANIFEST, STORE, write_labels
from weakaudio.data.labels import LabelSet
from weakaudio.data.manifest import Manifest, write_manifest
from weakaudio.data.store import ClipStore, StoreWriter
from weakaudio.errors import AudioError, DataPrepError
from weakaudio.files import write_table
from weakaudio_data_prep.packing import Clip, SoundFile, pack

NOTES = "notes.csv"  # path and note of each clip that was treated specially


@dataclass
class Summary:
    """Result of a preparation."""

    name: str
    out: Path
    n_clips: int
    n_classes: int
    seconds: float
    """total length of all clips"""
    groups: dict[str, int] = field(default_factory=dict)
    """number of clips by split or fold"""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """path and reason of each clip that was left out"""
    missing: int = 0
    """number of listed clips without audio"""

    def __str__(self) -> str:
        groups = ", ".join(f"{name}: {count}" for name, count in self.groups.items())
        text = f"{self.name}: {self.n_clips} clips, {self.n_classes} classes, {self.seconds / 3600:.2f} h"
        text += f" ({groups})" if groups else ""
        text += f"; {self.missing} listed clips are missing" if self.missing else ""
        text += f"; {len(self.failures)} left out, see {self.out / FAILURES}" if self.failures else ""
        return f"{text} -> {self.out}"


def finish(
    name: str,
    table: pd.DataFrame,
    out: Path,
    sample_rate: int | None,
    workers: int = 1,
    label_set: LabelSet | None = None,
    sounds: Callable[[Set[str]], Iterable[Clip]] | None = None,
) -> Summary:
    """Write manifest, class list and, if a rate is given, the clip store.

    Clips that cannot be read are left out of manifest and store, and listed in failures.csv. A killed run is resumed;
    labels that differ from those packed before are corrected in the store.

    Parameters
    ----------
    table
        The manifest: path (relative to `out`), labels, and fold, split or source.
    workers
        Processes that decode, as in `pack`.
    label_set
        Classes in the order of a network's outputs; None for all that occur, sorted.
    sounds
        Given the keys packed already, yields the other clips; None reads each clip from the file at its path.

    Raises
    ------
    DataPrepError
        No clip can be read.
    """
    out.mkdir(parents=True, exist_ok=True)  # paths relative to it can be opened only if it exists
    manifest = Manifest(table, out)
    seconds, failures = _pack(manifest, sample_rate, workers, sounds) if sample_rate else _check(manifest)
    write_report(failures, ("path", "reason"), out / FAILURES)
    table = table[~table["path"].isin({path for path, _ in failures})].reset_index(drop=True)
    if table.empty:
        raise DataPrepError(f"{out}: none of {len(manifest)} clips can be read; see {out / FAILURES}")
    label_set = label_set or manifest.label_set
    write_labels(label_set, out)
    write_manifest(Manifest(table, out), out / MANIFEST)
    group = next((column for column in ("split", "fold") if column in table), None)
    groups = {f"{group} {k}": int(v) for k, v in table[group].value_counts().sort_index().items()} if group else {}
    return Summary(name, out, len(table), len(label_set), seconds, groups, failures)


def write_report(rows: Sequence[Sequence[object]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV; without rows, delete the report of an earlier run."""
    if rows:
        write_table(pd.DataFrame(rows, columns=list(columns)), path)
    else:
        path.unlink(missing_ok=True)


def _pack(
    manifest: Manifest, sample_rate: int, workers: int, sounds: Callable[[Set[str]], Iterable[Clip]] | None
) -> tuple[float, list[tuple[str, str]]]:
    rows = list(zip(manifest.table["path"], manifest.paths, manifest.table["labels"], strict=True))
    with StoreWriter(manifest.root / STORE, sample_rate) as writer:
        writer.relabel({key: labels for key, _, labels in rows})
        todo = [Clip(key, labels, SoundFile(path)) for key, path, labels in rows if key not in writer.keys]
        failures = pack(sounds(writer.keys) if sounds else todo, len(todo), writer, workers)
        if not writer.keys:
            return 0.0, failures
    store, keys = ClipStore(manifest.root / STORE), set(manifest.table["path"])
    return float(store.n_samples[[key in keys for key in store.keys]].sum()) / store.sample_rate, failures


def _check(manifest: Manifest) -> tuple[float, list[tuple[str, str]]]:
    seconds, failures = 0.0, []
    for key, path in zip(manifest.table["path"], manifest.paths, strict=True):
        try:
            info = audio_info(path)
            if not info.n_samples:
                raise AudioError(f"{path}: has no samples; at least one is needed")
            seconds += info.seconds
        except AudioError as error:
            failures.append((key, str(error)))
    return seconds, failures
