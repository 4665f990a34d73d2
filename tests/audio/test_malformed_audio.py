"""Damaged audio files of every format are refused, or read as they were written."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from intact_files import find_intact
from malformed import Outcome, expect, read_damaged
from numpy.typing import NDArray

from weakaudio.audio.io import EncodedAudio, audio_info, read_audio, stream_audio
from weakaudio.errors import WeakAudioError

# The most samples of one channel that a byte of each format can hold.
_DENSEST = {
    ".mp3": 24,  # 576 samples in 24 bytes: 8 kbit/s at 24 kHz
    ".flac": 6000,  # a block of 65,535 samples, all the same, in 11 bytes
    ".ogg": 8192,  # a Vorbis block of 8192 samples in one byte
    ".opus": 5760,  # a packet of 120 ms, nothing but its first byte
}
_DENSEST_WAV = 8  # a bit a sample; also AIFF, AU, W64, RF64

# Samples that may be missing without an error where a file was cut: an MP3 encoder's delay and padding.
_MISSING = {".mp3": 2 * 2 * 1152}


def _check_audio(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    encoded = EncodedAudio(path.read_bytes(), path.name)
    whole = _read(path)
    expect(_equal(whole, _stream(path)), "read at once it differs from read in blocks")
    for audio in (whole, _read(encoded), _read(path, 8000), _read(path, start=0.1, seconds=0.05)):
        expect(audio is None or (audio.dtype == np.float32 and audio.ndim == 1 and audio.size > 0), "no samples")
        expect(audio is None or bool(np.isfinite(audio).all()), "samples that are not finite")
    with suppress(WeakAudioError):
        info = audio_info(path)
        expect(info.sample_rate > 0 and info.channels > 0 and info.n_samples >= 0, f"an impossible header: {info}")
    if whole is None:
        return "refused"
    most = _DENSEST.get(path.suffix, _DENSEST_WAV) * len(encoded.content)
    expect(len(whole) <= most, f"{len(whole)} samples, but {len(encoded.content)} bytes hold at most {most}")
    if changes == ("cut",):
        least = _samples(seed) - _MISSING.get(path.suffix, 0)
        expect(len(whole) >= least, f"cut short, and read without an error: {len(whole)} samples, {least} expected")
    return "read"


def _read(path: Path | EncodedAudio, sample_rate: int | None = None, **part: float) -> NDArray[np.float32] | None:
    with suppress(WeakAudioError):
        return read_audio(path, sample_rate, **part)[0]
    return None


def _stream(path: Path) -> NDArray[np.float32] | None:
    with suppress(WeakAudioError):
        return np.concatenate(list(stream_audio(path, block_seconds=0.1)))
    return None


def _equal(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


@cache
def _samples(seed: Path) -> int:
    return len(read_audio(seed)[0])


@pytest.mark.parametrize("kind", ["WAV", "AIFF, AU", "FLAC", "OGG", "MP3"])
def test_a_damaged_recording_is_refused_or_read_as_it_was_written(kind: str, intact: Path, scratch: Path) -> None:
    read_damaged(kind, _check_audio, intact, scratch)


def test_every_format_has_intact_files(intact: Path) -> None:
    suffixes = {Path(path).suffix for paths in find_intact(intact).values() for path in paths}
    assert suffixes >= {".wav", ".w64", ".rf64", ".aiff", ".au", ".flac", ".ogg", ".opus", ".mp3"}


def test_a_cut_that_reads_as_intact_is_found(intact: Path, tmp_path: Path) -> None:
    """The check itself: AU that declares no length is cut where no reader can see it."""
    cut = tmp_path / "cut.au"
    content = bytearray((intact / "audio/pcm_16.au").read_bytes())
    content[8:12] = b"\xff" * 4  # length unknown: all that follows is audio
    cut.write_bytes(content[:-4000])
    assert _check_audio(cut, intact / "audio/pcm_16.au", ("field", "cut")) == "read"
    with pytest.raises(AssertionError, match="cut short"):
        _check_audio(cut, intact / "audio/pcm_16.au", ("cut",))
