"""Endless random mixtures of recordings, for networks that learn from another network and need no labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from weakaudio.data.corpus import Corpus
from weakaudio.errors import ProtocolError

Audio = NDArray[np.float32]

_SOUNDS = (0.45, 0.3, 0.15, 0.1)  # chances of 1, 2, 3, 4 sounds in a mixture
_SPEED = 0.4  # a sound is played faster or slower by up to exp of this, one time in two
_REPEATED = 0.3  # chance that a sound shorter than the mixture fills it, again and again
_BELOW_DB = 20.0  # most by which a sound is quieter than it could be
_COLOURED, _COLOUR_DB = 0.5, 8.0  # chance of a filter, and standard deviation of its gain at some frequencies
_LOW_PASSED, _LOWEST_HZ = 0.3, 2000.0  # chance that the filter ends at a frequency, and the lowest of these
_ROOM, _ROOM_SECONDS = 0.15, (0.1, 0.8)  # chance of reverberation, and when it is 60 dB down
_PEAK_DB = 10.0  # scale of how far the peak is under full scale


class Mixtures(Dataset[Audio]):
    """Item n is a mixture (N,) float32 that hangs on the seed and n alone.

    One to four sounds are drawn, cut or placed, at random speeds and levels; the mixture may be filtered and get a
    room. So a hundred minutes of recordings become as much audio as one has time to hear.

    Parameters
    ----------
    corpora
        Folders of prepared corpora, all at one rate, and how often each is drawn from.
    seconds
        Length of a mixture.
    size
        How many mixtures there are.
    seed
        Of all draws.
    where
        Column values that select the clips of each corpus.

    Raises
    ------
    ProtocolError
        No corpus, or corpora of different rates.
    ManifestError, StoreError
        A folder is no prepared corpus, or nothing in it is selected.
    """

    def __init__(
        self,
        corpora: Mapping[str, float],
        seconds: float,
        size: int,
        seed: int = 0,
        where: Mapping[str, object] | None = None,
    ) -> None:
        opened = [Corpus(folder) for folder in corpora]
        rates = {corpus.store.sample_rate for corpus in opened}
        if len(rates) != 1:
            raise ProtocolError(f"mixtures need corpora of one sample rate, got {sorted(rates)} Hz")
        self.sample_rate = rates.pop()
        self.stores = [corpus.store for corpus in opened]
        self.clips = [corpus.select(dict(where or {})) for corpus in opened]
        self.chances = [
            _of_folders(corpus.store.keys, clips) for corpus, clips in zip(opened, self.clips, strict=True)
        ]
        weights = np.array(list(corpora.values()), dtype=float)
        self.weights = weights / weights.sum()
        self.n_samples = round(seconds * self.sample_rate)
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Audio:
        if not 0 <= index < self.size:
            raise IndexError(f"mixture {index} of {self.size}")
        rng = np.random.default_rng([self.seed, index])
        mixture = np.zeros(self.n_samples, dtype=np.float32)
        for _ in range(1 + rng.choice(len(_SOUNDS), p=_SOUNDS)):
            mixture += self._sound(rng)
        filtered = _filter(mixture, self.sample_rate, rng)
        peak = np.float32(10 ** (-abs(rng.normal(0, _PEAK_DB)) / 20))
        return filtered * (peak / max(float(np.abs(filtered).max()), 1e-6))

    def _sound(self, rng: np.random.Generator) -> Audio:
        """(N,), as loud as full scale at most."""
        which = rng.choice(len(self.stores), p=self.weights)
        audio = self.stores[which].audio(rng.choice(self.clips[which], p=self.chances[which]))
        speed = np.exp(rng.uniform(-_SPEED, _SPEED)) if rng.random() < 0.5 else 1.0
        needed = int(np.ceil(self.n_samples * speed))
        if len(audio) > needed:
            start = rng.integers(len(audio) - needed + 1)
            audio = audio[start : start + needed]
        if speed != 1.0:
            audio = np.interp(np.arange(0, len(audio), speed), np.arange(len(audio)), audio).astype(np.float32)
        audio = _place(audio[: self.n_samples], self.n_samples, rng)
        loudest = max(float(np.abs(audio).max()), 1e-4)
        return audio * np.float32(10 ** (-rng.uniform(0, _BELOW_DB) / 20) / loudest)


def _of_folders(keys: Sequence[str], clips: Sequence[int]) -> NDArray[np.float64]:
    """Chance of each clip: a folder of n clips is drawn from in proportion to the root of n, so that many takes of
    one instrument do not drown the rest."""
    folders = [keys[n].rpartition("/")[0] for n in clips]
    counts = Counter(folders)
    chances = np.array([counts[folder] ** -0.5 for folder in folders])
    return chances / chances.sum()


def _place(audio: Audio, n_samples: int, rng: np.random.Generator) -> Audio:
    """The sound somewhere in a stretch of silence, once or repeated."""
    if rng.random() < _REPEATED:
        pause = np.zeros(rng.integers(len(audio) + 1), dtype=np.float32)
        audio = np.resize(np.concatenate([audio, pause]), n_samples)
        return np.roll(audio, rng.integers(n_samples))
    placed = np.zeros(n_samples, dtype=np.float32)
    start = rng.integers(n_samples - len(audio) + 1)
    placed[start : start + len(audio)] = audio
    return placed


def _filter(audio: Audio, sample_rate: int, rng: np.random.Generator) -> Audio:
    """A microphone's or a codec's colour, and a room; by way of the spectrum, so a room's tail wraps around."""
    coloured, low_passed, room = rng.random(3) < (_COLOURED, _LOW_PASSED, _ROOM)
    if not (coloured or low_passed or room):
        return audio
    spectrum = scipy.fft.rfft(audio)
    hertz = np.linspace(0, sample_rate / 2, len(spectrum))
    if coloured:
        points = np.geomspace(50, sample_rate / 2, 6)
        gain_db = np.interp(np.log(hertz + 1), np.log(points + 1), rng.normal(0, _COLOUR_DB, len(points)))
        spectrum *= (10 ** (gain_db / 20)).astype(np.float32)
    if low_passed:
        edge = np.exp(rng.uniform(np.log(_LOWEST_HZ), np.log(sample_rate / 2)))
        spectrum *= (hertz < edge).astype(np.float32)
    if room:
        seconds = rng.uniform(*_ROOM_SECONDS)
        tail = rng.standard_normal(min(int(seconds * sample_rate), len(audio))).astype(np.float32)
        tail *= 10 ** (-3 * np.arange(len(tail), dtype=np.float32) / len(tail))
        tail /= np.sqrt(np.square(tail).sum())
        tail[0] += 1.0  # the direct sound
        spectrum *= scipy.fft.rfft(tail, len(audio))
    filtered: Audio = scipy.fft.irfft(spectrum, len(audio)).astype(np.float32)
    return filtered


class _OneEpoch(Sampler[int]):
    """Indices of an epoch, in order; Lightning says which epoch it is."""

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
) -> DataLoader[torch.Tensor]:
    """Batches (B, N) of an epoch of `epoch_steps` steps, each with mixtures of its own; None: all, each time."""
    return DataLoader(
        mixtures,  # type: ignore[arg-type]  # typed by its items, not by what is made of them
        batch_size=batch_size,
        sampler=None if epoch_steps is None else _OneEpoch(batch_size * epoch_steps),
        collate_fn=_stack,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _stack(items: list[Audio]) -> torch.Tensor:
    return torch.from_numpy(np.stack(items))
