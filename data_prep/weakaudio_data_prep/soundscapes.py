"""Soundscapes: AudioSet-shaped corpora whose strong truth is known.

Clips of 2 to 30 s, most 10 s, hold events of 1 to 5 classes (2.7 in the mean, as in AudioSet) at random times and
levels over a background. Training sees the classes of a clip; onset and offset are kept for measuring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from weakaudio.audio.io import find_audio, read_audio, to_int16, write_wav
from weakaudio.data.corpus import EVENTS, FAILURES, MANIFEST, STORE, write_labels
from weakaudio.data.manifest import Manifest, read_manifest, write_manifest
from weakaudio.data.store import StoreWriter
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio.progress import progress
from weakaudio_data_prep.mixing import (
    BACKGROUND_DB,
    MORE_OF_A_CLASS,
    SETTINGS,
    Audio,
    Event,
    Events,
    load_events,
    mix,
    place_event,
    refuse_other_settings,
    rms,
    truth,
)
from weakaudio_data_prep.summary import NOTES, Summary
from weakaudio_data_prep.synthetic import background as synthetic_background

CLASSES_PER_CLIP = {1: 0.15, 2: 0.32, 3: 0.28, 4: 0.18, 5: 0.07}  # mean 2.70
TEN_SECONDS = 0.7  # part of clips that last 10 s; the others are log-uniform from 2 to 30 s
SNR_DB = (0.0, 20.0)  # level of an event's active part over the background's, drawn uniformly


@dataclass
class _Sources:
    """Trimmed events by class, and backgrounds, of one split."""

    events: Events
    backgrounds: list[Audio]


def prepare(
    root: str,
    out: str,
    backgrounds: str | None = None,
    train: int = 2400,
    val: int = 400,
    test: int = 600,
    train_folds: Sequence[int] = (1, 2, 3),
    val_folds: Sequence[int] = (4,),
    test_folds: Sequence[int] = (5,),
    sample_rate: int = 16000,
    seed: int = 0,
    wav: bool = False,
) -> Summary:
    """Mix a corpus of soundscapes.

    Parameters
    ----------
    root
        Manifest CSV of single-label event clips with a column `fold`, as `prepare esc50` or `prepare synthetic`
        writes it (or its folder).
    out
        Folder of the corpus. A run that was killed goes on where it was.
    backgrounds
        Folder of ambiences, shared out between the splits; without one, coloured noise is synthesised.
    train, val, test
        Clips of each split.
    train_folds, val_folds, test_folds
        Folds whose events go into each split. Clips whose recording is in a later split as well are left out
        and listed in notes.csv; clips that cannot be read, in failures.csv.
    sample_rate
        Hz
    seed
        The same seed gives the same bytes.
    wav
        Also write each clip as a WAV file, below `out`/audio.

    Raises
    ------
    DataPrepError
        A fold is in two splits or empty, a class is missing from a split, or there are fewer backgrounds than
        splits.
    """
    base = Path(out)
    source = Path(root)
    manifest = read_manifest(source / MANIFEST if source.is_dir() else source)
    label_set = manifest.label_set
    plan = {"train": (train, train_folds), "val": (val, val_folds), "test": (test, test_folds)}
    tables, left_out = _split(manifest, {split: list(folds) for split, (_, folds) in plan.items()}, source)
    ambiences = _share_out(backgrounds, list(plan), seed)

    settings = {
        "plan": plan,
        "events": hashlib.sha256(manifest.table.to_csv().encode()).hexdigest(),
        "backgrounds": {split: [path.name for path in files or ()] for split, files in ambiences.items()},
        "sample_rate": sample_rate,
        "seed": seed,
    }
    refuse_other_settings(base / SETTINGS, settings)
    failures: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    strong: list[dict[str, object]] = []
    seconds = 0.0
    with StoreWriter(base / STORE, sample_rate) as writer:
        for number, (split, (count, _)) in enumerate(plan.items()):
            backgrounds_of = [read_audio(path, sample_rate)[0] for path in ambiences[split] or ()]
            sources = _Sources(load_events(tables[split], sample_rate, failures), backgrounds_of)
            for n in progress(range(count), count, f"mixing {split}"):
                rng = np.random.default_rng([seed, number, n])
                key = f"audio/{split}/{n:05d}.wav"
                n_samples, events, bed = _draw(rng, sources, sample_rate)
                labels = sorted({event.label for event in events})
                rows.append({"path": key, "labels": labels, "split": split, "seconds": n_samples / sample_rate})
                strong += truth(key, events, sample_rate)
                seconds += n_samples / sample_rate
                path = base / key
                if key in writer.keys and (path.is_file() or not wav):
                    continue
                audio = mix(events, bed, sample_rate)
                if wav:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_wav(path, audio, sample_rate)
                if key not in writer.keys:
                    writer.add(key, to_int16(audio), labels)
    write_labels(label_set, base)
    for name, column, rows_of in ((NOTES, "note", left_out), (FAILURES, "reason", failures)):
        (base / name).unlink(missing_ok=True)
        if rows_of:
            write_table(pd.DataFrame(rows_of, columns=["path", column]), base / name)
    write_table(pd.DataFrame(strong), base / EVENTS)
    write_manifest(Manifest(pd.DataFrame(rows), base), base / MANIFEST)
    counts = {f"split {split}": count for split, (count, _) in plan.items()}
    return Summary("soundscapes", base, len(rows), len(label_set), seconds, counts, failures)


def clip_seconds(rng: np.random.Generator) -> float:
    """How long one clip is."""
    ten = rng.random() < TEN_SECONDS
    return 10.0 if ten else float(np.exp(rng.uniform(np.log(2.0), np.log(30.0))))


def _split(
    manifest: Manifest, folds: dict[str, list[int]], source: Path
) -> tuple[dict[str, Manifest], list[tuple[str, str]]]:
    """The event clips of each split, and what was left out so that no recording is in two of them.

    A recording with clips in two splits stays in the last of them: test before validation before training.
    """
    used = [fold for chosen in folds.values() for fold in chosen]
    if len(used) != len(set(used)):
        raise DataPrepError(f"{source}: a fold can be in one split only, got {folds}")
    column = "source" if "source" in manifest.table else "path"
    tables: dict[str, Manifest] = {}
    left_out: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    for split, chosen in reversed(folds.items()):
        table = manifest.where(fold=chosen).table
        clash = table[column].isin(taken)
        for path, recording in table.loc[clash, ["path", column]].itertuples(index=False):
            left_out.append((path, f"not in split {split}: recording {recording} is in split {taken[recording]}"))
        table = table[~clash].reset_index(drop=True)
        missing = set(manifest.label_set.names) - {label for labels in table["labels"] for label in labels}
        if missing:
            raise DataPrepError(f"{source}: split {split} has no event of class {sorted(missing)[0]!r}")
        taken.update(dict.fromkeys(table[column], split))
        tables[split] = Manifest(table, manifest.root)
    return tables, left_out


def _share_out(folder: str | None, splits: list[str], seed: int) -> dict[str, list[Path] | None]:
    """Ambiences of each split: half of them for training, a quarter each for the others; no file twice."""
    if folder is None:
        return dict.fromkeys(splits)
    files = find_audio(folder)
    if len(files) < len(splits):
        raise DataPrepError(f"{folder}: {len(files)} backgrounds for {len(splits)} splits that may not share any")
    order = [files[n] for n in np.random.default_rng(seed).permutation(len(files))]
    quarter = max(len(order) // 4, 1)
    return {"val": order[:quarter], "test": order[quarter : 2 * quarter], "train": order[2 * quarter :]}


def _draw(rng: np.random.Generator, sources: _Sources, sample_rate: int) -> tuple[int, list[Event], Audio]:
    """One clip's length, events and background; the background is at its level, events are still at their own."""
    n_samples = int(clip_seconds(rng) * sample_rate)
    names = list(sources.events)
    count = int(rng.choice(list(CLASSES_PER_CLIP), p=list(CLASSES_PER_CLIP.values())))
    events = []
    for label in rng.choice(names, size=min(count, len(names)), replace=False):
        repeats = 1 + int(rng.random() < MORE_OF_A_CLASS) + int(rng.random() < MORE_OF_A_CLASS**2)
        events += [place_event(rng, str(label), sources.events, n_samples, SNR_DB) for _ in range(repeats)]
    if sources.backgrounds:
        ambience = sources.backgrounds[rng.integers(len(sources.backgrounds))]
        begin = rng.integers(len(ambience))
        bed = np.resize(np.roll(ambience, -begin), n_samples)
    else:
        bed = synthetic_background(rng, n_samples, sample_rate)
    level = 10 ** (rng.uniform(*BACKGROUND_DB) / 20)
    return n_samples, events, bed * np.float32(level / (rms(bed) + 1e-9))
