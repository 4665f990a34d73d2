"""Sample-rate conversion with soxr, of whole recordings or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from weakaudio.audio import Waveform

_QUALITY = "HQ"


def resample(audio: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """Resample mono audio (N,) from `source_rate` to `target_rate` (Hz) with soxr at high quality.

    At least one sample is returned, so that the shortest clip stays a clip.
    """
    if source_rate == target_rate:
        return np.ascontiguousarray(audio, dtype=np.float32)
    resampled = soxr.resample(audio, source_rate, target_rate, quality=_QUALITY).astype(np.float32, copy=False)
    return resampled if resampled.size else np.ascontiguousarray(audio[:1], dtype=np.float32)


class Resampler:
    """Streaming resampler of mono audio: its concatenated outputs equal `resample` of the concatenated inputs.

    The filter looks ahead, so the first outputs may be empty; `finish` returns the remaining samples.

    Parameters
    ----------
    source_rate, target_rate
        Hz
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        same = source_rate == target_rate
        self._stream = None if same else soxr.ResampleStream(source_rate, target_rate, 1, "float32", _QUALITY)
        self._first = np.zeros(0, dtype=np.float32)
        self._no_output = not same  # so far

    def process(self, audio: Waveform) -> Waveform:
        """Resample the next block (N,), of any length; the result may be empty."""
        return self._resample(audio, last=False)

    def finish(self) -> Waveform:
        """Flush the filter, once; if any sample went in, at least one has come out after this call."""
        resampled = self._resample(np.zeros(0, dtype=np.float32), last=True)
        return self._first if self._no_output else resampled

    def _resample(self, audio: Waveform, last: bool) -> Waveform:
        audio = np.ascontiguousarray(audio, dtype=np.float32)
        if self._stream is None:
            return audio
        if not self._first.size:
            self._first = audio[:1].copy()
        resampled: Waveform = self._stream.resample_chunk(audio, last=last)
        self._no_output = self._no_output and not resampled.size
        return resampled


def resample_blocks(blocks: Iterable[Waveform], source_rate: int, target_rate: int) -> Iterator[Waveform]:
    """Resample a stream of mono blocks (N,); yields no empty block."""
    resampler = Resampler(source_rate, target_rate)
    for block in blocks:
        resampled = resampler.process(block)
        if resampled.size:
            yield resampled
    tail = resampler.finish()
    if tail.size:
        yield tail
