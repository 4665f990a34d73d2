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
from weakaudio_data_prep.grouping import grouped_folds
from weakaudio_data_prep.mixing import (
    BACKGROUND_DB,
    MORE_OF_A_CLASS,
    SETTINGS,
    Event,
    Events,
    load_events,
    mix,
    place_event,
    refuse_other_settings,
    rms,
    truth,
)
from weakaudio_data_prep.summary import NOTES, Summary, finish, write_report

AMBIENCES_CSV = "ambiences.csv"  # path of each clip, and kind, file, start and end (seconds) of its ambience
STRAY = 0.5  # probability of another event, of any class
SNR_DB = (-5.0, 15.0)  # range of an event's level over the ambience's
_GAP = 0.5  # seconds of an ambience left out between the stretches of two folds
_SHORTEST = 1.0  # seconds, of a stretch

# Classes of UrbanSound8K that ESC-50 has under another name; a jackhammer counts as a drill.
_SAME = {"dog_bark": "dog", "engine_idling": "engine", "jackhammer": "drilling"}

# Files of each kind, without extension, as named in the open collections Blanket and Noisekun. Recordings that are in
# both are listed once (the wind of Blanket is a part of Noisekun's), and those too short to be divided are not
# listed.
AMBIENCES = {
    "birds": ("blanket-birds", "noisekun-birds-tree"),
    "city": ("blanket-city",),
    "drips": ("noisekun-cave-drops", "noisekun-drops"),
    "fire": ("blanket-fireplace", "noisekun-fire"),
    "hum": ("noisekun-brown-noise", "noisekun-underwater"),
    "leaves": ("noisekun-leaves",),
    "night": ("blanket-summer-night", "noisekun-night"),
    "people": ("noisekun-coffee", "noisekun-playground"),
    "rain": ("blanket-rain", "noisekun-rain", "noisekun-rain-on-tent"),
    "storm": ("blanket-storm", "noisekun-storm"),
    "stream": ("noisekun-stream-water", "noisekun-waterfall"),
    "vehicle": ("noisekun-air-plane", "noisekun-boat"),
    "waves": ("blanket-waves", "noisekun-waves"),
    "wind": ("noisekun-wind",),
}


@dataclass(frozen=True)
class Scene:
    """Contents of a scene."""

    ambiences: dict[str, float]
    """probability of each kind; they sum to 1"""
    events: dict[str, float]
    """probability that a clip has events of the class"""


SCENES = {
    "beach": Scene(
        {"waves": 0.4, "wind": 0.25, "people": 0.2, "storm": 0.15},
        {"sea_waves": 0.4, "children_playing": 0.4, "dog": 0.3, "laughing": 0.3, "crow": 0.2, "footsteps": 0.2}
        | {"helicopter": 0.15, "street_music": 0.15, "wind": 0.2},
    ),
    "construction_site": Scene(
        {"city": 0.25, "hum": 0.25, "wind": 0.25, "vehicle": 0.25},
        {"drilling": 0.55, "engine": 0.45, "hand_saw": 0.35, "chainsaw": 0.2, "car_horn": 0.15, "footsteps": 0.2}
        | {"siren": 0.1, "glass_breaking": 0.15, "air_conditioner": 0.15},
    ),
    "farm": Scene(
        {"birds": 0.3, "wind": 0.25, "leaves": 0.2, "night": 0.15, "rain": 0.1},
        {"rooster": 0.35, "hen": 0.35, "cow": 0.35, "sheep": 0.3, "pig": 0.3, "dog": 0.3, "crow": 0.2}
        | {"chirping_birds": 0.3, "engine": 0.25, "insects": 0.15},
    ),
    "kitchen": Scene(
        {"hum": 0.3, "drips": 0.25, "people": 0.25, "fire": 0.2},
        {"pouring_water": 0.4, "can_opening": 0.3, "water_drops": 0.35, "drinking_sipping": 0.35, "clock_tick": 0.2}
        | {"glass_breaking": 0.2, "vacuum_cleaner": 0.15, "washing_machine": 0.25}
        | {"footsteps": 0.2, "laughing": 0.15},
    ),
    "night_forest": Scene(
        {"night": 0.35, "leaves": 0.25, "stream": 0.2, "fire": 0.2},
        {"crickets": 0.45, "frog": 0.35, "insects": 0.3, "crackling_fire": 0.3, "wind": 0.25, "footsteps": 0.2}
        | {"dog": 0.1, "water_drops": 0.15, "chirping_birds": 0.1},
    ),
    "office": Scene(
        {"hum": 0.35, "people": 0.3, "city": 0.2, "rain": 0.15},
        {"keyboard_typing": 0.5, "mouse_click": 0.4, "coughing": 0.25, "clock_tick": 0.25, "air_conditioner": 0.3}
        | {"door_wood_knock": 0.2, "footsteps": 0.25, "sneezing": 0.15, "laughing": 0.15, "drinking_sipping": 0.15},
    ),
    "park": Scene(
        {"birds": 0.3, "leaves": 0.25, "people": 0.25, "stream": 0.2},
        {"chirping_birds": 0.45, "children_playing": 0.4, "dog": 0.4, "footsteps": 0.3, "crow": 0.25}
        | {"street_music": 0.2, "laughing": 0.2, "airplane": 0.15, "church_bells": 0.15},
    ),
    "storm": Scene(
        {"storm": 0.3, "rain": 0.3, "wind": 0.15, "drips": 0.15, "waves": 0.1},
        {"thunderstorm": 0.5, "rain": 0.4, "wind": 0.4, "water_drops": 0.2, "door_wood_creaks": 0.2, "dog": 0.15}
        | {"siren": 0.15, "glass_breaking": 0.1},
    ),
    "street": Scene(
        {"city": 0.4, "people": 0.25, "rain": 0.2, "vehicle": 0.15},
        {"car_horn": 0.4, "engine": 0.4, "siren": 0.3, "footsteps": 0.4, "street_music": 0.25, "dog": 0.2}
        | {"children_playing": 0.15, "drilling": 0.15, "church_bells": 0.15},
    ),
    "train_ride": Scene(
        {"vehicle": 0.4, "hum": 0.25, "people": 0.2, "storm": 0.15},
        {"train": 0.55, "coughing": 0.25, "laughing": 0.25, "door_wood_creaks": 0.25, "sneezing": 0.15}
        | {
            "snoring": 0.15,
            "clock_alarm": 0.15,
            "keyboard_typing": 0.2,
            "children_playing": 0.15,
            "mouse_click": 0.1,
        },
    ),
}


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
    of ambience in each clip. Event clips that cannot be read are listed in failures.csv, and recordings left out so
    that folds share none in notes.csv. A killed run is resumed.

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
    refuse_other_settings(base / SETTINGS, settings)

    n_samples = round(seconds * sample_rate)
    rows: list[dict[str, object]] = []
    strong: list[dict[str, object]] = []
    beds: list[dict[str, object]] = []
    failures: list[tuple[str, str]] = []
    for part, fold in enumerate(folds):
        table = events[events["fold"] == fold].reset_index(drop=True)
        sounds = load_events(Manifest(table, Path()), sample_rate, failures)
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
            strong += truth(key, placed, sample_rate)
            if not (base / key).is_file():
                write_wav(base / key, mix(placed, bed, sample_rate), sample_rate)
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
    level = 10 ** (rng.uniform(*BACKGROUND_DB) / 20)
    start = stretch.start + begin / sample_rate
    row = {"kind": kind, "file": stretch.file, "start": round(start, 3)}
    row["end"] = round(start + length / sample_rate, 3)
    return row, audio * np.float32(level / (rms(audio) + 1e-9))


def _draw_events(rng: np.random.Generator, scene: Scene, sounds: Events, n_samples: int) -> list[Event]:
    labels = [label for label, probability in scene.events.items() if rng.random() < probability]
    if rng.random() < STRAY:
        labels.append(str(rng.choice(list(sounds))))
    events = []
    for label in labels:
        repeats = 1 + int(rng.random() < MORE_OF_A_CLASS)
        events += [place_event(rng, label, sounds, n_samples, SNR_DB) for _ in range(repeats)]
    return events
