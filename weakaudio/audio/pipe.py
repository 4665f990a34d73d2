"""Streaming audio from a pipe: WAV or raw samples to mono blocks while the other program is still writing.

libsndfile needs a seekable file, so the WAV header is parsed here, after Multimedia Programming Interface and Data
Specifications 1.0 (RIFF, WAVE) and EBU Tech 3306 (RF64).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from weakaudio.audio import Waveform
from weakaudio.audio.io import check_sample_rate, check_samples, mean_of_channels
from weakaudio.errors import AudioError

# Bytes per sample. 8-bit WAV is unsigned.
ENCODINGS = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WAV_ENCODINGS = {
    **{(_PCM, 8): "u8", (_PCM, 16): "s16le", (_PCM, 24): "s24le", (_PCM, 32): "s32le"},
    **{(_FLOAT, 32): "f32le", (_FLOAT, 64): "f64le"},
}
# GUID of an extensible format: two bytes with the format tag, then these.
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")

_MAX_CHANNELS = 1024  # as in libsndfile
_MAX_READ = 2**20  # bytes
_MAX_HEADER = 2**24  # bytes; pictures and comments may precede the audio

# Sizes declared by programs that do not know how much they will write: 0 (GStreamer), 0x7FFFF000 (SoX), 0x7FFFFF00
# or 0x80000000 (arecord), 0xFFFFFFFF (ffmpeg); some subtract the length of the header.
_UNKNOWN_SIZES = (range(1), range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 2**32))


@dataclass(frozen=True)
class RawFormat:
    """Format of raw (headerless) samples."""

    sample_rate: int
    """Hz"""
    channels: int = 1
    """interleaved"""
    encoding: str = "s16le"
    """one of `ENCODINGS`"""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample frame: one sample of each channel."""
        return self.channels * ENCODINGS[self.encoding]


def read_pipe(
    stream: BinaryIO, raw: RawFormat | None = None, block_seconds: float = 1.0, name: str = "standard input"
) -> tuple[int, Iterator[Waveform]]:
    """Read audio from a stream without seeking: `sys.stdin.buffer`, a process or a socket's file.

    Parameters
    ----------
    stream
        Blocking binary stream of WAV (PCM with 8, 16, 24 or 32 bits, float with 32 or 64; RIFF or RF64) or of raw
        samples.
    raw
        Format of raw samples; None waits for a WAV header.
    block_seconds
        Length of the longest block. Blocks are shorter if less has arrived: none waits for more than one sample.
    name
        Name of the stream in messages.

    Returns
    -------
    sample_rate, blocks
        Hz, and an iterator of (N,) float32 arrays, N > 0, channels averaged.

    Raises
    ------
    AudioError
        Immediately: no WAV header, a truncated or invalid one, or an unknown encoding. By the iterator, after all
        preceding blocks: NaN or infinite samples, no samples at all, or a stream that ends within a sample or before
        the length in its header.
    """
    with suppress(AttributeError, OSError, ValueError):  # no file descriptor
        if not os.get_blocking(stream.fileno()):
            raise AudioError(f"{name}: is non-blocking, so missing data look like the end; set it to blocking")
    source = _Source(stream, name)
    if raw is None:
        form, n_bytes = _read_header(source)
    else:
        if raw.encoding not in ENCODINGS:
            raise AudioError(f"{name}: unknown encoding {raw.encoding!r}; expected one of {', '.join(ENCODINGS)}")
        form, n_bytes = raw, None
    if not 1 <= form.channels <= _MAX_CHANNELS:
        raise AudioError(f"{name}: {form.channels} channels; expected 1 to {_MAX_CHANNELS}")
    check_sample_rate(form.sample_rate, name)
    return form.sample_rate, _blocks(source, form, n_bytes, block_seconds, padded=raw is None)


class _Source:
    """Reads whatever has arrived, and allocates no more than that."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self._read = getattr(stream, "read1", stream.read)  # `read` of a raw stream waits for one byte only

    def some(self, limit: int) -> bytes:
        """Wait for at least one byte and return at most `limit`; empty at the end of the stream."""
        try:
            return self._read(min(limit, _MAX_READ)) or b""
        except (OSError, ValueError) as error:
            raise AudioError(f"{self.name}: cannot be read ({error})") from error

    def header(self, count: int) -> bytes:
        """Read exactly `count` bytes of the header."""
        got = b""
        while len(got) < count:
            more = self.some(count - len(got))
            if not more:
                raise AudioError(f"{self.name}: ends within its WAV header; nothing was recorded")
            got += more
        return got

    def skip(self, count: int) -> None:
        """Skip `count` bytes of the header."""
        while count:
            count -= len(self.header(min(count, 2**16)))


def _read_header(source: _Source) -> tuple[RawFormat, int | None]:
    """Format and number of audio bytes that follow; None if it is unknown, i.e. until the stream ends."""
    name = source.name
    first = source.some(1)
    if not first:
        raise AudioError(f"{name}: ended before the first byte; is the program that feeds it running?")
    magic = first + source.header(3)
    if magic == b"RIFX":
        raise AudioError(f"{name}: big-endian WAV (RIFX) is not supported; convert it: ffmpeg -i - -f wav -")
    if magic not in (b"RIFF", b"RF64", b"BW64") or source.header(8)[4:] != b"WAVE":
        raise AudioError(
            f"{name}: not a WAV stream (starts with {magic!r}); convert it (ffmpeg -i - -f wav -) or give the rate, "
            "channels and encoding of raw samples"
        )
    form, long_size, passed = None, None, 12
    while passed < _MAX_HEADER:
        kind, size = struct.unpack("<4sI", source.header(8))
        if kind == b"data":
            if form is None:
                raise AudioError(f"{name}: its WAV header has no format chunk before the audio")
            if size == 0xFFFFFFFF and long_size is not None:
                return form, long_size
            return form, None if any(size in unknown for unknown in _UNKNOWN_SIZES) else size
        padded = size + size % 2
        passed += 8 + padded
        if passed >= _MAX_HEADER:
            break
        if kind == b"fmt ":
            content = source.header(min(padded, 40))
            form = _read_format(content[:size], name)
        elif kind == b"ds64":
            content = source.header(min(padded, 16))
            if len(content) == 16:
                _, declared = struct.unpack("<QQ", content)
                long_size = declared if 0 < declared < 2**63 else None
        else:
            content = b""
        source.skip(padded - len(content))
    raise AudioError(f"{name}: no audio within the first {_MAX_HEADER} bytes; the WAV header is damaged")


def _read_format(content: bytes, name: str) -> RawFormat:
    """Parse the content of a `fmt ` chunk."""
    if len(content) < 16:
        raise AudioError(f"{name}: its WAV format chunk has {len(content)} bytes; at least 16 are needed")
    tag, channels, sample_rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == _EXTENSIBLE and content[26:40] == _GUID_TAIL:
        tag = int.from_bytes(content[24:26], "little")
    encoding = _WAV_ENCODINGS.get((tag, bits))
    if encoding is None:
        raise AudioError(
            f"{name}: WAV of format {tag:#06x} with {bits} bits; expected PCM with 8, 16, 24 or 32 bits or float "
            "with 32 or 64; convert it: ffmpeg -i - -f wav -"
        )
    form = RawFormat(sample_rate, channels, encoding)
    if form.frame_bytes != frame_bytes:
        raise AudioError(
            f"{name}: its WAV header is damaged: {channels} channels of {bits} bits are {form.frame_bytes} bytes, "
            f"but it declares {frame_bytes}"
        )
    return form


def _blocks(
    source: _Source, form: RawFormat, n_bytes: int | None, block_seconds: float, padded: bool
) -> Iterator[Waveform]:
    limit = max(1, int(min(block_seconds * form.sample_rate, _MAX_READ))) * form.frame_bytes
    rest, n_samples, taken = b"", 0, 0
    while n_bytes is None or taken < n_bytes:
        wanted = limit - len(rest)
        got = source.some(wanted if n_bytes is None else min(wanted, n_bytes - taken))
        if not got:
            break
        taken += len(got)
        rest += got
        whole = len(rest) - len(rest) % form.frame_bytes
        if whole:
            block = mean_of_channels(_decode(rest[:whole], form.encoding).reshape(-1, form.channels))
            place = f"{n_samples / form.sample_rate:.1f} s after the start"
            check_samples(block, f"{source.name}, {place}")
            rest, n_samples = rest[whole:], n_samples + len(block)
            yield block
    place = f"{n_samples / form.sample_rate:.3f} s"
    if n_bytes is not None and taken < n_bytes:
        seconds = n_bytes / form.frame_bytes / form.sample_rate
        raise AudioError(f"{source.name}: ended after {place}; its header declares {seconds:.3f} s")
    padding = padded and rest == b"\0" and taken % 2 == 0  # WAV chunks of odd length are padded by one byte
    if rest and not padding:
        raise AudioError(
            f"{source.name}: ended within a sample after {place}: {len(rest)} bytes left over, a sample has "
            f"{form.frame_bytes}"
        )
    check_samples(np.zeros(min(n_samples, 1), dtype=np.float32), source.name)


def _decode(content: bytes, encoding: str) -> Waveform:
    """Convert samples to float32, integers with full scale at +-1."""
    if encoding == "u8":
        return (np.frombuffer(content, "u1").astype(np.float32) - np.float32(128)) / np.float32(128)
    if encoding == "s24le":
        wide = np.zeros((len(content) // 3, 4), dtype="u1")  # the three bytes become the upper bytes of an int32
        wide[:, 1:] = np.frombuffer(content, "u1").reshape(-1, 3)
        content, encoding = wide.tobytes(), "s32le"
    if encoding in ("s16le", "s32le"):
        integers = np.frombuffer(content, f"<i{ENCODINGS[encoding]}")
        return integers.astype(np.float32) / np.float32(2 ** (8 * ENCODINGS[encoding] - 1))
    with np.errstate(over="ignore"):  # too large a float64 becomes infinite, which `check_samples` refuses
        return np.frombuffer(content, f"<f{ENCODINGS[encoding]}").astype(np.float32)
