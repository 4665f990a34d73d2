"""Training clips as they could also have sounded: on waveforms, by audiomentations; on batches, masks and mixup.

Every random number is drawn from what the caller hands over, never from a global state, so that a run that was killed
draws on as if it had not been.
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

from weakaudio.audio.geometry import length_mask
from weakaudio.audio.io import find_audio

_CHANCE = 0.5  # of each effect, for each clip
_SNR_DB = (5.0, 30.0)  # of a clip over the background that is added, drawn uniformly


@dataclass
class Effects:
    """What may happen to a clip's waveform, each with a chance of one half; nothing unless it is asked for.

    Parameters
    ----------
    gain_db
        Louder or softer by up to this many dB.
    shift
        Rolled around by up to this part of the clip; what leaves at one end comes back at the other.
    polarity
        Turned upside down.
    impulse_responses
        Folder of recorded rooms, of which one is convolved with the clip.
    backgrounds
        Folder of recordings, of which one is added, 5 to 30 dB under the clip.
    """

    gain_db: float = 0.0
    shift: float = 0.0
    polarity: bool = False
    impulse_responses: str | None = None
    backgrounds: str | None = None


class WaveformAugmenter:
    """Effects on clips, the same for the same clip, seed and key.

    Raises
    ------
    AudioError
        A folder has no audio in it.
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

    def __call__(self, audio: NDArray[np.float32], *key: int) -> NDArray[np.float32]:
        """Audio (N,) float32 as it could also have sounded, of the same length.

        `key` says which draw this is, e.g. the epoch and the number of the clip in it.
        """
        with _seeded(self.seed, *key), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*had to be resampled")  # once a file, and all right
            changed: NDArray[np.float32] = self._effects(audio, self.sample_rate)
        return np.ascontiguousarray(changed[: len(audio)], dtype=np.float32)


def mask_logmel(logmel: Tensor, n_frames: Tensor, time_mask: int, mel_mask: int, rng: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779) without warping: one stretch of frames and one of mels of each clip is levelled.

    Not torchaudio's: that one draws from a global state, and masks padding like sound.

    Parameters
    ----------
    logmel
        (B, T, F)
    n_frames
        (B,) frames of each clip; masks lie within them.
    time_mask, mel_mask
        Longest stretch, in frames and in mels; at most half of a clip's frames or of the mels; 0 for none.
    rng
        Draws lengths and places.

    Returns
    -------
    (B, T, F); masked values are the mean of their clip.
    """
    inside = length_mask(n_frames, logmel.shape[1])[:, :, None]
    mean = (logmel * inside).sum((1, 2)) / (n_frames * logmel.shape[2])
    frames = _stretches(n_frames.cpu().numpy(), logmel.shape[1], time_mask, rng)[:, :, None]
    mels = _stretches(np.full(len(logmel), logmel.shape[2]), logmel.shape[2], mel_mask, rng)[:, None, :]
    masked = torch.from_numpy(frames | mels).to(logmel.device)
    return torch.where(masked & inside, mean[:, None, None], logmel)


def mixup(
    values: Tensor, lengths: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Each clip mixed with another of its batch (arXiv 1710.09412), by a weight drawn from Beta(alpha, alpha).

    Where one of the two has ended, the other goes on by itself.

    Parameters
    ----------
    values
        (B, N) waveforms or (B, T, F) log-mels, with padding after the end of shorter clips.
    lengths
        (B,) samples or frames of each clip.
    targets
        (B, C) labels, mixed like the clips.
    alpha
        Above 0; the larger, the closer the weights are to one half.
    rng
        Draws partners and weights.

    Returns
    -------
    values, lengths, targets
        As given, but mixed; a mixture is as long as the longer of its two clips.
    """
    partner = torch.from_numpy(rng.permutation(len(values))).to(values.device)
    weight = torch.from_numpy(rng.beta(alpha, alpha, len(values)).astype(np.float32)).to(values.device)[:, None]
    own = length_mask(lengths, values.shape[1])
    share = torch.where(own & own[partner], weight, own.float())
    share = share.view(*share.shape, *[1] * (values.ndim - 2))
    mixed = share * values + (1 - share) * values[partner]
    return mixed, torch.maximum(lengths, lengths[partner]), weight * targets + (1 - weight) * targets[partner]


def _stretches(sizes: NDArray[np.integer], width: int, longest: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(B, width): of each row, within its size, one stretch of 0 to `longest` places, and at most half of them."""
    length = rng.integers(0, np.minimum(longest, sizes // 2) + 1)
    begin = rng.integers(0, sizes - length + 1)
    place = np.arange(width)
    return (place >= begin[:, None]) & (place < (begin + length)[:, None])


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """audiomentations draws from the global states: they are set for one clip, and then as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is the state that audiomentations uses)
    words = np.random.SeedSequence(key).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
