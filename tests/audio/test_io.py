from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weakaudio.audio.io import (
    EncodedAudio,
    audio_info,
    find_audio,
    from_int16,
    read_audio,
    resample,
    to_int16,
    write_wav,
)
from weakaudio.errors import AudioError

RATE = 44100


def sine(frequency: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise(n_samples: int, channels: int = 1) -> np.ndarray:
    shape = (n_samples, channels) if channels > 1 else n_samples
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "FLOAT", 0.0),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
def test_lossless_formats_keep_the_samples_to_one_quantisation_step(
    tmp_path: Path, name: str, subtype: str, step: float
) -> None:
    sf.write(tmp_path / name, noise(RATE), RATE, subtype=subtype)
    audio, rate = read_audio(tmp_path / name)
    assert (audio.dtype, audio.shape, rate) == (np.float32, (RATE,), RATE)
    np.testing.assert_allclose(audio, noise(RATE), rtol=0, atol=step)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_formats_keep_length_and_waveform(tmp_path: Path, name: str) -> None:
    sf.write(tmp_path / name, sine(440), RATE)
    audio, _ = read_audio(tmp_path / name)
    assert len(audio) == RATE
    inner = slice(RATE // 10, -RATE // 10)
    assert np.sqrt(np.mean((audio - sine(440))[inner] ** 2)) < 0.01


def test_eight_channels_at_96_khz_become_their_mean(tmp_path: Path) -> None:
    channels = noise(9600, channels=8)
    sf.write(tmp_path / "a.wav", channels, 96000, subtype="FLOAT")
    audio, rate = read_audio(tmp_path / "a.wav")
    assert rate == 96000
    np.testing.assert_allclose(audio, channels.mean(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("source", [8000, 16000, 22050, 44100, 96000])
@pytest.mark.parametrize("target", [8000, 16000, 32000, 44100])
def test_resampled_sine_keeps_frequency_and_level(tmp_path: Path, source: int, target: int) -> None:
    sf.write(tmp_path / "a.wav", sine(1000, seconds=3, rate=source), source, subtype="FLOAT")
    audio, rate = read_audio(tmp_path / "a.wav", target)
    assert rate == target
    assert abs(len(audio) - 3 * target) <= 1
    inner = audio[target : 2 * target]  # one second, so bin n of its spectrum is n Hz
    spectrum = np.abs(np.fft.rfft(inner)) / (target / 2)
    assert int(spectrum.argmax()) == 1000
    assert spectrum[1000] == pytest.approx(0.5, abs=1e-3)
    assert np.delete(spectrum, 1000).max() < 1e-3


def test_resampling_removes_frequencies_above_the_new_nyquist() -> None:
    aliased = resample(sine(7000, rate=32000), 32000, 8000)
    assert np.abs(aliased[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("target", [None, 8000, 16000, 96000])
def test_one_sample_is_a_clip_at_every_rate(tmp_path: Path, suffix: str, target: int | None) -> None:
    path = tmp_path / f"one.{suffix}"
    sf.write(path, np.array([0.25], dtype=np.float32), RATE)
    audio, _ = read_audio(path, target)
    assert len(audio) >= 1
    assert np.isfinite(audio).all()


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32)), st.integers(4000, 192000))
def test_resampling_keeps_at_least_one_sample(audio: np.ndarray, target: int) -> None:
    resampled = resample(audio, RATE, target)
    assert resampled.dtype == np.float32
    assert len(resampled) >= 1
    assert abs(len(resampled) - len(audio) * target / RATE) <= 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_a_file_without_samples_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"zero.{suffix}"
    sf.write(path, np.zeros(0, dtype=np.float32), RATE)
    with pytest.raises(AudioError, match="zero"):
        read_audio(path)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty\.wav: empty file"):
        read_audio(tmp_path / "empty.wav")


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.raw", "text.xyz"])
def test_a_text_file_is_named_whatever_its_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is not audio\n" * 100)
    with pytest.raises(AudioError, match=name):
        read_audio(tmp_path / name)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.wav", tmp_path):
        with pytest.raises(AudioError, match=path.name):
            read_audio(path)
        with pytest.raises(AudioError, match=path.name):
            audio_info(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples_are_refused(tmp_path: Path, value: float) -> None:
    audio = noise(1000)
    audio[10:15] = value
    sf.write(tmp_path / "bad.wav", audio, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"bad\.wav: 5 of 1000 samples"):
        read_audio(tmp_path / "bad.wav")


def test_wav_full_of_nan_is_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "nan.wav", np.full((1000, 2), np.nan), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav"):
        read_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "rf64"])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    sf.write(whole, noise(3 * RATE), RATE)
    assert len(read_audio(whole)[0]) == 3 * RATE
    content = whole.read_bytes()
    cut.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(AudioError, match=rf"cut\.{suffix}"):
        read_audio(cut)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_read_completely(tmp_path: Path, size: int) -> None:
    path = tmp_path / "streamed.wav"
    sf.write(path, noise(RATE), RATE, subtype="PCM_16")
    whole, _ = read_audio(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    path.write_bytes(content)
    np.testing.assert_array_equal(read_audio(path)[0], whole)


def test_info_reads_the_header(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", noise(4800, channels=2), 48000)
    info = audio_info(tmp_path / "a.flac")
    assert (info.sample_rate, info.channels, info.n_samples, info.seconds) == (48000, 2, 4800, 0.1)


@given(hnp.arrays(np.int16, st.integers(1, 100)))
def test_int16_to_float_and_back_is_exact(samples: np.ndarray) -> None:
    audio = from_int16(samples)
    assert audio.dtype == np.float32
    assert np.abs(audio).max() <= 1
    np.testing.assert_array_equal(to_int16(audio), samples)


@given(st.floats(-4, 4, width=32))
def test_float_to_int16_rounds_and_clips(value: float) -> None:
    (sample,) = to_int16(np.array([value], dtype=np.float32))
    assert abs(int(sample) - min(max(value * 32768, -32768), 32767)) <= 0.5


def test_written_wav_reads_back_exactly(tmp_path: Path) -> None:
    audio = from_int16(np.array([-32768, -1, 0, 1, 32767], dtype=np.int16))
    write_wav(tmp_path / "a.wav", audio, 16000)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], audio)


def test_find_audio_sorts_nested_files_by_path(make_wavs: Callable[..., Path]) -> None:
    names = ["b/z.WAV", "b.wav", "a/deep/er/x.flac", "a/y.wav", "ü ber/ß.wav"]
    root = make_wavs({name: noise(10) for name in names})
    (root / "notes.txt").write_text("not audio")
    (root / "folder.wav").mkdir()
    found = [path.relative_to(root).as_posix() for path in find_audio(root)]
    assert found == sorted(names)


@pytest.mark.parametrize("hidden", ["._a.wav", "sub/.b.wav", ".Trash-1000/files/c.wav"])
def test_find_audio_ignores_hidden_files(make_wavs: Callable[..., Path], hidden: str) -> None:
    root = make_wavs({"seen.wav": noise(10), hidden: noise(10)})
    assert find_audio(root) == [root / "seen.wav"]


def test_find_audio_searches_a_folder_below_a_hidden_one(make_wavs: Callable[..., Path]) -> None:
    root = make_wavs({".cache/corpus/a.wav": noise(10)}) / ".cache" / "corpus"
    assert find_audio(root) == [root / "a.wav"]


def test_find_audio_refuses_a_folder_without_audio(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AudioError, match=folder.name):
            find_audio(folder)


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_an_ogg_truncated_within_a_page_is_refused(format: str, subtype: str) -> None:
    whole = BytesIO()
    sf.write(whole, np.random.default_rng(0).normal(0, 0.1, (16000, 2)), 16000, format=format, subtype=subtype)
    content = whole.getvalue()
    last = content.rindex(b"OggS")
    for end in (last + 1, last + 30, (last + len(content)) // 2, len(content) - 1):
        with pytest.raises(AudioError, match="truncated"):
            read_audio(EncodedAudio(content[:end], "cut.ogg"))


def test_samples_that_would_overflow_are_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.full(4000, 1.7e38, np.float32), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav.*samples of up to 1.7e\+38"):
        read_audio(tmp_path / "a.wav", 8000)


def test_a_flac_that_libsndfile_would_decode_to_silence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    sf.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(AudioError, match="blocks of 65535 samples"):
        read_audio(path)
