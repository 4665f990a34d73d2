"""The one place that opens audio: any file libsndfile reads becomes mono float32 at the rate asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

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


def audio_info(path: str | Path | EncodedAudio) -> AudioInfo:
    """Rate, channels and length from the header, without decoding.

    Raises
    ------
    AudioError
        The file does not exist, libsndfile does not recognise it, or it is shorter than its header says.
    """
    with _open(path) as file:
        _refuse_truncated_header(path, file.extra_info)
        return AudioInfo(file.samplerate, file.channels, file.frames)


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
    try:
        with _open(path) as file:
            _refuse_truncated_header(path, file.extra_info)
            file_rate, first = file.samplerate, min(round(start * file.samplerate), file.frames)
            last = file.frames if seconds is None else min(first + round(seconds * file_rate), file.frames)
            declared = last - first
            ahead = min(first, _PREROLL)
            if first:
                file.seek(first - ahead)
            count = -1 if seconds is None else ahead + declared
            audio = file.read(count, dtype="float32", always_2d=True)[ahead:]
    except (sf.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({error}); the file is damaged or truncated") from error
    if len(audio) + _DECODER_SLACK < declared:
        raise AudioError(f"{path}: truncated: the header declares {declared} samples, {len(audio)} can be decoded")
    mono = audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1, dtype=np.float32)
    check_samples(mono, str(path))
    return resample(mono, file_rate, sample_rate or file_rate), sample_rate or file_rate


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


def resample(audio: NDArray[np.float32], source_rate: int, target_rate: int) -> NDArray[np.float32]:
    """Resample mono audio of shape (N,) from `source_rate` to `target_rate` (Hz) with soxr at high quality.

    At least one sample comes back, so that the shortest clip stays a clip.
    """
    if source_rate == target_rate:
        return np.ascontiguousarray(audio, dtype=np.float32)
    resampled = soxr.resample(audio, source_rate, target_rate, quality="HQ").astype(np.float32, copy=False)
    return resampled if resampled.size else np.ascontiguousarray(audio[:1], dtype=np.float32)


def write_wav(path: str | Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write mono float audio of shape (N,) in [-1, 1] as 16-bit WAV."""
    sf.write(str(path), to_int16(audio), sample_rate, subtype="PCM_16", format="WAV")


def to_int16(audio: NDArray[np.float32]) -> NDArray[np.int16]:
    """Full-scale float to 16 bit; what exceeds full scale is clipped, as it would be when played."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(audio: NDArray[np.int16]) -> NDArray[np.float32]:
    """16 bit to float32 in [-1, 1); the inverse of `to_int16` inside full scale."""
    return audio.astype(np.float32) / 32768.0


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, hidden ones left out, sorted by their path as text.

    Raises
    ------
    AudioError
        The folder does not exist or holds no audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    files = sorted(
        (
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in EXTENSIONS and not _hidden(path.relative_to(folder)) and path.is_file()
        ),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not files:
        raise AudioError(f"{folder}: no audio below it (looked for {', '.join(sorted(EXTENSIONS))})")
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _open(path: str | Path | EncodedAudio) -> sf.SoundFile:
    source: str | BytesIO
    if isinstance(path, EncodedAudio):
        size, source = len(path.content), BytesIO(path.content)
    else:
        path = Path(path)
        if not path.is_file():
            raise AudioError(f"{path}: no such file")
        size, source = path.stat().st_size, str(path)
    if size == 0:
        raise AudioError(f"{path}: empty file (0 bytes)")
    try:
        return sf.SoundFile(source)
    except (
        sf.LibsndfileError,
        RuntimeError,
        TypeError,
        UnicodeError,
    ) as error:
        raise AudioError(f"{path}: not audio that libsndfile can read ({error})") from error


def _refuse_truncated_header(path: str | Path | EncodedAudio, log: str) -> None:
    """libsndfile reads truncated WAV, AIFF and OGG files without a word; its log of the header knows better."""
    chunk = _DATA_CHUNK.search(log)
    if chunk and int(chunk[2]) < int(chunk[1]) < _STREAMED_SIZE:
        raise AudioError(f"{path}: truncated: the header declares {chunk[1]} bytes of audio, {chunk[2]} are there")
    if "Last page lacks an end-of-stream bit" in log:
        raise AudioError(f"{path}: truncated: the Ogg stream has no end")
