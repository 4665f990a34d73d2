"""Data augmentation: effects on waveforms (audiomentations), masks and mixup on batches.

All randomness comes from seeds and generators that the caller passes, never from global state, so that a resumed run
draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import audiomentations
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakaudio.audio import Waveform
from weakaudio.audio.geometry import length_mask
from weakaudio.audio.io import find_audio

_CHANCE = 0.5  # of each effect, per clip
_SNR_DB = (5.0, 30.0)  # of a clip over an added background, drawn uniformly


@dataclass
class Effects:
    """Effects on a clip's waveform, each applied with probability 1/2; all are off by default.

    Parameters
    ----------
    gain_db
        Largest gain or attenuation in dB.
    shift
        Largest circular shift, as a fraction of the clip.
    polarity
        Invert the polarity.
    impulse_responses
        Folder of room impulse responses, one of which is convolved with the clip.
    backgrounds
        Folder of recordings, one of which is added 5 to 30 dB below the clip.
    """

    gain_db: float = 0.0
    shift: float = 0.0
    polarity: bool = False
    impulse_responses: str | None = None
    backgrounds: str | None = None


class WaveformAugmenter:
    """Applies effects to clips, reproducibly for the same clip, seed and key.

    Raises
    ------
    AudioError
        A folder contains no audio.
    """

    def __init__(self, effects: Effects, sample_rate: int, seed: int = 0) -> None:
        self.sample_rate, self.seed = sample_rate, seed
        chosen: list[Any] = []
        if effects.gain_db:
            chosen.append(audiomentations.Gain(-effects.gain_db, effects.gain_db, p=_CHANCE))
        if effects.shift:
            chosen.append(audiomentations.Shift(-effects.shift, effects.shift, rollover=True, p=_CHANCE))
        if effects.polarity:
            chosen.append(audiomentations.PolarityInversion(p=_CHANCE))
        if effects.impulse_responses:
            rooms = [str(path) for path in find_audio(effects.impulse_responses)]
            chosen.append(audiomentations.ApplyImpulseResponse(rooms, p=_CHANCE, leave_length_unchanged=True))
        if effects.backgrounds:
            beds = [str(path) for path in find_audio(effects.backgrounds)]
            chosen.append(audiomentations.AddBackgroundNoise(beds, *_SNR_DB, p=_CHANCE))
        self._effects = audiomentations.Compose(chosen)

    def __call__(self, audio: Waveform, *key: int) -> Waveform:
        """Augment audio (N,), keeping its length; `key` identifies the draw, e.g. its epoch and its number there."""
        with _seeded(self.seed, *key), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*had to be resampled")  # expected, and raised once per file
            changed: Waveform = self._effects(audio, self.sample_rate)
        return np.ascontiguousarray(changed[: len(audio)], dtype=np.float32)


def mask_logmel(logmel: Tensor, n_frames: Tensor, time_mask: int, mel_mask: int, rng: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779) without warping: mask one block of frames and one of mels in each clip.

    Unlike torchaudio's, it does not use global random state and ignores padding.

    Parameters
    ----------
    logmel
        (B, T, F)
    n_frames
        (B,) frames of each clip, within which the masks lie.
    time_mask, mel_mask
        Longest mask in frames and in mels, limited to half of the clip's frames and half of the mels; 0 for none.
    rng
        Draws lengths and positions.

    Returns
    -------
    (B, T, F), with the mean of the clip in place of masked values.
    """
    inside = length_mask(n_frames, logmel.shape[1])[:, :, None]
    mean = (logmel * inside).sum((1, 2)) / (n_frames * logmel.shape[2])
    frames = _random_block(n_frames.cpu().numpy(), logmel.shape[1], time_mask, rng)[:, :, None]
    mels = _random_block(np.full(len(logmel), logmel.shape[2]), logmel.shape[2], mel_mask, rng)[:, None, :]
    masked = torch.from_numpy(frames | mels).to(logmel.device)
    return torch.where(masked & inside, mean[:, None, None], logmel)


def mixup(
    values: Tensor, lengths: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup (arXiv 1710.09412): mix each clip with another of its batch, with a weight drawn from Beta(alpha, alpha).

    After the end of the shorter clip the longer one continues unmixed.

    Parameters
    ----------
    values
        (B, N) waveforms or (B, T, F) log-mels, with padding after the end of shorter clips.
    lengths
        (B,) samples or frames of each clip.
    targets
        (B, C) labels, mixed with the same weights.
    alpha
        Above 0; the larger, the closer the weights are to 1/2.
    rng
        Draws partners and weights.

    Returns
    -------
    values, lengths, targets
        Mixed; a mixture is as long as the longer of its two clips.
    """
    partner = torch.from_numpy(rng.permutation(len(values))).to(values.device)
    weight = torch.from_numpy(rng.beta(alpha, alpha, len(values)).astype(np.float32)).to(values.device)[:, None]
    inside = length_mask(lengths, values.shape[1])
    share = torch.where(inside & inside[partner], weight, inside.float())
    share = share.view(*share.shape, *[1] * (values.ndim - 2))
    mixed = share * values + (1 - share) * values[partner]
    return mixed, torch.maximum(lengths, lengths[partner]), weight * targets + (1 - weight) * targets[partner]


def _random_block(
    sizes: NDArray[np.integer], width: int, longest: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(B, width) mask with one block in each row: up to `longest` positions, at most half of the size of the row."""
    length = rng.integers(0, np.minimum(longest, sizes // 2) + 1)
    begin = rng.integers(0, sizes - length + 1)
    place = np.arange(width)
    return (place >= begin[:, None]) & (place < (begin + length)[:, None])


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the global random states, from which audiomentations draws, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (audiomentations uses this state)
    words = np.random.SeedSequence(key).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
