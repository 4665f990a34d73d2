"""Sample-rate conversion with soxr: of a whole recording, or of blocks of one with the state carried over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

_QUALITY = "HQ"


def resample(audio: NDArray[np.float32], source_rate: int, target_rate: int) -> NDArray[np.float32]:
    """Resample mono audio of shape (N,) from `source_rate` to `target_rate` (Hz) with soxr at high quality.

    At least one sample comes back, so that the shortest clip stays a clip.
    """
    if source_rate == target_rate:
        return np.ascontiguousarray(audio, dtype=np.float32)
    resampled = soxr.resample(audio, source_rate, target_rate, quality=_QUALITY).astype(np.float32, copy=False)
    return resampled if resampled.size else np.ascontiguousarray(audio[:1], dtype=np.float32)


class Resampler:
    """Resample mono audio that comes in blocks: the outputs in a row equal `resample` of the inputs in a row.

    The filter looks ahead, so that the first blocks may give nothing yet; `finish` gives what it still holds.

    Parameters
    ----------
    source_rate, target_rate
        Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        same = source_rate == target_rate
        self._stream = None if same else soxr.ResampleStream(source_rate, target_rate, 1, "float32", _QUALITY)
        self._first = np.zeros(0, dtype=np.float32)
        self._silent = not same  # nothing has come out yet

    def process(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next block, of shape (N,) with any N; what comes out may be empty."""
        return self._pass(audio, last=False)

    def finish(self) -> NDArray[np.float32]:
        """The end of the audio, to be called once; at least one sample has come out then, if one went in."""
        resampled = self._pass(np.zeros(0, dtype=np.float32), last=True)
        return self._first if self._silent else resampled

    def _pass(self, audio: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        audio = np.ascontiguousarray(audio, dtype=np.float32)
        if self._stream is None:
            return audio
        if not self._first.size:
            self._first = audio[:1].copy()
        resampled: NDArray[np.float32] = self._stream.resample_chunk(audio, last=last)
        self._silent = self._silent and not resampled.size
        return resampled


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], source_rate: int, target_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Resample mono blocks of shape (N,) as they come; no block that leaves is empty."""
    resampler = Resampler(source_rate, target_rate)
    for block in blocks:
        resampled = resampler.process(block)
        if resampled.size:
            yield resampled
    tail = resampler.finish()
    if tail.size:
        yield tail
