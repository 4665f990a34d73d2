"""The one place that opens audio: any file libsndfile reads becomes mono float32 at the rate asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from weakaudio.audio.resampling import resample as resample
from weakaudio.audio.resampling import resample_blocks
from weakaudio.errors import AudioError

# What a folder is searched for. libsndfile decodes all of them.
EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".rf64"})

# A declared length may exceed what decodes by encoder delay and padding (MP3: up to two frames of 1152 samples
# at either end) before we call the file truncated.
_DECODER_SLACK = 2 * 2 * 1152

# After a seek, MP3 decodes to zeros until its bit reservoir is full again: up to nine frames of 1152 samples.
_PREROLL = 16 * 1152

# libsndfile's log, e.g. "data : 264600 (should be 132278)": the header promises more bytes than the file has.
# For W64 and RF64 only the whole file's size is checked by libsndfile, for AU that of its data.
_DATA_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Programs that write WAV into a pipe cannot know its size and declare a huge one; that is no truncation.
_STREAMED_SIZE = 0x7FFF0000

# A header may declare any number of samples (a FLAC written into a pipe none at all, which libsndfile reports as
# the largest integer), so memory is taken for this many values at a time, all channels together.
_MOST_VALUES = 2**22
_UNKNOWN_LENGTH = 2**63 - 1

# Outside of it the rate in a header is damage, and resampling would make thousands of samples of one.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 10_000_000

# More than 32-bit integers written as floats; what is far above it overflows in resampler and spectrogram.
_HIGHEST_SAMPLE = 1e10

# FLAC that declares blocks of 65,535 samples throughout: where they are shorter, libsndfile (1.2.2) gives silence in
# place of all but the first, without an error.
_LARGEST_BLOCKS = b"fLaC\x00\x00\x00\x22\xff\xff\xff\xff"


@dataclass(frozen=True)
class AudioInfo:
    """What the header says of a recording."""

    sample_rate: int
    """Hz"""
    channels: int
    n_samples: int
    """Samples of one channel, at `sample_rate`."""

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate


@dataclass(frozen=True)
class EncodedAudio:
    """The content of an audio file that lies inside another file; `name` goes into messages."""

    content: bytes
    name: str

    def __str__(self) -> str:
        return self.name


class _SequentialFile(sf.SoundFile):
    """A file that is read from front to back.

    soundfile seeks to where it stands after each read of a file it can seek in. In MP3 and Opus that loses the
    decoder's state: the next block begins with silence or noise; in a FLAC of unknown length it fails.
    """

    def seekable(self) -> bool:
        return False


def audio_info(path: str | Path | EncodedAudio) -> AudioInfo:
    """Rate, channels and length from the header; only where it keeps silent on the length, the file is decoded.

    Raises
    ------
    AudioError
        The file does not exist, libsndfile does not recognise it, or it is shorter than its header says.
    """
    with _open(path) as file:
        n_samples = file.frames
        if n_samples == _UNKNOWN_LENGTH:
            n_samples = sum(len(block) for block in _decode(file, path, 0, n_samples))
        return AudioInfo(file.samplerate, file.channels, n_samples)


def read_audio(
    path: str | Path | EncodedAudio, sample_rate: int | None = None, start: float = 0.0, seconds: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """Decode a recording, or a part of it, to mono and resample it.

    Parameters
    ----------
    path
        WAV, FLAC, OGG, MP3 or anything else libsndfile reads; any rate, channel count and bit depth.
    sample_rate
        Rate of the returned audio in Hz; None keeps the file's own.
    start, seconds
        Where the part begins and how long it is, in seconds; it ends earlier where the recording does.

    Returns
    -------
    audio, sample_rate
        float32 array of shape (N,), full scale at +-1 (channels averaged), and its rate in Hz.

    Raises
    ------
    AudioError
        No such file, not audio, no samples, fewer samples than the header declares, or NaN / infinite samples.
    """
    with _open(path) as file:
        file_rate, first = file.samplerate, min(round(start * file.samplerate), file.frames)
        last = file.frames if seconds is None else min(first + round(seconds * file_rate), file.frames)
        blocks = list(_decode(file, path, first, last))
    mono = blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.zeros(0, dtype=np.float32)])
    check_samples(mono, str(path))
    return resample(mono, file_rate, sample_rate or file_rate), sample_rate or file_rate


def stream_audio(
    path: str | Path | EncodedAudio, sample_rate: int | None = None, block_seconds: float = 30.0
) -> Iterator[NDArray[np.float32]]:
    """Decode a recording of any length in bounded memory: the blocks in a row equal `read_audio` of the file.

    Parameters
    ----------
    path, sample_rate
        As for `read_audio`.
    block_seconds
        How much is decoded at a time; files with many channels are decoded in shorter blocks.

    Yields
    ------
    block
        float32 array of shape (N,), N > 0, mono at `sample_rate`. N varies: the resampler looks ahead.

    Raises
    ------
    AudioError
        As `read_audio`: what is wrong with the file before its first block, NaN or infinite samples in place of
        the block they stand in, too few samples or none after the last block.
    ValueError
        `block_seconds` is not positive.
    """
    if not block_seconds > 0:
        raise ValueError(f"block_seconds must be positive, not {block_seconds}")
    with _open(path) as file:
        n_samples = int(max(1, min(block_seconds * file.samplerate, _MOST_VALUES)))
        blocks = _checked(_decode(file, path, 0, file.frames, n_samples), file.samplerate, str(path))
        yield from resample_blocks(blocks, file.samplerate, sample_rate or file.samplerate)


def check_samples(audio: NDArray[np.float32], name: str) -> None:
    """Refuse audio without samples or with NaN or infinite ones; `name` goes into the message.

    Raises
    ------
    AudioError
    """
    if audio.size == 0:
        raise AudioError(f"{name}: has no samples; at least one is needed")
    if not np.isfinite(audio).all():
        bad = int((~np.isfinite(audio)).sum())
        raise AudioError(f"{name}: {bad} of {audio.size} samples are NaN or infinite; re-export the recording")
    peak = max(float(audio.max()), -float(audio.min()))
    if peak > _HIGHEST_SAMPLE:
        raise AudioError(f"{name}: samples of up to {peak:.3g}, where full scale is 1; re-export the recording")


def check_sample_rate(sample_rate: int, name: str) -> None:
    """Refuse a rate (Hz) that no recording has; `name` goes into the message.

    Raises
    ------
    AudioError
    """
    if not _LOWEST_RATE <= sample_rate <= _HIGHEST_RATE:
        raise AudioError(f"{name}: a sample rate of {sample_rate} Hz; expected {_LOWEST_RATE} to {_HIGHEST_RATE} Hz")


def mean_of_channels(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Audio of shape (N, channels) as mono (N,); what is not finite stays so, for `check_samples` to find."""
    if audio.shape[1] == 1:
        return audio[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        return audio.mean(axis=1, dtype=np.float32)


def write_wav(path: str | Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write mono float audio of shape (N,) in [-1, 1] as 16-bit WAV."""
    sf.write(str(path), to_int16(audio), sample_rate, subtype="PCM_16", format="WAV")


def to_int16(audio: NDArray[np.float32]) -> NDArray[np.int16]:
    """Full-scale float to 16 bit; what exceeds full scale is clipped, as it would be when played."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(audio: NDArray[np.int16]) -> NDArray[np.float32]:
    """16 bit to float32 in [-1, 1); the inverse of `to_int16` inside full scale."""
    return audio.astype(np.float32) / 32768.0


def find_audio(folder: str | Path, cannot: Callable[[OSError], None] | None = None) -> list[Path]:
    """All audio files below a folder, hidden ones left out, sorted by their path as text.

    Folders that are symbolic links are followed, each folder once.

    Parameters
    ----------
    folder
        Searched with all below it.
    cannot
        Is told of each folder that cannot be looked into; None passes over them.

    Raises
    ------
    AudioError
        The folder does not exist or holds no audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=cannot, followlinks=True):
        try:
            stat = os.stat(here)
        except OSError as error:  # gone since
            if cannot:
                cannot(error)
            continue
        if (stat.st_dev, stat.st_ino) in seen:  # by a link, once more
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(here, name) for name in names if not name.startswith("."))
        files += [path for path in paths if path.suffix.lower() in EXTENSIONS and os.path.isfile(path)]
    if not files:
        raise AudioError(f"{folder}: no audio below it (looked for {', '.join(sorted(EXTENSIONS))})")
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _open(path: str | Path | EncodedAudio) -> _SequentialFile:
    source: bytes | BytesIO
    if isinstance(path, EncodedAudio):
        size, source, start = len(path.content), BytesIO(path.content), path.content[: len(_LARGEST_BLOCKS)]
    else:
        path = Path(path)
        try:
            found = path.is_file()
            size, source, start = path.stat().st_size if found else 0, os.fsencode(path), b""
            if found:
                with path.open("rb") as opened:
                    start = opened.read(len(_LARGEST_BLOCKS))
        except (OSError, ValueError) as error:  # no rights, too long, gone since, a 0 in it
            raise AudioError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
        if not found:
            raise AudioError(f"{path}: no such file")
    if size == 0:
        raise AudioError(f"{path}: empty file (0 bytes)")
    if start == _LARGEST_BLOCKS:
        raise AudioError(f"{path}: a FLAC header of blocks of 65535 samples; run `flac -d` and use the WAV it makes")
    try:
        file = _SequentialFile(source)
    except (
        sf.LibsndfileError,
        RuntimeError,
        TypeError,
        UnicodeError,
    ) as error:
        reason = error.error_string if isinstance(error, sf.LibsndfileError) else error
        raise AudioError(f"{path}: not audio that libsndfile can read ({reason})") from error
    try:
        _refuse_truncated_header(path, file.extra_info)
        check_sample_rate(file.samplerate, str(path))
    except AudioError:
        file.close()
        raise
    return file


def _decode(
    file: _SequentialFile, path: str | Path | EncodedAudio, first: int, last: int, block_samples: int = _MOST_VALUES
) -> Iterator[NDArray[np.float32]]:
    """Mono blocks of the samples `first` to `last`, as the header counted them when the file was opened."""
    try:
        if first:
            ahead = min(first, _PREROLL)
            file.seek(first - ahead)
            file.read(ahead, dtype="float32")
        left, whole = last - first, True
        while left and whole:
            asked = min(left, block_samples, max(1, _MOST_VALUES // file.channels))
            block = mean_of_channels(file.read(asked, dtype="float32", always_2d=True))
            left, whole = left - len(block), len(block) == asked
            if len(block):
                yield block
    except (sf.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({error}); the file is damaged or truncated") from error
    if left > _DECODER_SLACK and file.frames != _UNKNOWN_LENGTH:
        declared = last - first
        raise AudioError(
            f"{path}: truncated: the header declares {declared} samples, {declared - left} can be decoded"
        )


def _checked(blocks: Iterator[NDArray[np.float32]], sample_rate: int, name: str) -> Iterator[NDArray[np.float32]]:
    """The blocks that come before one that `check_samples` refuses; its message tells the place."""
    n_samples = 0
    for block in blocks:
        end = n_samples + len(block)
        check_samples(block, f"{name}, {n_samples / sample_rate:.1f} to {end / sample_rate:.1f} s")
        n_samples = end
        yield block
    if not n_samples:
        check_samples(np.zeros(0, dtype=np.float32), name)


def _refuse_truncated_header(path: str | Path | EncodedAudio, log: str) -> None:
    """libsndfile reads truncated WAV, AIFF and OGG files without a word; its log of the header knows better."""
    chunk = _DATA_CHUNK.search(log)
    if chunk and int(chunk[2]) < int(chunk[1]) < _STREAMED_SIZE:
        raise AudioError(f"{path}: truncated: the header declares {chunk[1]} bytes of audio, {chunk[2]} are there")
    if "Last page lacks an end-of-stream bit" in log or "Junk after the last page" in log:  # cut between or in pages
        raise AudioError(f"{path}: truncated: the Ogg stream has no end")
