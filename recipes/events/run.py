"""What a detector hears at its defaults, and when: sounds of ESC-50 at known times over ambiences.

    python -m recipes.events.run --data ../shared/data --model weakaudio-base efficientat-mn04

One to three sounds of 24 everyday kinds in each clip of 10 s, 6 to 24 dB above an ambience that takes part in no
training or choice here. A sound is heard if an event of an accepted class (`CLASSES`) overlaps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from weakaudio_data_prep import mixing

from recipes import esc50
from recipes.command import command, run_name
from recipes.results import Row
from weakaudio.audio import Waveform
from weakaudio.audio.io import find_audio, read_audio, resample
from weakaudio.data.manifest import Manifest
from weakaudio.evaluation.events import evaluate_events
from weakaudio.evaluation.psds import psds_scores
from weakaudio.evaluation.scored_clips import ScoredClips, merge_events, score_frames
from weakaudio.inference.detector import Detector
from weakaudio.inference.windows import Window
from weakaudio.progress import progress

RATE, SECONDS, SNR_DB = 32000, 10.0, (6.0, 24.0)
CLASSES = {
    "airplane": ("Fixed-wing aircraft, airplane", "Aircraft", "Aircraft engine"),
    "breathing": ("Breathing",),
    "car_horn": ("Vehicle horn, car horn, honking", "Toot", "Air horn, truck horn"),
    "cat": ("Cat", "Meow", "Caterwaul"),
    "chainsaw": ("Chainsaw",),
    "church_bells": ("Church bell", "Bell", "Change ringing (campanology)"),
    "clapping": ("Clapping", "Applause"),
    "clock_alarm": ("Alarm clock", "Alarm", "Beep, bleep"),
    "coughing": ("Cough",),
    "cow": ("Moo", "Cattle, bovinae"),
    "crow": ("Crow", "Caw"),
    "crying_baby": ("Baby cry, infant cry", "Crying, sobbing"),
    "dog": ("Dog", "Bark", "Bow-wow", "Yip"),
    "door_wood_knock": ("Knock",),
    "engine": ("Engine", "Idling", "Medium engine (mid frequency)", "Light engine (high frequency)"),
    "footsteps": ("Walk, footsteps",),
    "glass_breaking": ("Shatter", "Glass", "Breaking"),
    "keyboard_typing": ("Typing", "Computer keyboard"),
    "laughing": ("Laughter", "Belly laugh", "Giggle", "Chuckle, chortle", "Baby laughter"),
    "rooster": ("Crowing, cock-a-doodle-doo", "Chicken, rooster"),
    "sheep": ("Bleat", "Sheep", "Goat"),
    "siren": ("Siren", "Emergency vehicle", "Civil defense siren", "Ambulance (siren)"),
    "sneezing": ("Sneeze",),
    "vacuum_cleaner": ("Vacuum cleaner",),
}
"""AudioSet's classes that count as a kind of ESC-50"""


class Clip(NamedTuple):
    """A mixture and its sounds."""

    name: str
    audio: Waveform
    events: list[mixing.Event]


def mix(data: Path, work: Path, n_clips: int, seed: int) -> Iterator[Clip]:
    """Mixtures (10 s at 32 kHz); equal seeds give equal clips."""
    manifest = esc50.prepared(data / "esc50-16k", work)
    used = [labels[0] in CLASSES for labels in manifest.table["labels"]]
    chosen = Manifest(manifest.table[used].reset_index(drop=True), manifest.root)
    sounds = mixing.load_events(chosen, RATE, [])
    ambiences = [read_audio(path, RATE)[0] for path in find_audio(data / "backgrounds")]
    n_samples = round(SECONDS * RATE)
    for n in progress(range(n_clips), n_clips, "mixing"):
        rng = np.random.default_rng([seed, n])
        ambience = ambiences[rng.integers(len(ambiences))]
        bed = np.resize(np.roll(ambience, -int(rng.integers(len(ambience)))), n_samples)
        bed = mixing.scale_background(rng, bed)
        labels = rng.choice(list(sounds), size=1 + rng.integers(3), replace=False)
        events = [mixing.place_event(rng, str(label), sounds, n_samples, SNR_DB) for label in labels]
        yield Clip(f"{n:04d}", mixing.mix(events, bed, RATE), events)


def by_kind(events: pd.DataFrame) -> pd.DataFrame:
    """Events of accepted classes under the kind's name; those of one kind that overlap are one."""
    kinds = {label: kind for kind, labels in CLASSES.items() for label in labels}
    return events[events["label"].isin(kinds)].assign(label=events["label"].map(kinds))


def heard(found: pd.DataFrame, truth: pd.DataFrame) -> tuple[NDArray[np.float64], int]:
    """Onset error (s) of each true event that an event of its kind overlaps, and the number of the other events."""
    errors, false = [], 0
    for (file, kind), rows in truth.groupby(["file", "label"]):
        own = found[(found["file"] == file) & (found["label"] == kind)]
        for start, end in rows[["start", "end"]].itertuples(index=False):
            over = own[(own["start"] < end) & (own["end"] > start)]
            if len(over):
                errors.append(np.abs(over["start"] - start).min())
    for (file, kind), rows in found.groupby(["file", "label"]):
        own = truth[(truth["file"] == file) & (truth["label"] == kind)]
        for start, end in rows[["start", "end"]].itertuples(index=False):
            false += not ((own["start"] < end) & (own["end"] > start)).any()
    return np.array(errors), false


def onset_f1(found: pd.DataFrame, truth: pd.DataFrame, collar: float = 0.2) -> float:
    """F1 (micro) of onsets within a collar of seconds, matched one to one in order of time."""
    hits = 0
    for (file, kind), rows in truth.groupby(["file", "label"]):
        own = sorted(found.loc[(found["file"] == file) & (found["label"] == kind), "start"])
        for start in sorted(rows["start"]):
            near = [n for n, one in enumerate(own) if abs(one - start) <= collar]
            if near:
                own.pop(near[0])
                hits += 1
    return 2 * hits / (len(found) + len(truth))


def measure(model: str, clips: Sequence[Clip]) -> dict[str, float]:
    """Figures of a model at its defaults, and PSDS of its scores."""
    detector = Detector.from_pretrained(model)
    columns = {kind: [detector.model.labels.index(one) for one in labels] for kind, labels in CLASSES.items()}
    tables, frames, references, seconds = [], {}, {}, {}
    for clip in progress(clips, len(clips), run_name(model)):
        audio = resample(clip.audio, RATE, detector.model.sample_rate)
        tables.append(detector.detect_array(audio, detector.model.sample_rate).events.assign(file=clip.name))
        (scores,) = detector.score([Window(audio)])
        kinds = np.stack([scores.probs[:, which].max(1) for which in columns.values()], axis=1)
        times = np.stack([scores.edges[:-1], scores.edges[1:]], axis=1)
        frames[clip.name], seconds[clip.name] = score_frames(kinds, times), SECONDS
        rows = [(e.label, e.onset / RATE, (e.onset + len(e.audio)) / RATE) for e in clip.events]
        own = pd.DataFrame(rows, columns=["label", "onset", "offset"])
        own["label"] = [str(list(CLASSES).index(label)) for label in own["label"]]
        references[clip.name] = merge_events(own)
    truth = pd.DataFrame(
        [
            (file, list(CLASSES)[int(label)], onset, offset)
            for file, rows in references.items()
            for onset, offset, label in rows
        ],
        columns=["file", "label", "start", "end"],
    )
    found = by_kind(pd.concat(tables, ignore_index=True))
    errors, false = heard(found, truth)
    f1 = evaluate_events(found, truth.assign(score=1.0), seconds, labels=list(CLASSES))
    psds = psds_scores(ScoredClips(frames, references, seconds))
    assert psds is not None
    return {
        "heard (%)": 100 * len(errors) / len(truth),
        "onset F1": onset_f1(found, truth),
        "event F1": f1.event.micro.f1,
        "median onset error (s)": float(np.median(errors)) if len(errors) else float("nan"),
        "false alarms per hour": 3600 * false / sum(seconds.values()),
        "PSDS 1": psds[0].scenario1,
        "PSDS 2": psds[0].scenario2,
    }


@command("events")
def main(
    data: Annotated[Path, "folder that holds esc50-16k/ and backgrounds/"],
    model: Annotated[Sequence[str], "models, by name or path"],
    clips: Annotated[int, "number of mixtures"] = 240,
    seed: Annotated[int, "of the mixtures"] = 0,
    work: Annotated[Path, "folder for the manifest"] = Path("runs/events"),
) -> Iterator[Row]:
    """Measure what detectors hear at their defaults, and when."""
    mixtures = list(mix(data, work, clips, seed))
    count = sum(len(clip.events) for clip in mixtures)
    about = f"{count} sounds of {len(CLASSES)} kinds of ESC-50 in {clips} clips of {SECONDS:g} s, seed {seed}"
    for one in model:
        row = {"what": "events at the defaults", "system": run_name(one), "data": about}
        yield from ({**row, "metric": metric, "value": value} for metric, value in measure(one, mixtures).items())


if __name__ == "__main__":
    raise SystemExit(main())
