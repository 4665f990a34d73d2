"""What a preparation did, and the steps all of them end with: packing clips, listing failures, the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
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

NOTES = "notes.csv"  # path and note of each clip that a preparation treated in a way of its own


@dataclass
class Summary:
    """What a preparation wrote."""

    name: str
    out: Path
    n_clips: int
    n_classes: int
    seconds: float
    """audio, all clips together"""
    groups: dict[str, int] = field(default_factory=dict)
    """clips by split or fold"""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """path and reason of each clip that was left out"""
    missing: int = 0
    """clips that are listed by the data set and not there"""

    def __str__(self) -> str:
        groups = ", ".join(f"{name}: {count}" for name, count in self.groups.items())
        text = f"{self.name}: {self.n_clips} clips, {self.n_classes} classes, {self.seconds / 3600:.2f} h"
        text += f" ({groups})" if groups else ""
        text += f"; {self.missing} listed clips are not there" if self.missing else ""
        text += f"; {len(self.failures)} left out, see {self.out / FAILURES}" if self.failures else ""
        return f"{text} -> {self.out}"


def finish(
    name: str,
    manifest: Manifest,
    out: Path,
    sample_rate: int | None,
    workers: int = 1,
    label_set: LabelSet | None = None,
    sounds: Callable[[Set[str]], Iterable[Clip]] | None = None,
) -> Summary:
    """Write manifest, class list and, if a rate is given, the clip store.

    Clips that cannot be read are left out of manifest and store and listed in failures.csv. A run that was killed
    goes on where it was; one whose labels differ from those packed before corrects them in the store.

    Parameters
    ----------
    workers
        Processes that decode, as in `pack`.
    label_set
        Classes in the order of a network's outputs; those that occur, sorted, if not given.
    sounds
        Given the keys that are packed already, yields the manifest's other clips; without it, each clip is a file.

    Raises
    ------
    DataPrepError
        No clip can be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    if sample_rate:
        seconds, failures = _pack(manifest, out, sample_rate, workers, sounds)
    else:
        seconds, failures = _check(manifest)
    (out / FAILURES).unlink(missing_ok=True)
    if failures:
        write_table(pd.DataFrame(failures, columns=["path", "reason"]), out / FAILURES)
    left_out = {path for path, _ in failures}
    table = manifest.table[~manifest.table["path"].isin(left_out)].reset_index(drop=True)
    if table.empty:
        raise DataPrepError(f"{out}: none of {len(manifest)} clips can be read; see {out / FAILURES}")
    label_set = label_set or manifest.label_set
    write_labels(label_set, out)
    write_manifest(Manifest(table, out), out / MANIFEST)
    group = next((column for column in ("split", "fold") if column in table), None)
    groups = {f"{group} {k}": int(v) for k, v in table[group].value_counts().sort_index().items()} if group else {}
    return Summary(name, out, len(table), len(label_set), seconds, groups, failures)


def _pack(
    manifest: Manifest,
    out: Path,
    sample_rate: int,
    workers: int,
    sounds: Callable[[Set[str]], Iterable[Clip]] | None,
) -> tuple[float, list[tuple[str, str]]]:
    rows = list(zip(manifest.table["path"], manifest.paths, manifest.table["labels"], strict=True))
    with StoreWriter(out / STORE, sample_rate) as writer:
        writer.relabel({key: labels for key, _, labels in rows})
        todo = [Clip(key, labels, SoundFile(path)) for key, path, labels in rows if key not in writer.keys]
        failures = pack(sounds(writer.keys) if sounds else todo, len(todo), writer, workers)
        packed = bool(writer.keys)
    return _seconds(out, set(manifest.table["path"])) if packed else 0.0, failures


def _seconds(out: Path, keys: set[str]) -> float:
    store = ClipStore(out / STORE)
    return float(store.n_samples[[key in keys for key in store.keys]].sum()) / store.sample_rate


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
