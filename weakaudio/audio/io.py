"""Reading, writing and finding audio files: the only module that opens one, through libsndfile."""

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

from weakaudio.audio import Waveform
from weakaudio.audio.resampling import resample as resample
from weakaudio.audio.resampling import resample_blocks
from weakaudio.errors import AudioError
from weakaudio.files import atomic_write

# File name extensions of audio that libsndfile decodes.
EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".rf64"})

# Samples that may be missing from the declared length before a file counts as truncated: encoder delay and padding
# (MP3: up to two frames of 1152 samples at either end).
_DECODER_SLACK = 2 * 2 * 1152

# After a seek, MP3 decodes to zeros until its bit reservoir has filled: up to nine frames of 1152 samples.
_PREROLL = 16 * 1152

# A line of libsndfile's log for a header that declares more bytes than the file has, e.g. "data : 264600 (should be
# 132278)". libsndfile checks the size of the whole file for W64 and RF64, and of the data for AU.
_DATA_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Programs that write WAV to a pipe do not know its size and declare a huge one; such files are not truncated.
_STREAMED_SIZE = 0x7FFF0000

# Values read at a time, all channels together: a header may declare any number of samples (for a FLAC written to a
# pipe, which declares none, libsndfile reports the largest integer), so it must not decide how much is allocated.
_MAX_VALUES = 2**22
_UNKNOWN_LENGTH = 2**63 - 1

# A rate outside this range means a damaged header; resampling would turn one sample into thousands.
_MIN_RATE, _MAX_RATE = 1_000, 10_000_000

# Above 32-bit integers stored as floats; much larger values overflow in the resampler and the spectrogram.
_MAX_SAMPLE = 1e10

# FLAC header that declares blocks of 65,535 samples throughout. If the blocks are shorter, libsndfile 1.2.2 silently
# decodes all but the first to silence.
_MAX_FLAC_BLOCKS = b"fLaC\x00\x00\x00\x22\xff\xff\xff\xff"


@dataclass(frozen=True)
class AudioInfo:
    """Contents of a recording's header."""

    sample_rate: int
    """Hz"""
    channels: int
    n_samples: int
    """per channel"""

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate


@dataclass(frozen=True)
class EncodedAudio:
    """An encoded audio file in memory, e.g. from an archive; `name` identifies it in messages."""

    content: bytes
    name: str

    def __str__(self) -> str:
        return self.name


class _SequentialFile(sf.SoundFile):
    """A file that soundfile treats as not seekable.

    soundfile seeks to the current position after each read of a seekable file. In MP3 and Opus that resets the
    decoder, so the next block starts with silence or noise; in a FLAC of unknown length it fails.
    """

    def seekable(self) -> bool:
        return False


def audio_info(path: str | Path | EncodedAudio) -> AudioInfo:
    """Read rate, channels and length from the header; a file whose header has no length is decoded.

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
) -> tuple[Waveform, int]:
    """Decode a recording, or an excerpt of it, to mono and resample it.

    Parameters
    ----------
    path
        WAV, FLAC, OGG, MP3 or any other format of libsndfile, with any rate, channel count and bit depth.
    sample_rate
        Rate of the returned audio in Hz; None keeps the rate of the file.
    start, seconds
        Start and length of the excerpt in seconds; it ends with the recording.

    Returns
    -------
    audio, sample_rate
        (N,) float32, channels averaged, full scale at +-1; and its rate in Hz.

    Raises
    ------
    AudioError
        The file does not exist, is not audio, has no samples or fewer than its header declares, or has NaN or
        infinite samples.
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
) -> Iterator[Waveform]:
    """Decode a recording of any length in bounded memory: the concatenated blocks equal `read_audio` of the file.

    Parameters
    ----------
    path, sample_rate
        As for `read_audio`.
    block_seconds
        Audio decoded at a time; files with many channels are decoded in shorter blocks.

    Yields
    ------
    block
        (N,) float32, mono at `sample_rate`; N > 0 varies, as the resampler looks ahead.

    Raises
    ------
    AudioError
        As `read_audio`: before the first block if the file cannot be opened, in place of a block with NaN or
        infinite samples, after the last block if samples are missing.
    ValueError
        `block_seconds` is not positive.
    """
    if not block_seconds > 0:
        raise ValueError(f"block_seconds must be positive, not {block_seconds}")
    with _open(path) as file:
        n_samples = int(max(1, min(block_seconds * file.samplerate, _MAX_VALUES)))
        blocks = _checked(_decode(file, path, 0, file.frames, n_samples), file.samplerate, str(path))
        yield from resample_blocks(blocks, file.samplerate, sample_rate or file.samplerate)


def check_samples(audio: Waveform, name: str) -> None:
    """Refuse audio that is empty or has NaN, infinite or absurdly large samples; `name` is for the message.

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
    if peak > _MAX_SAMPLE:
        raise AudioError(f"{name}: samples of up to {peak:.3g}, where full scale is 1; re-export the recording")


def mono_floats(audio: NDArray[np.floating]) -> Waveform:
    """Check an array of mono audio; returns it as float32 of shape (N,).

    Raises
    ------
    AudioError
        Another shape, integers, no samples, NaN or infinite samples.
    """
    audio = np.asarray(audio)
    if audio.ndim != 1 or audio.dtype.kind != "f":
        raise AudioError(
            f"audio of shape {audio.shape} and type {audio.dtype}: expected mono floats of shape (N,), full "
            "scale at +-1 (average the channels; divide 16-bit integers by 32768)"
        )
    check_samples(audio, "audio")
    samples: Waveform = audio.astype(np.float32, copy=False)
    return samples


def check_sample_rate(sample_rate: int, name: str) -> None:
    """Refuse an implausible rate (Hz); `name` is for the message.

    Raises
    ------
    AudioError
    """
    if not _MIN_RATE <= sample_rate <= _MAX_RATE:
        raise AudioError(f"{name}: a sample rate of {sample_rate} Hz; expected {_MIN_RATE} to {_MAX_RATE} Hz")


def mean_of_channels(audio: Waveform) -> Waveform:
    """Average (N, channels) to mono (N,); values that are not finite stay so, for `check_samples` to find."""
    if audio.shape[1] == 1:
        return audio[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        return audio.mean(axis=1, dtype=np.float32)


def write_wav(path: str | Path, audio: Waveform, sample_rate: int) -> None:
    """Write mono audio (N,) in [-1, 1] as 16-bit WAV, atomically; missing folders are created.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    with atomic_write(path) as part:
        try:
            sf.write(part, to_int16(audio), sample_rate, subtype="PCM_16", format="WAV")
        except sf.LibsndfileError as error:
            raise OSError(error.error_string) from error


def to_int16(audio: Waveform) -> NDArray[np.int16]:
    """Convert float to 16 bit; values beyond full scale are clipped."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(audio: NDArray[np.int16]) -> Waveform:
    """Convert 16 bit to float32 in [-1, 1): the inverse of `to_int16` within full scale."""
    return audio.astype(np.float32) / 32768.0


def find_audio(folder: str | Path, on_error: Callable[[OSError], None] | None = None) -> list[Path]:
    """List all audio files below a folder, except hidden ones, sorted by their path as text.

    Symbolic links to folders are followed; each folder is searched once.

    Parameters
    ----------
    folder
        Searched recursively.
    on_error
        Called with the error for each folder that cannot be read; None ignores them.

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
    for here, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        try:
            stat = os.stat(here)
        except OSError as error:  # deleted meanwhile
            if on_error:
                on_error(error)
            continue
        if (stat.st_dev, stat.st_ino) in seen:  # reached again through a link
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
        size, source, start = len(path.content), BytesIO(path.content), path.content[: len(_MAX_FLAC_BLOCKS)]
    else:
        path = Path(path)
        try:
            found = path.is_file()
            size, source, start = path.stat().st_size if found else 0, os.fsencode(path), b""
            if found:
                with path.open("rb") as opened:
                    start = opened.read(len(_MAX_FLAC_BLOCKS))
        except (OSError, ValueError) as error:  # no permission, too long, deleted meanwhile, a NUL in the name
            raise AudioError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
        if not found:
            raise AudioError(f"{path}: no such file")
    if size == 0:
        raise AudioError(f"{path}: empty file (0 bytes)")
    if start == _MAX_FLAC_BLOCKS:
        raise AudioError(f"{path}: FLAC header with blocks of 65535 samples; decode it to WAV with `flac -d`")
    try:
        file = _SequentialFile(source)
    except (sf.LibsndfileError, RuntimeError, TypeError, UnicodeError) as error:
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
    file: _SequentialFile, path: str | Path | EncodedAudio, first: int, last: int, block_samples: int = _MAX_VALUES
) -> Iterator[Waveform]:
    """Yield mono blocks of samples `first` to `last`, counted as in the header when the file was opened."""
    try:
        if first:
            ahead = min(first, _PREROLL)
            file.seek(first - ahead)
            file.read(ahead, dtype="float32")
        left, complete = last - first, True
        while left and complete:
            asked = min(left, block_samples, max(1, _MAX_VALUES // file.channels))
            block = mean_of_channels(file.read(asked, dtype="float32", always_2d=True))
            left, complete = left - len(block), len(block) == asked
            if len(block):
                yield block
    except (sf.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({error}); the file is damaged or truncated") from error
    if left > _DECODER_SLACK and file.frames != _UNKNOWN_LENGTH:
        declared = last - first
        raise AudioError(f"{path}: truncated: the header declares {declared} samples, {declared - left} can be read")


def _checked(blocks: Iterator[Waveform], sample_rate: int, name: str) -> Iterator[Waveform]:
    """Pass blocks through `check_samples`, with their position in the message."""
    n_samples = 0
    for block in blocks:
        end = n_samples + len(block)
        check_samples(block, f"{name}, {n_samples / sample_rate:.1f} to {end / sample_rate:.1f} s")
        n_samples = end
        yield block
    if not n_samples:
        check_samples(np.zeros(0, dtype=np.float32), name)


def _refuse_truncated_header(path: str | Path | EncodedAudio, log: str) -> None:
    """Find truncated WAV, AIFF and OGG files in libsndfile's log: it reads them without an error."""
    chunk = _DATA_CHUNK.search(log)
    if chunk and int(chunk[2]) < int(chunk[1]) < _STREAMED_SIZE:
        raise AudioError(f"{path}: truncated: the header declares {chunk[1]} bytes of audio, the file has {chunk[2]}")
    if "Last page lacks an end-of-stream bit" in log or "Junk after the last page" in log:  # cut at or within a page
        raise AudioError(f"{path}: truncated: the Ogg stream has no last page")
