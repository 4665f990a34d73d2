"""Synthesised sounds of twelve kinds, with random parameters for each sound.

They are test signals for tutorials and tests, which need any number of sounds without a download; they do not imitate
recordings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from weakaudio.audio import Waveform
from weakaudio.audio.io import write_wav
from weakaudio.progress import progress
from weakaudio_data_prep.summary import Summary, finish

Rng = np.random.Generator


def _time(seconds: float, rate: int) -> NDArray[np.float64]:
    return np.arange(max(int(seconds * rate), 1)) / rate


def _phase(frequency: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Phase in radians of a tone with a frequency (Hz) per sample."""
    return 2 * np.pi * np.cumsum(frequency) / rate


def _band(noise: NDArray[np.float64], low: float, high: float, rate: int) -> NDArray[np.float64]:
    low, high = min(low, 0.4 * rate), min(high, 0.49 * rate)
    filtered: NDArray[np.float64] = sosfilt(butter(2, [low, high], "band", fs=rate, output="sos"), noise)
    return filtered


def _repeat(
    rng: Rng, hit: Callable[[], NDArray[np.float64]], seconds: float, gap: tuple[float, float], rate: int
) -> NDArray[np.float64]:
    """Repeat a sound with jitter; `gap` is the range of the mean interval in seconds."""
    audio = np.zeros(int(seconds * rate))
    step, at = rng.uniform(*gap), 0.0
    while at < seconds - 0.05:
        sound = hit()[: len(audio) - int(at * rate)]
        audio[int(at * rate) : int(at * rate) + len(sound)] += sound
        at += step * rng.uniform(0.85, 1.15)
    return audio


def _beep(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    t, frequency, period = _time(seconds, rate), rng.uniform(1500, 3500), rng.uniform(0.2, 0.5)
    return np.sign(np.sin(2 * np.pi * frequency * t)) * (t % period < 0.5 * period)


def _bell(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    t, base = _time(seconds, rate), rng.uniform(300, 900)
    partials = (0.56, 0.92, 1.19, 1.71, 2.0, 2.74, 3.0, 3.76)  # of a bell, after Risset
    return sum(np.exp(-t * k * rng.uniform(1.0, 1.6)) * np.sin(2 * np.pi * base * k * t) / k for k in partials)  # type: ignore[return-value]


def _bird(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    def chirp() -> NDArray[np.float64]:
        t = _time(rng.uniform(0.06, 0.15), rate)
        start, rise = rng.uniform(2800, 4500), rng.uniform(1000, 2500) * rng.choice([-1, 1])
        return np.sin(_phase(start + rise * t / t[-1], rate)) * np.hanning(len(t))

    return _repeat(rng, chirp, seconds, (0.12, 0.3), rate)


def _buzzer(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    t, frequency = _time(seconds, rate), rng.uniform(180, 320)
    return 2 * (t * frequency % 1) - 1


def _clapping(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    def clap() -> NDArray[np.float64]:
        t = _time(0.08, rate)
        return _band(rng.standard_normal(len(t)), 800, 3000, rate) * np.exp(-t * 60)

    return _repeat(rng, clap, seconds, (0.06, 0.16), rate)


def _drip(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    def drop() -> NDArray[np.float64]:
        t = _time(0.12, rate)
        return np.sin(_phase(rng.uniform(600, 1200) * (1 + 6 * t), rate)) * np.exp(-t * 35)

    return _repeat(rng, drop, seconds, (0.35, 0.7), rate)


def _drum(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    base = rng.uniform(60, 110)

    def hit() -> NDArray[np.float64]:
        t = _time(0.3, rate)
        return np.sin(_phase(base * (1 + 1.5 * np.exp(-t * 30)), rate)) * np.exp(-t * 12)

    return _repeat(rng, hit, seconds, (0.25, 0.5), rate)


def _engine(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    t, base = _time(seconds, rate), rng.uniform(35, 80)
    phase = _phase(base * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * t)), rate)
    hum = sum(np.sin(k * phase + rng.uniform(0, 6)) / k**0.7 for k in range(1, 20))
    return hum + 0.5 * _band(rng.standard_normal(len(t)), 100, 800, rate)


def _knock(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    base = rng.uniform(250, 500)

    def hit() -> NDArray[np.float64]:
        t = _time(0.06, rate)
        wood = sum(np.sin(2 * np.pi * base * k * t) for k in (1.0, 2.3, 3.9))
        return wood * np.exp(-t * 70)

    return _repeat(rng, hit, seconds, (0.15, 0.3), rate)


def _siren(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    t = _time(seconds, rate)
    sweep = rng.uniform(700, 1000) + rng.uniform(250, 400) * np.sin(2 * np.pi * rng.uniform(0.4, 1.2) * t)
    phase = _phase(sweep, rate)
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)


def _steam(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    noise = rng.standard_normal(len(_time(seconds, rate)))
    return _band(noise, rng.uniform(3000, 4000), rng.uniform(6500, 7800), rate)


def _whistle(rng: Rng, seconds: float, rate: int) -> NDArray[np.float64]:
    t = _time(seconds, rate)
    vibrato = 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(5, 8) * t)
    return np.sin(_phase(rng.uniform(1100, 2000) * vibrato, rate)) + 0.05 * rng.standard_normal(len(t))


KINDS: dict[str, Callable[[Rng, float, int], NDArray[np.float64]]] = {
    function.__name__.removeprefix("_"): function
    for function in [_beep, _bell, _bird, _buzzer, _clapping, _drip, _drum, _engine, _knock, _siren, _steam, _whistle]
}


def synthesise(kind: str, rng: Rng, seconds: float, sample_rate: int) -> Waveform:
    """Synthesise a sound: (seconds * sample_rate,) float32 with peak 0.5."""
    audio = KINDS[kind](rng, seconds, sample_rate)
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


def background(rng: Rng, n_samples: int, sample_rate: int) -> Waveform:
    """Synthesise noise with a power spectrum of f^-a, a random in [0, 2]: (n_samples,) float32 with RMS 0.1."""
    frequencies = np.maximum(np.fft.rfftfreq(n_samples, 1 / sample_rate), 20.0)
    spectrum = np.fft.rfft(rng.standard_normal(n_samples)) * frequencies ** (-rng.uniform(0, 2) / 2)
    noise = np.fft.irfft(spectrum, n_samples)
    return (0.1 * noise / np.sqrt(np.mean(noise**2) + 1e-20)).astype(np.float32)


def prepare(
    out: str, per_class: int = 40, sample_rate: int = 16000, seconds: tuple[float, float] = (0.8, 2.5), seed: int = 0
) -> Summary:
    """Write a corpus of synthetic sounds: WAV files in a folder per kind, and a manifest with five folds.

    Parameters
    ----------
    out
        Folder of the corpus.
    per_class
        Number of sounds of each kind.
    sample_rate
        Hz
    seconds
        Range of the length of a sound.
    seed
        Equal seeds give equal bytes.
    """
    base = Path(out)
    jobs = [(kind, n) for kind in KINDS for n in range(per_class)]
    rows = []
    for kind, n in progress(jobs, len(jobs), "synthesising"):
        rng = np.random.default_rng([seed, list(KINDS).index(kind), n])
        key = f"{kind}/{n:04d}.wav"
        write_wav(base / key, synthesise(kind, rng, rng.uniform(*seconds), sample_rate), sample_rate)
        rows.append({"path": key, "labels": [kind], "fold": n % 5 + 1, "source": f"{kind}-{n}"})
    return finish("synthetic sounds", pd.DataFrame(rows), base, None)
