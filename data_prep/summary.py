"""What a preparation did, and the two steps all of them end with: packing clips, listing failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import audio_info, read_audio
from weakaudio.data.corpus import FAILURES, MANIFEST, STORE, write_labels
from weakaudio.data.manifest import Manifest, write_manifest, write_table
from weakaudio.data.store import ClipStore, StoreWriter
from weakaudio.errors import AudioError
from weakaudio.progress import progress


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

    def __str__(self) -> str:
        groups = ", ".join(f"{name}: {count}" for name, count in self.groups.items())
        text = f"{self.name}: {self.n_clips} clips, {self.n_classes} classes, {self.seconds / 3600:.2f} h"
        text += f" ({groups})" if groups else ""
        text += f"; {len(self.failures)} left out, see {self.out / FAILURES}" if self.failures else ""
        return f"{text} -> {self.out}"


def finish(name: str, manifest: Manifest, out: Path, sample_rate: int | None) -> Summary:
    """Write manifest, class list and, if a rate is given, the clip store of clips that lie on disk as files.

    Clips that cannot be read are left out of manifest and store and listed in failures.csv. A run that was
    killed goes on where it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    label_set = manifest.label_set
    seconds, failures = _pack(manifest, out, sample_rate) if sample_rate else _check(manifest)
    (out / FAILURES).unlink(missing_ok=True)
    if failures:
        write_table(pd.DataFrame(failures, columns=["path", "reason"]), out / FAILURES)
    left_out = {path for path, _ in failures}
    table = manifest.table[~manifest.table["path"].isin(left_out)].reset_index(drop=True)
    write_labels(label_set, out)
    write_manifest(Manifest(table, out), out / MANIFEST)
    group = next((column for column in ("split", "fold") if column in table), None)
    groups = {f"{group} {k}": int(v) for k, v in table[group].value_counts().sort_index().items()} if group else {}
    return Summary(name, out, len(table), len(label_set), seconds, groups, failures)


def _pack(manifest: Manifest, out: Path, sample_rate: int) -> tuple[float, list[tuple[str, str]]]:
    failures = []
    rows = list(zip(manifest.table["path"], manifest.paths, manifest.table["labels"], strict=True))
    with StoreWriter(out / STORE, sample_rate) as writer:
        for key, path, labels in progress(rows, len(rows), "packing"):
            if key in writer.keys:
                continue
            try:
                writer.add(key, read_audio(path, sample_rate)[0], labels)
            except AudioError as error:
                failures.append((key, str(error)))
    return float(ClipStore(out / STORE).n_samples.sum()) / sample_rate, failures


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
