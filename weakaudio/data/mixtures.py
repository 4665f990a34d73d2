"""Random mixtures of recordings: unlabelled training audio for distillation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from weakaudio.audio import Waveform
from weakaudio.data.corpus import Corpus
from weakaudio.errors import ProtocolError

_SOUNDS = (0.45, 0.3, 0.15, 0.1)  # probabilities of 1, 2, 3 and 4 sounds in a mixture
_SPEED = 0.4  # largest absolute log of the speed factor, applied to half of the sounds
_REPEATED = 0.3  # probability that a sound is repeated to fill the mixture
_BELOW_DB = 20.0  # largest attenuation of a sound
_COLOURED, _COLOUR_DB = 0.5, 8.0  # probability of a random equaliser, and standard deviation of its gains
_LOW_PASSED, _LOWEST_HZ = 0.3, 2000.0  # probability of a low-pass filter, and its lowest cut-off frequency
_ROOM, _ROOM_SECONDS = 0.15, (0.1, 0.8)  # probability of reverberation, and range of its RT60
_PEAK_DB = 10.0  # standard deviation of the peak level, below full scale


class Mixtures(Dataset[Waveform]):
    """Dataset of mixtures; item n is (N,) float32 and depends only on the seed and n.

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

    Raises
    ------
    ProtocolError
        No corpus, or corpora of different rates.
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

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Waveform:
        if not 0 <= index < self.size:
            raise IndexError(f"mixture {index} of {self.size}")
        rng = np.random.default_rng([self.seed, index])
        mixture = np.zeros(self.n_samples, dtype=np.float32)
        for _ in range(1 + rng.choice(len(_SOUNDS), p=_SOUNDS)):
            mixture += self._sound(rng)
        filtered = _filter(mixture, self.sample_rate, rng)
        peak = np.float32(10 ** (-abs(rng.normal(0, _PEAK_DB)) / 20))
        return filtered * (peak / max(float(np.abs(filtered).max()), 1e-6))

    def _sound(self, rng: np.random.Generator) -> Waveform:
        """(N,) one sound with a peak of at most full scale."""
        which = rng.choice(len(self.stores), p=self.weights)
        audio = self.stores[which].audio(rng.choice(self.clips[which], p=self.probabilities[which]))
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


def _filter(audio: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Colour as a microphone or codec would, and reverberate; by circular convolution, so the tail wraps around."""
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
    filtered: Waveform = scipy.fft.irfft(spectrum, len(audio)).astype(np.float32)
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
) -> DataLoader[torch.Tensor]:
    """Batches (B, N), new ones in each epoch of `epoch_steps` steps; None for all mixtures in every epoch."""
    return DataLoader(
        mixtures,  # type: ignore[arg-type]  # a DataLoader is typed by its items, not by its batches
        batch_size=batch_size,
        sampler=None if epoch_steps is None else _OneEpoch(batch_size * epoch_steps),
        collate_fn=_stack,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _stack(items: list[Waveform]) -> torch.Tensor:
    return torch.from_numpy(np.stack(items))
