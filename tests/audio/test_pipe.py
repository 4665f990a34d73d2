from __future__ import annotations

import io
import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.audio.pipe import ENCODINGS, RawFormat, read_pipe
from weakaudio.errors import AudioError

RATE = 16000
SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]


class Pipe(io.RawIOBase):
    """Bytes that arrive a few at a time, without seeking."""

    def __init__(self, content: bytes, sizes: list[int] | None = None) -> None:
        self.content, self.sizes, self.at, self.largest = content, sizes or [65536], 0, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.largest = max(self.largest, size)
        self.sizes = [*self.sizes[1:], self.sizes[0]]
        got = self.content[self.at : self.at + min(size, self.sizes[-1])]
        self.at += len(got)
        return got


def noise(n_samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(n_samples).uniform(-0.99, 0.99, (n_samples, channels))


def wav(audio: np.ndarray, subtype: str = "PCM_16", kind: str = "WAV", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    sf.write(file, audio, rate, subtype=subtype, format=kind)
    return file.getvalue()


def with_size(content: bytes, size: int) -> bytes:
    at = content.index(b"data") + 4
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


def chunk(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def fmt(tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, frame_bytes: int | None = None) -> bytes:
    frame_bytes = channels * bits // 8 if frame_bytes is None else frame_bytes
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, 0, frame_bytes, bits))


def riff(*chunks: bytes, magic: bytes = b"RIFF") -> bytes:
    return magic + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + b"".join(chunks)


def whole(content: bytes) -> np.ndarray:
    audio, _ = sf.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return audio.mean(axis=1, dtype=np.float32)


def everything(stream: io.RawIOBase, raw: RawFormat | None = None) -> Iterator[np.ndarray]:
    _, blocks = read_pipe(stream, raw)
    yield from blocks


def collect(blocks: Iterator[np.ndarray]) -> tuple[np.ndarray, str]:
    """All samples, and the error at the end, if any."""
    got = [np.zeros(0, dtype=np.float32)]
    try:
        got.extend(blocks)
    except AudioError as error:
        return np.concatenate(got), str(error)
    return np.concatenate(got), ""


@settings(max_examples=200)
@given(
    st.sampled_from(SUBTYPES),
    st.sampled_from(["WAV", "WAVEX", "RF64"]),
    st.integers(1, 3000),
    st.integers(1, 5),
    st.lists(st.integers(1, 700), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_pipe_gives_the_same_samples_as_libsndfile_from_the_file(
    subtype: str, kind: str, n_samples: int, channels: int, sizes: list[int], unknown_size: bool
) -> None:
    content = wav(noise(n_samples, channels), subtype, kind)
    expected = whole(content)
    if unknown_size and kind != "RF64":
        content = with_size(content, 0xFFFFFFFF)
        content = content[:-1] if subtype == "PCM_U8" and n_samples * channels % 2 else content  # no padding
    rate, blocks = read_pipe(Pipe(content, sizes), block_seconds=0.01)
    got = list(blocks)
    assert rate == RATE
    assert all(block.dtype == np.float32 and 0 < block.size <= 160 for block in got)
    np.testing.assert_array_equal(np.concatenate(got), expected)


@pytest.mark.parametrize(("encoding", "subtype"), zip(ENCODINGS, SUBTYPES, strict=True))
def test_raw_samples_are_read_in_the_given_format(encoding: str, subtype: str) -> None:
    raw = io.BytesIO()
    sf.write(raw, noise(999, 2), RATE, subtype=subtype, format="RAW", endian="LITTLE")
    rate, blocks = read_pipe(Pipe(raw.getvalue(), [7]), RawFormat(RATE, 2, encoding))
    assert rate == RATE
    np.testing.assert_array_equal(np.concatenate(list(blocks)), whole(wav(noise(999, 2), subtype)))


def test_the_padding_byte_of_an_odd_chunk_is_ignored() -> None:
    content = wav(noise(101), "PCM_24")
    got, error = collect(everything(Pipe(with_size(content, 0x7FFFF000))))
    assert error == ""
    np.testing.assert_array_equal(got, whole(content))
    samples = content[content.index(b"data") + 8 :]
    assert "1 bytes left over" in collect(everything(Pipe(samples), RawFormat(RATE, 1, "s24le")))[1]


def test_samples_arrive_as_soon_as_they_are_written() -> None:
    readable, writable = os.pipe()
    content = with_size(wav(noise(1000)), 0xFFFFFFFF)
    head = content.index(b"data") + 8
    with os.fdopen(readable, "rb") as stream, os.fdopen(writable, "wb", buffering=0) as program:
        program.write(content[: head + 201])
        _, blocks = read_pipe(stream, block_seconds=30.0)  # must not wait for a full block or for the end
        first = next(blocks)
        program.write(content[head + 201 : head + 400])
        second = next(blocks)
        program.write(content[head + 400 :])
        program.close()
        rest = list(blocks)
    assert (len(first), len(second)) == (100, 100)
    np.testing.assert_array_equal(np.concatenate([first, second, *rest]), whole(wav(noise(1000))))


@pytest.mark.parametrize("size", [0, 0x7FFF0000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_an_unknown_size_means_until_the_end_of_the_stream(size: int) -> None:
    content = wav(noise(5000, 2))
    got, error = collect(read_pipe(Pipe(with_size(content, size)))[1])
    assert error == ""
    np.testing.assert_array_equal(got, whole(content))


def test_chunks_after_the_audio_are_ignored() -> None:
    content = wav(noise(1001), "PCM_U8")
    got, error = collect(read_pipe(Pipe(content + chunk(b"LIST", b"INFO made by hand"), [50]))[1])
    assert error == ""
    np.testing.assert_array_equal(got, whole(content))


def test_chunks_before_the_audio_are_skipped_with_their_padding() -> None:
    audio = (noise(500)[:, 0] * 32767).astype("<i2")
    before = [chunk(b"bext", b"x" * 601), chunk(b"JUNK", b"data" * 9), fmt(), chunk(b"LIST", b"data" * 50 + b"!")]
    got, error = collect(read_pipe(Pipe(riff(*before, chunk(b"data", audio.tobytes())), [13]))[1])
    assert error == ""
    np.testing.assert_array_equal(got, audio.astype(np.float32) / 32768)


def test_an_unfinished_rf64_is_read_until_the_end() -> None:
    samples = b"\x01\x02" * 300
    for declared in (0, 2**64 - 1):
        ds64 = chunk(b"ds64", struct.pack("<QQQI", declared, declared, declared, 0))
        content = riff(ds64, fmt(), chunk(b"data", samples, 0xFFFFFFFF), magic=b"RF64")
        got, error = collect(read_pipe(Pipe(content))[1])
        assert (len(got), error) == (300, "")


def test_a_pipe_that_closes_within_a_sample_gives_complete_samples_and_an_error() -> None:
    content = with_size(wav(noise(RATE + 5, 2)), 0xFFFFFFFF)
    got, error = collect(read_pipe(Pipe(content[:-3]), name="arecord")[1])
    np.testing.assert_array_equal(got, whole(wav(noise(RATE + 5, 2)))[:-1])
    assert error == "arecord: ended within a sample after 1.000 s: 1 bytes left over, a sample has 4"


def test_a_pipe_that_closes_early_gives_its_samples_and_an_error() -> None:
    content = wav(noise(3 * RATE))
    got, error = collect(read_pipe(Pipe(content[: -2 * RATE]))[1])
    np.testing.assert_array_equal(got, whole(content)[: 2 * RATE])
    assert error == "standard input: ended after 2.000 s; its header declares 3.000 s"


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_a_truncated_header_is_refused_at_every_length(kind: str) -> None:
    content = wav(noise(10), "PCM_16", kind)
    for kept in range(content.index(b"data") + 8):
        with pytest.raises(AudioError, match=r"standard input: ends within its WAV header|before the first byte"):
            read_pipe(Pipe(content[:kept]))


@pytest.mark.parametrize("content", [wav(np.zeros((0, 1))), with_size(wav(noise(1)), 0)[:-2]])
def test_a_stream_without_samples_is_refused(content: bytes) -> None:
    assert collect(read_pipe(Pipe(content))[1])[1] == "standard input: has no samples; at least one is needed"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"RIFX" + wav(noise(9))[4:], "big-endian"),
        (b"this is not audio at all", r"not a WAV stream \(starts with b'this'\)"),
        (b"RIFF\0\0\0\0AVI LIST" + b"\0" * 99, "not a WAV stream"),
        (b"fLaC" + b"\0" * 99, r"not a WAV stream.*ffmpeg -i - -f wav -"),
        (riff(chunk(b"data", b"1234")), "no format chunk before the audio"),
        (riff(chunk(b"fmt ", b"\1\0\1\0"), chunk(b"data", b"1234")), "format chunk has 4 bytes"),
        (riff(fmt(tag=0x55), chunk(b"data", b"1234")), "format 0x0055 with 16 bits"),
        (riff(fmt(tag=0xFFFE), chunk(b"data", b"1234")), "format 0xfffe"),
        (riff(fmt(bits=12), chunk(b"data", b"1234")), "with 12 bits"),
        (riff(fmt(tag=3, bits=16), chunk(b"data", b"1234")), "format 0x0003 with 16 bits"),
        (riff(fmt(frame_bytes=3), chunk(b"data", b"1234")), "are 2 bytes, but it declares 3"),
        (riff(fmt(channels=0), chunk(b"data", b"1234")), "0 channels; expected 1 to 1024"),
        (riff(fmt(channels=30000), chunk(b"data", b"1234")), "30000 channels; expected 1 to 1024"),
        (riff(fmt(rate=0), chunk(b"data", b"1234")), "sample rate of 0 Hz"),
        (riff(fmt(rate=2**32 - 1), chunk(b"data", b"1234")), "sample rate of 4294967295 Hz"),
        (riff(chunk(b"JUNK", b"", 2**32 - 1), b"\0" * 99), "no audio within the first 16777216 bytes"),
    ],
)
def test_an_invalid_header_is_refused_in_one_line(content: bytes, reason: str) -> None:
    with pytest.raises(AudioError, match=f"^nightjar: .*{reason}") as caught:
        read_pipe(Pipe(content), name="nightjar")
    assert "\n" not in str(caught.value)


def test_an_invalid_raw_format_is_refused() -> None:
    for raw, reason in {
        RawFormat(RATE, 1, "mp3"): "unknown encoding 'mp3'; expected one of u8, s16le",
        RawFormat(RATE, 0): "0 channels",
        RawFormat(0, 1): "sample rate of 0 Hz",
    }.items():
        with pytest.raises(AudioError, match=reason):
            read_pipe(Pipe(b"1234"), raw)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_after_the_preceding_blocks(subtype: str, value: float) -> None:
    audio = noise(RATE, 2)
    audio[5000, 1] = value
    got, error = collect(read_pipe(Pipe(wav(audio, subtype)), block_seconds=0.1)[1])
    assert len(got) == 4800
    assert error.startswith("standard input, 0.3 s after the start: 1 of 1600 samples are NaN")


def test_a_float64_beyond_float32_is_refused_as_infinite() -> None:
    assert "infinite" in collect(read_pipe(Pipe(wav(np.full((9, 1), 1e300), "DOUBLE")))[1])[1]


def test_a_broken_stream_is_an_error_after_the_samples_received() -> None:
    class Broken(Pipe):
        def read(self, size: int = -1) -> bytes:
            if self.at > 1000:
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(size)

    got, error = collect(read_pipe(Broken(wav(noise(5000)), [300]))[1])
    assert len(got) == 4 * 300 // 2
    assert "cannot be read ([Errno 104]" in error


def test_a_non_blocking_pipe_is_refused() -> None:
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    with os.fdopen(readable, "rb") as stream, os.fdopen(writable, "wb"), pytest.raises(AudioError, match="blocking"):
        read_pipe(stream)


HEADERS = [
    wav(noise(300, 2), "PCM_16")[:600],
    wav(noise(300, 3), "PCM_24", "WAVEX")[:600],
    wav(noise(300), "FLOAT", "RF64")[:600],
    riff(chunk(b"LIST", b"INFOabc"), fmt(), chunk(b"data", b"\1\2" * 200)),
]


@given(
    st.sampled_from(HEADERS),
    st.lists(st.tuples(st.integers(0, 120), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(1, 700),
    st.lists(st.integers(1, 64), min_size=1, max_size=3),
)
def test_damaged_headers_end_in_an_audio_error_or_in_finite_samples(
    header: bytes, damage: list[tuple[int, bytes]], kept: int, sizes: list[int]
) -> None:
    content = bytearray(header)
    for at, new in damage:
        content[at : at + len(new)] = new
    stream = Pipe(bytes(content[:kept]), sizes)
    tracemalloc.start()
    got, error = collect(everything(stream))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(got).all()
    assert got.size <= len(content)
    assert got.size or error
    assert "\n" not in error
    assert stream.largest <= 2**20  # requested in one read
    assert peak < 2**20  # no allocation is sized by a number in the header


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_end_in_an_audio_error_or_in_finite_samples(content: bytes, as_wav: bool) -> None:
    content = b"RIFF\0\0\0\0WAVE" + content if as_wav else content
    for raw in (None, RawFormat(RATE, 3, "f32le"), RawFormat(RATE, 1, "s24le")):
        got, error = collect(everything(Pipe(content), raw))
        assert np.isfinite(got).all()
        assert got.size or error


def test_a_wav_file_on_standard_input_equals_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(noise(200000, 2), "PCM_24"))
    for buffering in (-1, 0):
        with (tmp_path / "a.wav").open("rb", buffering=buffering) as stream:
            _, blocks = read_pipe(stream)
            np.testing.assert_array_equal(np.concatenate(list(blocks)), whole((tmp_path / "a.wav").read_bytes()))
