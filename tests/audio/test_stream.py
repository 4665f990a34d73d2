from __future__ import annotations

import itertools
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.audio.io import EncodedAudio, audio_info, read_audio, stream_audio
from weakaudio.audio.resampling import Resampler, resample, resample_blocks
from weakaudio.errors import AudioError

RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000]
FORMATS: dict[str, dict[str, str]] = {
    "wav": {"format": "WAV", "subtype": "FLOAT"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG"},
    "mp3": {"format": "MP3"},
}


def noise(n_samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(n_samples).uniform(-0.7, 0.7, (n_samples, channels)).astype(np.float32)


def whole(path: Path, sample_rate: int | None = None) -> np.ndarray:
    """The complete file, read without weakaudio."""
    audio, rate = sf.read(path, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1, dtype=np.float32)
    return mono if sample_rate in (None, rate) else soxr.resample(mono, rate, sample_rate, quality="HQ")


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=30)
@given(st.data())
def test_concatenated_blocks_equal_the_file(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    rate = data.draw(st.sampled_from([r for r in RATES if suffix != "mp3" or r <= 48000]), label="rate")
    target = data.draw(st.none() | st.sampled_from(RATES), label="target")
    length = data.draw(st.integers(1, 5) | st.integers(1, 30000), label="length")
    channels = data.draw(st.integers(1, 2 if suffix == "mp3" else 3), label="channels")
    block_seconds = data.draw(st.sampled_from([0.001, 0.0131, 0.1, 0.25, 30.0]), label="block_seconds")
    path = tmp_path_factory.getbasetemp() / f"stream.{suffix}"
    sf.write(path, noise(length, channels), rate, **FORMATS[suffix])
    blocks = list(stream_audio(path, target, block_seconds))
    assert all(block.dtype == np.float32 and block.ndim == 1 and block.size for block in blocks)
    together = np.concatenate(blocks)
    read, _ = read_audio(path, target)
    assert len(together) == len(read)
    np.testing.assert_allclose(together, read, rtol=0, atol=1e-6)
    if whole(path, target).size:  # soxr itself may return nothing for a few samples
        np.testing.assert_allclose(together, whole(path, target), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "subtype", "rate"), [("a.mp3", None, 44100), ("a.mp3", None, 16000), ("a.ogg", "OPUS", 48000)]
)
@pytest.mark.parametrize("block_seconds", [0.0131, 0.3, 1.0])
def test_stateful_decoders_lose_nothing_between_blocks(
    tmp_path: Path, name: str, subtype: str | None, rate: int, block_seconds: float
) -> None:
    sf.write(tmp_path / name, noise(3 * rate + 17, 2), rate, subtype=subtype)
    together = np.concatenate(list(stream_audio(tmp_path / name, None, block_seconds)))
    np.testing.assert_allclose(together, whole(tmp_path / name), rtol=0, atol=1e-6)


def test_encoded_audio_in_memory_can_be_streamed(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", noise(5000), 16000)
    inside = EncodedAudio((tmp_path / "a.flac").read_bytes(), "corpus.zip/a.flac")
    together = np.concatenate(list(stream_audio(inside, 8000, 0.1)))
    np.testing.assert_allclose(together, whole(tmp_path / "a.flac", 8000), rtol=0, atol=1e-6)


def test_blocks_are_no_longer_than_requested(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", noise(16000), 16000)
    assert [len(block) for block in stream_audio(tmp_path / "a.wav", None, 0.3)] == [4800, 4800, 4800, 1600]
    with pytest.raises(ValueError, match="positive"):
        next(stream_audio(tmp_path / "a.wav", None, 0.0))


@pytest.mark.parametrize(
    ("channels", "seconds", "block_seconds", "limit"), [(2, 200, 1.0, 4e6), (1024, 1, 30.0, 64e6)]
)
def test_memory_does_not_grow_with_the_recording(
    tmp_path: Path, channels: int, seconds: int, block_seconds: float, limit: float
) -> None:
    path = tmp_path / "long.wav"
    size = seconds * 48000 * channels * 2
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, 48000, 48000 * channels * 2, channels * 2, 16)
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size))
    os.truncate(path, path.stat().st_size + size)  # a sparse file: silence without disk space
    assert audio_info(path).seconds == seconds
    tracemalloc.start()
    n_samples = sum(len(block) for block in stream_audio(path, 32000, block_seconds))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_samples == seconds * 32000
    assert peak < limit


def test_nan_is_refused_in_its_block_after_the_preceding_blocks(tmp_path: Path) -> None:
    audio = noise(10000)
    audio[4321] = np.nan
    sf.write(tmp_path / "bad.wav", audio, 10000, subtype="FLOAT")
    blocks = stream_audio(tmp_path / "bad.wav", None, 0.1)
    assert sum(len(next(blocks)) for _ in range(4)) == 4000
    with pytest.raises(AudioError, match=r"bad\.wav, 0\.4 to 0\.5 s: 1 of 1000 samples are NaN"):
        next(blocks)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "rf64"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_refused_by_the_end_of_the_stream(tmp_path: Path, suffix: str, kept: float) -> None:
    sf.write(tmp_path / f"whole.{suffix}", noise(60000), 16000)
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(AudioError, match=rf"cut\.{suffix}"):
        list(stream_audio(tmp_path / f"cut.{suffix}", 8000, 0.1))


def test_files_that_are_not_recordings_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("this is not audio\n" * 100)
    sf.write(tmp_path / "zero.wav", np.zeros(0), 16000)
    for name, reason in {
        "absent.wav": "no such file",
        "empty.wav": "empty file",
        "text.mp3": "not audio",
        "zero.wav": "has no samples",
    }.items():
        with pytest.raises(AudioError, match=f"{name}: {reason}"):
            list(stream_audio(tmp_path / name, 8000))


def test_a_file_that_grows_while_it_is_read_ends_where_it_ended_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "growing.wav"
    sf.write(path, noise(50000), 16000)
    expected = whole(path)
    blocks = stream_audio(path, None, 0.5)
    first = next(blocks)
    with sf.SoundFile(path, "r+") as file:  # append samples and update the header
        file.seek(0, sf.SEEK_END)
        file.write(noise(30000))
    np.testing.assert_array_equal(np.concatenate([first, *blocks]), expected)
    assert len(read_audio(path)[0]) == 80000


def test_a_wav_that_is_still_being_recorded_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    sf.write(path, noise(20000), 16000, subtype="PCM_16")
    expected = whole(path)
    content = bytearray(path.read_bytes())
    content[4:8] = content[content.index(b"data") + 4 : content.index(b"data") + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    blocks = stream_audio(path, None, 0.5)
    first = next(blocks)
    with path.open("ab") as file:
        file.write(b"\x01\x02" * 20000)
    np.testing.assert_array_equal(np.concatenate([first, *blocks]), expected)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shrinking.wav"
    sf.write(path, noise(200000), 16000)
    blocks = stream_audio(path, None, 0.5)
    next(blocks)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AudioError, match=r"shrinking\.wav: truncated"):
        list(blocks)


def flac_of_length(path: Path, n_samples: int, audio: np.ndarray, rate: int) -> None:
    """A FLAC file whose header declares any length; 0: unknown, as of a FLAC written into a pipe."""
    sf.write(path, audio, rate, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | n_samples >> 32  # STREAMINFO: the lower 4 bits, and 4 bytes
    content[22:26] = (n_samples & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)


def test_a_flac_written_into_a_pipe_is_read_in_full(tmp_path: Path) -> None:
    flac_of_length(tmp_path / "a.flac", 0, noise(50000), 16000)
    sf.write(tmp_path / "known.flac", noise(50000), 16000)
    expected = whole(tmp_path / "known.flac")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.flac")[0], expected)
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(tmp_path / "a.flac", None, 0.1))), expected)
    assert audio_info(tmp_path / "a.flac").n_samples == 50000
    np.testing.assert_array_equal(read_audio(tmp_path / "a.flac", start=1.0, seconds=0.5)[0], expected[16000:24000])


def test_an_impossible_length_allocates_no_memory(tmp_path: Path) -> None:
    flac_of_length(tmp_path / "a.flac", 2**36 - 1, noise(50000), 16000)
    tracemalloc.start()
    for read in (read_audio, lambda path: list(stream_audio(path))):
        with pytest.raises(AudioError, match=r"a\.flac: truncated: the header declares 68719476735 samples, 50000"):
            read(tmp_path / "a.flac")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_an_impossible_rate_is_refused(tmp_path: Path, rate: int) -> None:
    sf.write(tmp_path / "a.wav", noise(1000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for read in (read_audio, audio_info, lambda path: list(stream_audio(path))):
        with pytest.raises(AudioError, match=rf"a\.wav: a sample rate of {rate} Hz"):
            read(tmp_path / "a.wav")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_a_stream_that_is_left_closes_its_file(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", noise(50000), 16000)
    before = len(os.listdir("/proc/self/fd"))
    blocks = stream_audio(tmp_path / "a.wav", 8000, 0.1)
    next(blocks)
    blocks.close()
    assert len(os.listdir("/proc/self/fd")) == before


@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.lists(st.integers(0, 3) | st.integers(0, 5000), min_size=1, max_size=12),
)
def test_resampled_blocks_equal_the_resampled_audio(source: int, target: int, lengths: list[int]) -> None:
    audio = noise(sum(lengths))[:, 0]
    edges = np.cumsum([0, *lengths])
    blocks = [audio[a:b] for a, b in itertools.pairwise(edges)]
    resampler = Resampler(source, target)
    together = np.concatenate([*(resampler.process(block) for block in blocks), resampler.finish()])
    expected = resample(audio, source, target)
    assert together.shape == expected.shape
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-6)
    pulled = list(resample_blocks(blocks, source, target))
    assert all(block.size for block in pulled)
    assert sum(map(len, pulled)) == len(expected)
