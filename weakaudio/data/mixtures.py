"""Random mixtures of recordings: training audio for distillation, without labels or with a target over time.

The mixer knows when each sound begins and ends, and a teacher knows what a sound is when it hears it alone. Together
they give strong labels for nothing (`SoundTargets`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_closing
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from weakaudio.audio import Waveform
from weakaudio.data.corpus import Corpus
from weakaudio.data.store import ClipStore
from weakaudio.errors import ProtocolError, StoreError

CHUNK_SECONDS = 5.0
"""length of the excerpts of a sound that have a target of their own"""

_SOUNDS = (0.45, 0.3, 0.15, 0.1)  # probabilities of 1, 2, 3 and 4 sounds in a mixture
_SPEED = 0.4  # largest absolute log of the speed factor, applied to half of the sounds
_REPEATED = 0.3  # probability that a sound is repeated to fill the mixture
_BELOW_DB = 20.0  # largest attenuation of a sound
_COLOURED, _COLOUR_DB = 0.5, 8.0  # probability of a random equaliser, and standard deviation of its gains
_LOW_PASSED, _LOWEST_HZ = 0.3, 2000.0  # probability of a low-pass filter, and its lowest cut-off frequency
_ROOM, _ROOM_SECONDS = 0.15, (0.1, 0.8)  # probability of reverberation, and range of its RT60
_PEAK_DB = 10.0  # standard deviation of the peak level, below full scale
_AUDIBLE_DB, _FLOOR_DB = 35.0, -90.0  # a sound is audible this far below its peak, and above this level (full scale)
_GAP = 0.3  # seconds; shorter pauses belong to a sound


class SoundTargets:
    """Class probabilities of the sounds of a store, each heard alone (`weakaudio.training.write_sound_targets`).

    Parameters
    ----------
    path
        HDF5: `paths` (clips,), `first` (clips + 1,), the row of each clip's first excerpt of 5 s, and `probs`
        (rows, C); attribute `labels` (JSON).
    store
        The store that it was made of.

    Raises
    ------
    StoreError
        No such file, or it is damaged or lacks a clip of the store.
    """

    def __init__(self, path: str | Path, store: ClipStore) -> None:
        try:
            with h5py.File(path) as file:
                row = {key.decode(): n for n, key in enumerate(file["paths"][:])}
                first, self.probs = file["first"][:], file["probs"][:]
                self.labels: list[str] = json.loads(file.attrs["labels"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{path}: no targets of sounds ({error}); make them again") from error
        missing = [key for key in store.keys if key not in row]
        if missing:
            raise StoreError(f"{path}: {len(missing)} clips are missing, the first: {missing[0]}; make it again")
        self._rows = [(int(first[row[key]]), int(first[row[key] + 1])) for key in store.keys]
        self._chunk = round(CHUNK_SECONDS * store.sample_rate)

    def __call__(self, clip: int, start: int, end: int) -> NDArray[np.float32]:
        """(C,) greatest probabilities in the excerpts that samples `start` to `end` of a clip touch."""
        first, last = self._rows[clip]
        rows = slice(first + start // self._chunk, min(first + -(-end // self._chunk), last))
        probs: NDArray[np.float32] = self.probs[rows].max(0).astype(np.float32)
        return probs


class _Sound(NamedTuple):
    """A sound in its place in a mixture."""

    audio: Waveform
    """(N,), with a peak of at most full scale"""
    store: int
    clip: int
    start: int
    """the samples of the clip that are heard: the first, and the one after the last"""
    end: int


class Mixtures(Dataset[Any]):
    """Dataset of mixtures; item n is (N,) float32 and depends only on the seed and n.

    With `targets`, an item is a pair: the mixture, and a target (R, C) float32 over time. A sound's class
    probabilities hold where it is audible, also under what masks it; of several sounds, 1 - prod(1 - p).

    One to four sounds are drawn, cropped or placed in silence, at random speeds and levels; the mixture may be
    filtered and reverberated. A hundred minutes of recordings thus give practically unlimited training audio.

    Parameters
    ----------
    corpora
        Folders of prepared corpora with one sample rate, and the relative frequency of each.
    seconds
        Length of a mixture.
    size
        Number of mixtures.
    seed
        Seed of all draws.
    where
        Column values that select the clips of each corpus.
    targets
        A file of `SoundTargets` for each corpus, in their order.
    times
        (R, 2) start and end in seconds of the steps of a target (`Model.score_times`).

    Raises
    ------
    ProtocolError
        No corpus, corpora of different rates, or targets of different classes.
    ManifestError, StoreError
        A folder is not a prepared corpus, or has no selected clip.
    """

    def __init__(
        self,
        corpora: Mapping[str, float],
        seconds: float,
        size: int,
        seed: int = 0,
        where: Mapping[str, object] | None = None,
        targets: Sequence[str | Path] | None = None,
        times: NDArray[np.float64] | None = None,
    ) -> None:
        opened = [Corpus(folder) for folder in corpora]
        rates = {corpus.store.sample_rate for corpus in opened}
        if len(rates) != 1:
            raise ProtocolError(f"mixtures need corpora of one sample rate, got {sorted(rates)} Hz")
        self.sample_rate = rates.pop()
        self.stores = [corpus.store for corpus in opened]
        self.clips = [corpus.select(dict(where or {})) for corpus in opened]
        self.probabilities = [
            _balance_folders(store.keys, clips) for store, clips in zip(self.stores, self.clips, strict=True)
        ]
        weights = np.array(list(corpora.values()), dtype=float)
        self.weights = weights / weights.sum()
        self.n_samples = round(seconds * self.sample_rate)
        self.size, self.seed = size, seed
        self.targets: list[SoundTargets] | None = None
        if targets is not None and times is not None:
            self.targets = [SoundTargets(path, store) for path, store in zip(targets, self.stores, strict=True)]
            self._steps = np.rint(times * self.sample_rate).astype(np.int64).clip(0, self.n_samples)
            if any(one.labels != self.targets[0].labels for one in self.targets):
                raise ProtocolError("mixtures need targets of the same classes")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Waveform | tuple[Waveform, NDArray[np.float32]]:
        if not 0 <= index < self.size:
            raise IndexError(f"mixture {index} of {self.size}")
        rng = np.random.default_rng([self.seed, index])
        sounds = [self._sound(rng) for _ in range(1 + rng.choice(len(_SOUNDS), p=_SOUNDS))]
        response = draw_response(rng, self.n_samples, self.sample_rate)
        heard = [apply_response(sound.audio, response) for sound in sounds]
        mixture: Waveform = np.sum(heard, axis=0, dtype=np.float32)
        peak = float(10 ** (-abs(rng.normal(0, _PEAK_DB)) / 20))
        gain = np.float32(peak / max(float(np.abs(mixture).max()), 1e-6))
        mixture = (mixture * gain).astype(np.float32)
        if self.targets is None:
            return mixture
        absent = np.ones((len(self._steps), len(self.targets[0].labels)), np.float32)
        for sound, audio in zip(sounds, heard, strict=True):
            probs = self.targets[sound.store](sound.clip, sound.start, sound.end)
            absent[audible(audio * gain, self._steps, self.sample_rate)] *= 1 - probs
        return mixture, 1 - absent

    def _sound(self, rng: np.random.Generator) -> _Sound:
        which = rng.choice(len(self.stores), p=self.weights)
        clip = int(rng.choice(self.clips[which], p=self.probabilities[which]))
        audio, start = self.stores[which].audio(clip), 0
        speed = np.exp(rng.uniform(-_SPEED, _SPEED)) if rng.random() < 0.5 else 1.0
        needed = int(np.ceil(self.n_samples * speed))
        if len(audio) > needed:
            start = int(rng.integers(len(audio) - needed + 1))
            audio = audio[start : start + needed]
        end = start + len(audio)
        if speed != 1.0:
            audio = np.interp(np.arange(0, len(audio), speed), np.arange(len(audio)), audio).astype(np.float32)
        audio = _place(audio[: self.n_samples], self.n_samples, rng)
        loudest = max(float(np.abs(audio).max()), 1e-4)
        audio = audio * np.float32(10 ** (-rng.uniform(0, _BELOW_DB) / 20) / loudest)
        return _Sound(audio, which, clip, start, end)


def audible(audio: Waveform, steps: NDArray[np.int64], sample_rate: int) -> NDArray[np.bool_]:
    """Whether a sound (N,) is audible in each step (R, 2), in samples: within 35 dB of its loudest step, above -90 dB
    of full scale, or in a pause of less than 0.3 s."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    length = np.maximum(steps[:, 1] - steps[:, 0], 1)
    level = 10 * np.log10((energy[steps[:, 1]] - energy[steps[:, 0]]).clip(0) / length + 1e-20)
    loud = level > max(float(level.max()) - _AUDIBLE_DB, _FLOOR_DB)
    width = int(_GAP * sample_rate / max(int(np.median(length)), 1)) + 1
    padded = binary_closing(np.pad(loud, width), np.ones(width))[width:-width]
    heard: NDArray[np.bool_] = padded & (steps[:, 1] > steps[:, 0])
    return heard


def _balance_folders(keys: Sequence[str], clips: Sequence[int]) -> NDArray[np.float64]:
    """Probability of each clip; a folder of n clips is drawn in proportion to sqrt(n), so that large ones do not
    dominate."""
    folders = [keys[n].rpartition("/")[0] for n in clips]
    counts = Counter(folders)
    weights = np.array([counts[folder] ** -0.5 for folder in folders])
    return weights / weights.sum()


def _place(audio: Waveform, n_samples: int, rng: np.random.Generator) -> Waveform:
    """Place the sound at a random position in silence, once or repeatedly."""
    if rng.random() < _REPEATED:
        pause = np.zeros(rng.integers(len(audio) + 1), dtype=np.float32)
        audio = np.resize(np.concatenate([audio, pause]), n_samples)
        return np.roll(audio, rng.integers(n_samples))
    placed = np.zeros(n_samples, dtype=np.float32)
    start = rng.integers(n_samples - len(audio) + 1)
    placed[start : start + len(audio)] = audio
    return placed


def draw_response(rng: np.random.Generator, n_samples: int, sample_rate: int) -> NDArray[np.complex64] | None:
    """Frequency response of a microphone, codec and room; None where they change nothing.

    For signals of `n_samples`, padded to twice their length, so that the room's tail does not wrap around.
    """
    coloured, low_passed, room = rng.random(3) < (_COLOURED, _LOW_PASSED, _ROOM)
    if not (coloured or low_passed or room):
        return None
    size = 2 * n_samples
    hertz = np.linspace(0, sample_rate / 2, size // 2 + 1)
    response = np.ones(len(hertz), np.complex64)
    if coloured:
        points = np.geomspace(50, sample_rate / 2, 6)
        gain_db = np.interp(np.log(hertz + 1), np.log(points + 1), rng.normal(0, _COLOUR_DB, len(points)))
        response *= (10 ** (gain_db / 20)).astype(np.float32)
    if low_passed:
        edge = np.exp(rng.uniform(np.log(_LOWEST_HZ), np.log(sample_rate / 2)))
        response *= (hertz < edge).astype(np.float32)
    if room:
        seconds = rng.uniform(*_ROOM_SECONDS)
        tail = rng.standard_normal(min(int(seconds * sample_rate), n_samples)).astype(np.float32)
        tail *= 10 ** (-3 * np.arange(len(tail), dtype=np.float32) / len(tail))
        tail /= np.sqrt(np.square(tail).sum())
        tail[0] += 1.0  # the direct sound
        response *= scipy.fft.rfft(tail, size)
    return response


def apply_response(audio: Waveform, response: NDArray[np.complex64] | None) -> Waveform:
    """Filter (N,) audio by a response of `draw_response`."""
    if response is None:
        return audio
    size = 2 * len(audio)
    filtered: Waveform = scipy.fft.irfft(scipy.fft.rfft(audio, size) * response, size)[: len(audio)].astype(
        np.float32
    )
    return filtered


class _OneEpoch(Sampler[int]):
    """Indices of one epoch in order; Lightning sets the epoch."""

    def __init__(self, epoch_size: int) -> None:
        self.epoch_size, self.epoch = epoch_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.epoch_size, (self.epoch + 1) * self.epoch_size))


def mixture_loader(
    mixtures: Mixtures, batch_size: int, epoch_steps: int | None = None, workers: int = 1
) -> DataLoader[Any]:
    """Batches (B, N), with targets pairs of (B, N) and (B, R, C); new ones in each epoch of `epoch_steps` steps, None
    for all mixtures in every epoch."""
    return DataLoader(
        mixtures,
        batch_size=batch_size,
        sampler=None if epoch_steps is None else _OneEpoch(batch_size * epoch_steps),
        collate_fn=default_collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
