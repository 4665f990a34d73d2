"""Synthetic acoustic scenes: ten scenes, mixed from typical sound events over an ambience.

A substitute where corpora of real scenes are not available. No clip is a recording of a scene, so results must be
reported as results on synthetic scenes.

Each scene has its own probabilities of ambiences and event classes, but scenes share both, and any class may occur in
any scene: a classifier that knows only the kind of ambience would be right in 43 % of clips.

Folds share no material. Events are assigned by recording: those of ESC-50 keep its folds, those of UrbanSound8K are
divided again, evenly by class, because it has ten folds. The few ambiences are divided in time, and each fold has a
stretch of every one; folds thus share the place and the microphone of an ambience, but no sound.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from weakaudio.audio import Waveform
from weakaudio.audio.io import audio_info, find_audio, read_audio, write_wav
from weakaudio.data.corpus import EVENTS, FAILURES
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio.progress import progress
from weakaudio_data_prep import mixing
from weakaudio_data_prep.grouping import grouped_folds
from weakaudio_data_prep.summary import NOTES, Summary, finish, write_report

AMBIENCES_CSV = "ambiences.csv"  # path of each clip, and kind, file, start and end (seconds) of its ambience
STRAY = 0.5  # probability of another event, of any class
SNR_DB = (-5.0, 15.0)  # range of an event's level over the ambience's
_GAP = 0.5  # seconds of an ambience left out between the stretches of two folds
_SHORTEST = 1.0  # seconds, of a stretch

# Classes of UrbanSound8K that ESC-50 has under another name; a jackhammer counts as a drill.
_SAME = {"dog_bark": "dog", "engine_idling": "engine", "jackhammer": "drilling"}


@dataclass(frozen=True)
class Scene:
    """Contents of a scene."""

    ambiences: dict[str, float]
    """probability of each kind; they sum to 1"""
    events: dict[str, float]
    """probability that a clip has events of the class"""


# Ambiences are files of each kind, without extension, as named in the open collections Blanket and Noisekun.
# Recordings that are in both are listed once (the wind of Blanket is a part of Noisekun's), those too short to be
# divided not at all.
_TABLES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
AMBIENCES: dict[str, list[str]] = _TABLES["ambiences"]
SCENES = {name: Scene(**scene) for name, scene in _TABLES["scenes"].items()}


@dataclass(frozen=True)
class _Stretch:
    """The part of an ambience that a fold uses; `start` in seconds of the file."""

    file: str
    start: float
    audio: Waveform


def prepare(
    out: str,
    *,
    esc50: str,
    urbansound8k: str,
    backgrounds: str,
    per_scene: int = 100,
    seconds: float = 10.0,
    sample_rate: int = 16000,
    seed: int = 0,
    store: bool = False,
) -> Summary:
    """Mix a corpus of synthetic scenes: WAV files with a manifest (path, labels, fold) and their contents.

    events.csv has the strong labels (onset, offset, class and source file of each event), ambiences.csv the stretch
    of ambience in each clip. Event clips that cannot be read are listed in failures.csv, and recordings left
    out so that folds share none in notes.csv. A killed run is resumed.

    Parameters
    ----------
    out
        Folder of the corpus.
    esc50
        Manifest (or its folder) from `prepare esc50`; its folds are those of the corpus.
    urbansound8k
        Manifest (or its folder) from `prepare urbansound8k`, best with --foreground_only. Recordings that ESC-50 also
        uses are left out.
    backgrounds
        Folder with the ambiences of Blanket and Noisekun listed in `AMBIENCES` (collection-sound), in any format.
    per_scene
        Number of clips of each scene, spread over the folds.
    seconds
        Length of a clip.
    sample_rate
        Hz
    seed
        Equal seeds give equal bytes.
    store
        Also pack the clips into a store, for training.

    Raises
    ------
    DataPrepError
        A column, a class in a fold or an ambience is missing, an ambience is too short to be divided, there are fewer
        clips than folds, or `out` was made with other settings.
    """
    base = Path(out)
    events, left_out = _assign_folds(_read(Path(esc50), "fold"), _read(Path(urbansound8k)))
    ambiences = _find_ambiences(Path(backgrounds))
    folds = sorted(set(events["fold"]))
    if per_scene < len(folds):
        raise DataPrepError(f"{base}: {per_scene} clips of each scene are fewer than the {len(folds)} folds")
    for fold in folds:
        _refuse_missing_classes({names[0] for names in events.loc[events["fold"] == fold, "labels"]}, fold)
    names = events.assign(path=[Path(path).name for path in events["path"]])
    settings = {
        "events": hashlib.sha256(names.to_csv(index=False).encode()).hexdigest(),
        "ambiences": {kind: [path.name for path in paths] for kind, paths in ambiences.items()},
        "scenes": {name: asdict(scene) for name, scene in SCENES.items()},
        "per_scene": per_scene,
        "seconds": seconds,
        "sample_rate": sample_rate,
        "seed": seed,
    }
    mixing.refuse_other_settings(base / mixing.SETTINGS, settings)

    n_samples = round(seconds * sample_rate)
    rows: list[dict[str, object]] = []
    strong: list[dict[str, object]] = []
    beds: list[dict[str, object]] = []
    failures: list[tuple[str, str]] = []
    for part, fold in enumerate(folds):
        table = events[events["fold"] == fold].reset_index(drop=True)
        sounds = mixing.load_events(Manifest(table, Path()), sample_rate, failures)
        _refuse_missing_classes(set(sounds), fold)
        stretches = _cut(ambiences, part, len(folds), sample_rate)
        clips = [(name, n) for name in SCENES for n in range(part, per_scene, len(folds))]
        for name, n in progress(clips, len(clips), f"mixing fold {fold}"):
            rng = np.random.default_rng([seed, list(SCENES).index(name), n])
            key = f"audio/{name}/{n:04d}.wav"
            ambience, bed = _draw_bed(rng, SCENES[name], stretches, n_samples, sample_rate)
            placed = _draw_events(rng, SCENES[name], sounds, n_samples)
            rows.append({"path": key, "labels": [name], "fold": fold})
            beds.append({"path": key, **ambience})
            strong += mixing.truth(key, placed, sample_rate)
            if not (base / key).is_file():
                write_wav(base / key, mixing.mix(placed, bed, sample_rate), sample_rate)
    write_table(_by_path(strong), base / EVENTS)
    write_table(_by_path(beds), base / AMBIENCES_CSV)
    summary = finish("synthetic scenes", _by_path(rows), base, sample_rate if store else None)
    write_report(left_out, ("path", "note"), base / NOTES)
    write_report(failures, ("path", "reason"), base / FAILURES)
    summary.failures += failures
    return summary


def _by_path(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows).sort_values("path", kind="stable").reset_index(drop=True)


def _read(source: Path, *columns: str) -> pd.DataFrame:
    """Event clips of the scenes' classes: absolute path, labels, source and `columns`."""
    manifest = read_manifest(source)
    for column in ("source", *columns):
        if column not in manifest.table:
            raise DataPrepError(f"{source}: no column `{column}`, which `prepare` writes for ESC-50 and UrbanSound8K")
    table = manifest.table.assign(path=[str(file) for file in manifest.paths])
    table["labels"] = [[_SAME.get(name, name) for name in names] for names in table["labels"]]
    used = {label for scene in SCENES.values() for label in scene.events}
    return table[[len(names) == 1 and names[0] in used for names in table["labels"]]]


def _assign_folds(esc50: pd.DataFrame, urban: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """All event clips with their folds, sorted by file name; and path and reason of those left out."""
    later = esc50["fold"] < esc50.groupby("source")["fold"].transform("max")
    left_out = [
        (Path(path).name, f"its recording {source} is also in a later fold")
        for path, source in esc50.loc[later, ["path", "source"]].itertuples(index=False)
    ]
    known = urban["source"].isin(set(esc50["source"]))
    left_out += [
        (Path(path).name, f"its recording {source} is also in ESC-50")
        for path, source in urban.loc[known, ["path", "source"]].itertuples(index=False)
    ]
    esc50, urban = esc50[~later], urban[~known].sort_values(["source", "path"])
    names = sorted({int(fold) for fold in esc50["fold"]})
    dealt = grouped_folds(urban["labels"].tolist(), urban["source"].tolist(), len(names), "UrbanSound8K")
    urban = urban.assign(fold=[names[fold - 1] for fold in dealt])
    events = pd.concat([esc50, urban], ignore_index=True)[["path", "labels", "fold", "source"]]
    return events.sort_values("path", key=lambda paths: paths.map(lambda path: Path(path).name)), left_out


def _find_ambiences(folder: Path) -> dict[str, list[Path]]:
    """Files of each kind that a scene uses."""
    by_stem = {path.stem: path for path in find_audio(folder)}
    kinds = sorted({kind for scene in SCENES.values() for kind in scene.ambiences})
    absent = [stem for kind in kinds for stem in AMBIENCES[kind] if stem not in by_stem]
    if absent:
        raise DataPrepError(f"{folder}: {len(absent)} ambiences are missing, the first: {absent[0]}")
    return {kind: [by_stem[stem] for stem in AMBIENCES[kind]] for kind in kinds}


def _cut(ambiences: dict[str, list[Path]], part: int, parts: int, sample_rate: int) -> dict[str, list[_Stretch]]:
    """Decode stretch number `part` of each ambience."""
    stretches: dict[str, list[_Stretch]] = {}
    for kind, paths in ambiences.items():
        for path in paths:
            length = audio_info(path).seconds / parts
            if length - _GAP < _SHORTEST:
                raise DataPrepError(
                    f"{path}: too short for {parts} folds; at least {parts * (_SHORTEST + _GAP):g} s are needed"
                )
            audio, _ = read_audio(path, sample_rate, part * length, length - _GAP)
            stretches.setdefault(kind, []).append(_Stretch(path.name, part * length, audio))
    return stretches


def _refuse_missing_classes(classes: set[str], fold: int) -> None:
    for name, scene in SCENES.items():
        missing = sorted(scene.events.keys() - classes)
        if missing:
            raise DataPrepError(
                f"fold {fold} has no event of class {missing[0]!r}, which the scene {name} needs; "
                "give the manifests of ESC-50 and UrbanSound8K from `prepare`"
            )


def _draw_bed(
    rng: np.random.Generator, scene: Scene, stretches: dict[str, list[_Stretch]], n_samples: int, sample_rate: int
) -> tuple[dict[str, object], Waveform]:
    """Draw the ambience of a clip: its row of ambiences.csv and its audio (N,), repeated if it is too short."""
    kind = str(rng.choice(list(scene.ambiences), p=list(scene.ambiences.values())))
    stretch = stretches[kind][rng.integers(len(stretches[kind]))]
    length = min(n_samples, len(stretch.audio))
    begin = int(rng.integers(len(stretch.audio) - length + 1))
    audio = np.resize(stretch.audio[begin : begin + length], n_samples)
    audio = mixing.scale_background(rng, audio)
    start = stretch.start + begin / sample_rate
    row = {"kind": kind, "file": stretch.file, "start": round(start, 3)}
    row["end"] = round(start + length / sample_rate, 3)
    return row, audio


def _draw_events(rng: np.random.Generator, scene: Scene, sounds: mixing.Events, n_samples: int) -> list[mixing.Event]:
    labels = [label for label, probability in scene.events.items() if rng.random() < probability]
    if rng.random() < STRAY:
        labels.append(str(rng.choice(list(sounds))))
    events = []
    for label in labels:
        repeats = 1 + int(rng.random() < mixing.MORE_OF_A_CLASS)
        events += [mixing.place_event(rng, label, sounds, n_samples, SNR_DB) for _ in range(repeats)]
    return events
