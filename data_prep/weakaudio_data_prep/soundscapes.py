"""Synthetic soundscapes: corpora shaped like AudioSet, with strong labels.

Clips of 2 to 30 s, most of them 10 s, contain events of 1 to 5 classes (2.7 on average, as in AudioSet) at random
times and levels over a background. Training uses only the classes of a clip; onsets and offsets are for evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from weakaudio.audio import Waveform
from weakaudio.audio.io import find_audio, read_audio, to_int16, write_wav
from weakaudio.data.corpus import EVENTS, FAILURES, MANIFEST, STORE, write_labels
from weakaudio.data.manifest import Manifest, read_manifest, write_manifest
from weakaudio.data.store import StoreWriter
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio.progress import progress
from weakaudio_data_prep import mixing
from weakaudio_data_prep.mixing import SETTINGS
from weakaudio_data_prep.summary import NOTES, Summary, write_report
from weakaudio_data_prep.synthetic import background as synthetic_background

CLASSES_PER_CLIP = {1: 0.15, 2: 0.32, 3: 0.28, 4: 0.18, 5: 0.07}  # mean 2.70
TEN_SECONDS = 0.7  # fraction of clips of 10 s; the others are log-uniform from 2 to 30 s
SNR_DB = (0.0, 20.0)  # range of an event's level over the background's


@dataclass
class _Sources:
    """Events and backgrounds of a split."""

    events: mixing.Events
    backgrounds: list[Waveform]


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
        Manifest (or its folder) of single-label event clips with a column `fold`, e.g. from `prepare esc50` or
        `prepare synthetic`.
    out
        Folder of the corpus. A killed run is resumed.
    backgrounds
        Folder of ambiences, divided between the splits; None synthesises coloured noise.
    train, val, test
        Number of clips in each split.
    train_folds, val_folds, test_folds
        Folds whose events are used in each split. Clips whose recording is also in a later split are left out and
        listed in notes.csv; clips that cannot be read are listed in failures.csv.
    sample_rate
        Hz
    seed
        Equal seeds give equal bytes.
    wav
        Also write each clip as a WAV file below `out`/audio.

    Raises
    ------
    DataPrepError
        A fold is empty or in two splits, a class is missing from a split, there are fewer backgrounds than splits, or
        `out` was made with other settings.
    """
    base, source = Path(out), Path(root)
    manifest = read_manifest(source)
    label_set = manifest.label_set
    plan = {"train": (train, train_folds), "val": (val, val_folds), "test": (test, test_folds)}
    tables, left_out = _split(manifest, {split: list(folds) for split, (_, folds) in plan.items()}, source)
    ambiences = _divide(backgrounds, list(plan), seed)

    settings = {
        "plan": plan,
        "events": hashlib.sha256(manifest.table.to_csv().encode()).hexdigest(),
        "backgrounds": {split: [path.name for path in files or ()] for split, files in ambiences.items()},
        "sample_rate": sample_rate,
        "seed": seed,
    }
    mixing.refuse_other_settings(base / SETTINGS, settings)
    failures: list[tuple[str, str]] = []
    rows: list[dict[str, object]] = []
    strong: list[dict[str, object]] = []
    seconds = 0.0
    with StoreWriter(base / STORE, sample_rate) as writer:
        for number, (split, (count, _)) in enumerate(plan.items()):
            backgrounds_of = [read_audio(path, sample_rate)[0] for path in ambiences[split] or ()]
            sources = _Sources(mixing.load_events(tables[split], sample_rate, failures), backgrounds_of)
            for n in progress(range(count), count, f"mixing {split}"):
                rng = np.random.default_rng([seed, number, n])
                key = f"audio/{split}/{n:05d}.wav"
                n_samples, events, bed = _draw(rng, sources, sample_rate)
                labels = sorted({event.label for event in events})
                rows.append({"path": key, "labels": labels, "split": split, "seconds": n_samples / sample_rate})
                strong += mixing.truth(key, events, sample_rate)
                seconds += n_samples / sample_rate
                path = base / key
                if key in writer.keys and (path.is_file() or not wav):
                    continue
                audio = mixing.mix(events, bed, sample_rate)
                if wav:
                    write_wav(path, audio, sample_rate)
                if key not in writer.keys:
                    writer.add(key, to_int16(audio), labels)
    write_labels(label_set, base)
    write_report(left_out, ("path", "note"), base / NOTES)
    write_report(failures, ("path", "reason"), base / FAILURES)
    write_table(pd.DataFrame(strong), base / EVENTS)
    write_manifest(Manifest(pd.DataFrame(rows), base), base / MANIFEST)
    counts = {f"split {split}": count for split, (count, _) in plan.items()}
    return Summary("soundscapes", base, len(rows), len(label_set), seconds, counts, failures)


def clip_seconds(rng: np.random.Generator) -> float:
    """Draw the length of a clip."""
    ten = rng.random() < TEN_SECONDS
    return 10.0 if ten else float(np.exp(rng.uniform(np.log(2.0), np.log(30.0))))


def _split(
    manifest: Manifest, folds: dict[str, list[int]], source: Path
) -> tuple[dict[str, Manifest], list[tuple[str, str]]]:
    """Event clips of each split; and path and reason of those left out, so that splits share no recordings.

    A recording with clips in several splits is used in the last of them: test before validation before training.
    """
    used = [fold for chosen in folds.values() for fold in chosen]
    if len(used) != len(set(used)):
        raise DataPrepError(f"{source}: a fold can be in only one split, got {folds}")
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


def _divide(folder: str | None, splits: list[str], seed: int) -> dict[str, list[Path] | None]:
    """Divide the ambiences: half for training, a quarter each for validation and test."""
    if folder is None:
        return dict.fromkeys(splits)
    files = find_audio(folder)
    if len(files) < len(splits):
        raise DataPrepError(f"{folder}: {len(files)} backgrounds for {len(splits)} splits, which must not share any")
    order = [files[n] for n in np.random.default_rng(seed).permutation(len(files))]
    quarter = max(len(order) // 4, 1)
    return {"val": order[:quarter], "test": order[quarter : 2 * quarter], "train": order[2 * quarter :]}


def _draw(rng: np.random.Generator, sources: _Sources, sample_rate: int) -> tuple[int, list[mixing.Event], Waveform]:
    """Draw length, events and background of a clip; the background is scaled already, the events are not."""
    n_samples = int(clip_seconds(rng) * sample_rate)
    names = list(sources.events)
    count = int(rng.choice(list(CLASSES_PER_CLIP), p=list(CLASSES_PER_CLIP.values())))
    events = []
    for label in rng.choice(names, size=min(count, len(names)), replace=False):
        repeats = 1 + int(rng.random() < mixing.MORE_OF_A_CLASS) + int(rng.random() < mixing.MORE_OF_A_CLASS**2)
        events += [mixing.place_event(rng, str(label), sources.events, n_samples, SNR_DB) for _ in range(repeats)]
    if sources.backgrounds:
        ambience = sources.backgrounds[rng.integers(len(sources.backgrounds))]
        begin = rng.integers(len(ambience))
        bed = np.resize(np.roll(ambience, -begin), n_samples)
    else:
        bed = synthetic_background(rng, n_samples, sample_rate)
    return n_samples, events, mixing.scale_background(rng, bed)
