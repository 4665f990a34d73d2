"""Mixing of sound events over backgrounds, shared by all synthetic corpora."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakaudio.audio import Waveform
from weakaudio.audio.io import read_audio
from weakaudio.data.manifest import Manifest
from weakaudio.errors import AudioError, DataPrepError
from weakaudio.files import atomic_write
from weakaudio.progress import progress

Events = dict[str, list[tuple[str, Waveform]]]  # name and trimmed audio of each event, by class

MORE_OF_A_CLASS = 0.3  # probability of another event of the same class
_BACKGROUND_DB = (-45.0, -30.0)  # range of the background's RMS level below full scale
SETTINGS = "settings.json"  # settings that a corpus was mixed with
_FADE = 0.01  # seconds, at the start and end of an event
_ACTIVE_DB = 40.0  # sources are trimmed where they are this far below their loudest 20 ms


@dataclass
class Event:
    """An event placed in a clip; onset and length in samples."""

    label: str
    source: str
    audio: Waveform
    onset: int
    snr_db: float


def refuse_other_settings(path: Path, settings: dict[str, object]) -> None:
    """Keep the settings of a corpus beside it: it can only be resumed with the same ones, as its clips are kept.

    Raises
    ------
    DataPrepError
        The folder was started with other settings.
    """
    text = json.dumps(settings, indent=1, default=list) + "\n"
    if not path.is_file():
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise DataPrepError(f"{path.parent}: made with other settings ({path.name}); delete it or use another")


def load_events(manifest: Manifest, sample_rate: int, broken: list[tuple[str, str]]) -> Events:
    """Read and trim events, by class; appends those that cannot be read to `broken`, with the reason.

    Raises
    ------
    DataPrepError
        A clip without exactly one label.
    """
    events: Events = {}
    rows = list(zip(manifest.table["path"], manifest.paths, manifest.table["labels"], strict=True))
    for name, path, labels in progress(rows, len(rows), "reading events"):
        if len(labels) != 1:
            raise DataPrepError(f"{path}: has labels {labels}; expected exactly one")
        try:
            audio = _trim(read_audio(path, sample_rate)[0], sample_rate)
        except AudioError as error:
            broken.append((name, str(error)))
            continue
        events.setdefault(labels[0], []).append((name, audio))
    return dict(sorted(events.items()))


def place_event(
    rng: np.random.Generator, label: str, events: Events, n_samples: int, snr_db: tuple[float, float]
) -> Event:
    """Draw an event of a class, its position in a clip of `n_samples` (cropped if longer) and its level."""
    name, audio = events[label][rng.integers(len(events[label]))]
    if len(audio) > n_samples:
        begin = rng.integers(len(audio) - n_samples + 1)
        audio = audio[begin : begin + n_samples]
    onset = int(rng.integers(n_samples - len(audio) + 1))
    return Event(label, Path(name).name, audio, onset, float(rng.uniform(*snr_db)))


def scale_background(rng: np.random.Generator, audio: Waveform) -> Waveform:
    """Scale a background to a random level, drawn uniformly in dB."""
    level = 10 ** (rng.uniform(*_BACKGROUND_DB) / 20)
    return audio * np.float32(level / (_rms(audio) + 1e-9))


def mix(events: list[Event], bed: Waveform, sample_rate: int) -> Waveform:
    """Mix events over the background at their signal-to-noise ratios; scaled down if the mixture would clip."""
    mixture = bed.copy()
    level = _rms(bed)
    for event in events:
        gain = level * 10 ** (event.snr_db / 20) / (_rms(event.audio) + 1e-9)
        mixture[event.onset : event.onset + len(event.audio)] += np.float32(gain) * _fade(event.audio, sample_rate)
    peak = float(np.abs(mixture).max())
    return mixture * np.float32(0.99 / peak) if peak > 0.99 else mixture


def _fade(audio: Waveform, sample_rate: int) -> Waveform:
    ramp = np.ones(len(audio), dtype=np.float32)
    size = min(int(_FADE * sample_rate), len(audio) // 2)
    if size:
        slope = np.linspace(0, 1, size, dtype=np.float32)
        ramp[:size], ramp[-size:] = slope, slope[::-1]
    return audio * ramp


def _rms(audio: Waveform) -> float:
    """Root mean square level."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def _seconds(samples: int, sample_rate: int) -> float:
    """Seconds rounded down to microseconds, so that no event ends after its clip."""
    return (samples * 1_000_000 // sample_rate) / 1_000_000


def truth(key: str, events: list[Event], sample_rate: int) -> list[dict[str, object]]:
    """Rows of events.csv for a clip."""
    return [
        {
            "path": key,
            "label": event.label,
            "onset": _seconds(event.onset, sample_rate),
            "offset": _seconds(event.onset + len(event.audio), sample_rate),
            "source": event.source,
            "snr_db": round(event.snr_db, 2),
        }
        for event in sorted(events, key=lambda event: (event.onset, event.label))
    ]


def _trim(audio: Waveform, sample_rate: int) -> Waveform:
    """Trim to the part between the first and the last 20 ms within 40 dB of the loudest 20 ms."""
    size = sample_rate // 50
    padded = np.pad(audio, (0, -len(audio) % size))
    power = np.square(padded.reshape(-1, size)).mean(1)
    active = np.flatnonzero(power >= power.max() * 10 ** (-_ACTIVE_DB / 10))
    return audio[active[0] * size : (active[-1] + 1) * size]
