"""Synthetic acoustic scenes: ten scenes, each mixed of sound events that one would hear there over an ambience.

They stand in where the corpora of acoustic scenes are not at hand. No clip is a recording of a scene: a figure on
them is a figure on synthetic scenes, and has to say so.

Each scene has its own chances of kinds of ambience and of classes of events, but scenes share both, and any class may
stray into any scene: who knew the kind of ambience exactly, and nothing else, would be right in 43 of 100 clips.

Folds share no material. Events go by their recording: those of ESC-50 stay in its folds, those of UrbanSound8K are
shared out anew, evenly by class, as its ten folds are not ours. Ambiences are few, so they are cut in time: each is
in every fold, with a stretch of its own. Folds thus share the place and the microphone of an ambience, if no sound.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.audio.io import audio_info, find_audio, read_audio, write_wav
from weakaudio.data.corpus import EVENTS, FAILURES, MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio.files import atomic_write, write_table
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
from weakaudio_data_prep.summary import NOTES, Summary, finish

AMBIENCES_CSV = "ambiences.csv"  # path of each clip, and kind, file, start and end (seconds) of its ambience
STRAY = 0.5  # chance of one more event, of any class
SNR_DB = (-5.0, 15.0)  # level of an event's active part over the ambience's, drawn uniformly
_GAP = 0.5  # seconds of an ambience that are left out between the stretches of two folds
_SHORTEST = 1.0  # seconds, of a stretch

# Classes of UrbanSound8K under the names of ESC-50 where both have them; a jackhammer is a drill.
_SAME = {"dog_bark": "dog", "engine_idling": "engine", "jackhammer": "drilling"}

# Files of each kind, without extension, as the open collections Blanket and Noisekun name them. Of what is in both
# collections only one is here (the wind of Blanket is a part of Noisekun's), and nothing that is too short to be cut.
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
    """What one hears in a scene."""

    ambiences: dict[str, float]
    """chance of each kind; they add up to 1"""
    events: dict[str, float]
    """chance of each class to be heard in a clip"""


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
        | {
            "glass_breaking": 0.2,
            "vacuum_cleaner": 0.15,
            "washing_machine": 0.25,
            "footsteps": 0.2,
            "laughing": 0.15,
        },
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
    """The part of an ambience that a fold has; `start` in seconds of the file."""

    file: str
    start: float
    audio: NDArray[np.float32]


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
    """Mix a corpus of synthetic scenes: WAV files, their manifest (path, labels, fold) and what is in them.

    events.csv has the strong truth (onset and offset of each event, its class, the file it is from); ambiences.csv
    what stretch of which ambience lies under each clip. Event clips that cannot be read are listed in failures.csv,
    recordings left out so that folds share none in notes.csv. A run that was killed goes on where it was.

    Parameters
    ----------
    out
        Folder of the corpus.
    esc50
        Manifest CSV (or its folder) as `prepare esc50` writes it; its folds are those of the corpus.
    urbansound8k
        Manifest CSV (or its folder) as `prepare urbansound8k` writes it, best with --foreground_only. Recordings that
        ESC-50 has as well are left out.
    backgrounds
        Folder with the ambiences of Blanket and Noisekun that `AMBIENCES` names (collection-sound), in any format.
    per_scene
        Clips of each scene, spread over the folds.
    seconds
        Length of a clip.
    sample_rate
        Hz
    seed
        The same seed gives the same bytes.
    store
        Also pack the clips into a store, for training.

    Raises
    ------
    DataPrepError
        A column, a class in a fold or an ambience is missing, an ambience is too short to be cut, there are fewer
        clips than folds, or `out` was begun with other settings.
    """
    base = Path(out)
    events, left_out = _share_out(_read(Path(esc50), "fold"), _read(Path(urbansound8k)))
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
            facts, bed = _draw_bed(rng, SCENES[name], stretches, n_samples, sample_rate)
            heard = _draw_events(rng, SCENES[name], sounds, n_samples)
            rows.append({"path": key, "labels": [name], "fold": fold})
            beds.append({"path": key, **facts})
            strong += truth(key, heard, sample_rate)
            if not (base / key).is_file():
                with atomic_write(base / key) as beside:
                    write_wav(beside, mix(heard, bed, sample_rate), sample_rate)
    write_table(_by_path(strong), base / EVENTS)
    write_table(_by_path(beds), base / AMBIENCES_CSV)
    summary = finish("synthetic scenes", Manifest(_by_path(rows), base), base, sample_rate if store else None)
    for file, column, listed in ((NOTES, "note", left_out), (FAILURES, "reason", failures)):
        (base / file).unlink(missing_ok=True)
        if listed:
            write_table(pd.DataFrame(listed, columns=["path", column]), base / file)
    summary.failures += failures
    return summary


def _by_path(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows).sort_values("path", kind="stable").reset_index(drop=True)


def _read(source: Path, *columns: str) -> pd.DataFrame:
    """Event clips: path (of the file), label, source and `columns`, of the classes that a scene has."""
    path = source / MANIFEST if source.is_dir() else source
    manifest = read_manifest(path)
    for column in ("source", *columns):
        if column not in manifest.table:
            raise DataPrepError(f"{path}: no column `{column}`; `prepare` writes it for ESC-50 and UrbanSound8K")
    table = manifest.table.assign(path=[str(file) for file in manifest.paths])
    table["labels"] = [[_SAME.get(name, name) for name in names] for names in table["labels"]]
    used = {label for scene in SCENES.values() for label in scene.events}
    return table[[len(names) == 1 and names[0] in used for names in table["labels"]]]


def _share_out(esc50: pd.DataFrame, urban: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """All event clips with our folds, sorted by file name; and path and reason of those left out."""
    later = esc50["fold"] < esc50.groupby("source")["fold"].transform("max")
    left_out = [
        (Path(path).name, f"its recording {source} is in a later fold, too")
        for path, source in esc50.loc[later, ["path", "source"]].itertuples(index=False)
    ]
    known = urban["source"].isin(set(esc50["source"]))
    left_out += [
        (Path(path).name, f"its recording {source} is in ESC-50, too")
        for path, source in urban.loc[known, ["path", "source"]].itertuples(index=False)
    ]
    esc50, urban = esc50[~later], urban[~known].sort_values(["source", "path"])
    names = sorted({int(fold) for fold in esc50["fold"]})
    dealt = grouped_folds(urban["labels"].tolist(), urban["source"].tolist(), len(names), "UrbanSound8K")
    urban = urban.assign(fold=[names[fold - 1] for fold in dealt])
    events = pd.concat([esc50, urban], ignore_index=True)[["path", "labels", "fold", "source"]]
    return events.sort_values("path", key=lambda paths: paths.map(lambda path: Path(path).name)), left_out


def _find_ambiences(folder: Path) -> dict[str, list[Path]]:
    """Files of each kind that a scene has."""
    by_stem = {path.stem: path for path in find_audio(folder)}
    kinds = sorted({kind for scene in SCENES.values() for kind in scene.ambiences})
    absent = [stem for kind in kinds for stem in AMBIENCES[kind] if stem not in by_stem]
    if absent:
        raise DataPrepError(f"{folder}: {len(absent)} ambiences are not there, the first: {absent[0]}")
    return {kind: [by_stem[stem] for stem in AMBIENCES[kind]] for kind in kinds}


def _cut(ambiences: dict[str, list[Path]], part: int, parts: int, sample_rate: int) -> dict[str, list[_Stretch]]:
    """Stretch number `part` of each ambience: only that is decoded."""
    stretches: dict[str, list[_Stretch]] = {}
    for kind, paths in ambiences.items():
        for path in paths:
            whole = audio_info(path).seconds / parts
            if whole - _GAP < _SHORTEST:
                raise DataPrepError(
                    f"{path}: too short to be cut for {parts} folds; {parts * (_SHORTEST + _GAP):g} s are needed"
                )
            audio, _ = read_audio(path, sample_rate, part * whole, whole - _GAP)
            stretches.setdefault(kind, []).append(_Stretch(path.name, part * whole, audio))
    return stretches


def _refuse_missing_classes(classes: set[str], fold: int) -> None:
    for name, scene in SCENES.items():
        missing = sorted(scene.events.keys() - classes)
        if missing:
            raise DataPrepError(
                f"fold {fold} has no event of class {missing[0]!r}, which the scene {name} needs; "
                "give ESC-50 and UrbanSound8K as `prepare` writes them"
            )


def _draw_bed(
    rng: np.random.Generator, scene: Scene, stretches: dict[str, list[_Stretch]], n_samples: int, sample_rate: int
) -> tuple[dict[str, object], NDArray[np.float32]]:
    """What lies under a clip, and its audio (N,); a stretch that is shorter than the clip is repeated."""
    kind = str(rng.choice(list(scene.ambiences), p=list(scene.ambiences.values())))
    stretch = stretches[kind][rng.integers(len(stretches[kind]))]
    length = min(n_samples, len(stretch.audio))
    begin = int(rng.integers(len(stretch.audio) - length + 1))
    audio = np.resize(stretch.audio[begin : begin + length], n_samples)
    level = 10 ** (rng.uniform(*BACKGROUND_DB) / 20)
    start = stretch.start + begin / sample_rate
    facts = {
        "kind": kind,
        "file": stretch.file,
        "start": round(start, 3),
        "end": round(start + length / sample_rate, 3),
    }
    return facts, audio * np.float32(level / (rms(audio) + 1e-9))


def _draw_events(rng: np.random.Generator, scene: Scene, sounds: Events, n_samples: int) -> list[Event]:
    heard = [label for label, chance in scene.events.items() if rng.random() < chance]
    if rng.random() < STRAY:
        heard.append(str(rng.choice(list(sounds))))
    events = []
    for label in heard:
        repeats = 1 + int(rng.random() < MORE_OF_A_CLASS)
        events += [place_event(rng, label, sounds, n_samples, SNR_DB) for _ in range(repeats)]
    return events
