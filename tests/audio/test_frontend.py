from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weakaudio.audio.frontend import FRONT_ENDS, LogMel, get_front_end, kaldi_filters
from weakaudio.errors import WeakAudioError

RATE = 44100


def librosa_logmel(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, F), with librosa's defaults, as in arXiv 1711.01369."""
    power = librosa.feature.melspectrogram(y=audio, sr=RATE, n_fft=1024, hop_length=512, n_mels=128)
    return librosa.power_to_db(power).T


def noise(n_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def chirp_over_hiss() -> NDArray[np.float32]:
    t = np.arange(2 * RATE) / RATE
    return (0.5 * np.sin(2 * np.pi * (100 + 4000 * t) * t)).astype(np.float32) + 0.01 * noise(2 * RATE)


def click_in_silence() -> NDArray[np.float32]:
    audio = np.zeros(RATE, dtype=np.float32)
    audio[RATE // 2] = 1.0
    return audio


SIGNALS = {
    "one sample": np.array([0.5], dtype=np.float32),
    "less than a hop": noise(300),
    "one hop": noise(512),
    "less than a window": noise(1023),
    "one window": noise(1024),
    "5 s": noise(5 * RATE),
    "odd length": noise(44101),
    "silence": np.zeros(RATE, dtype=np.float32),
    "a click in silence": click_in_silence(),
    "chirp over hiss": chirp_over_hiss(),
    "very quiet": np.float32(1e-5) * noise(RATE),
    "over full scale": np.float32(50) * noise(RATE),
    "noise, then silence": np.concatenate([noise(RATE), np.zeros(RATE, dtype=np.float32)]),
}


@pytest.mark.filterwarnings("ignore:n_fft=1024 is too large")
@pytest.mark.parametrize("name", SIGNALS)
def test_paper_front_end_equals_librosa(name: str) -> None:
    logmel, n_frames = LogMel("paper-44k")(torch.from_numpy(SIGNALS[name])[None])
    expected = librosa_logmel(SIGNALS[name])
    assert n_frames.tolist() == [len(expected)]
    np.testing.assert_allclose(logmel[0].numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["16k", "32k"])
def test_other_front_ends_are_scaled_decibels_over_a_fixed_floor(name: str) -> None:
    fe = get_front_end(name)
    audio = noise(3 * fe.sample_rate)
    power = librosa.feature.melspectrogram(
        y=audio, sr=fe.sample_rate, n_fft=fe.n_fft, hop_length=fe.hop_length, n_mels=fe.n_mels, fmin=20.0
    )
    level = librosa.power_to_db(power, top_db=None).T
    logmel, _ = LogMel(name)(torch.from_numpy(audio)[None])
    np.testing.assert_allclose(logmel[0].numpy(), (level + 100) / 50, rtol=0, atol=1e-4)


def efficientat_logmel(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """(T, F), as in the release of arXiv 2211.04772 for inference; Kaldi's filters from their formula."""
    emphasised = torch.from_numpy(audio[1:].astype(np.float64) - 0.97 * audio[:-1].astype(np.float64))
    window = torch.hann_window(800, periodic=False, dtype=torch.float64)
    spectrum = torch.stft(emphasised, 1024, 320, 800, window, center=True, return_complex=True)
    mel = 1127 * np.log1p(np.arange(513) * 32000 / 1024 / 700)
    edges = np.linspace(0, 1127 * np.log1p(15000 / 700), 130)
    rise = (mel - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - mel) / np.diff(edges)[1:, None]
    power = np.minimum(rise, fall).clip(min=0) @ spectrum.abs().square().numpy()
    return (np.log(power + 0.00001).T + 4.5) / 5


@pytest.mark.parametrize(
    "name", ["5 s", "odd length", "silence", "a click in silence", "chirp over hiss", "very quiet", "over full scale"]
)
def test_efficientat_front_end_equals_its_formula(name: str) -> None:
    logmel, n_frames = LogMel("efficientat-32k")(torch.from_numpy(SIGNALS[name])[None])
    expected = efficientat_logmel(SIGNALS[name])
    assert n_frames.tolist() == [len(expected)]
    np.testing.assert_allclose(logmel[0].numpy(), expected, rtol=0, atol=1e-3)


# First bin and first weights of some filters of `efficientat-32k`, by torchaudio 2.11.0.
KALDI_GOLDEN = {
    0: (1, [0.188595250]),
    1: (1, [0.811404765]),
    40: (37, [0.447433323, 0.860155225, 0.179107293]),
    127: (457, [0.0564500205, 0.142872542, 0.229124367, 0.315178514, 0.401070952, 0.486774713, 0.572316766]),
}


def test_kaldi_filters_are_those_of_torchaudio_as_stored() -> None:
    filters = kaldi_filters(32000, 1024, 128, 0.0, 15000.0)
    assert filters.shape == (513, 128)
    assert not filters[481:].any()  # above f_max; bin 480 is at it
    for band, (first, weights) in KALDI_GOLDEN.items():
        assert not filters[:first, band].any()
        # Slopes are differences of logarithms, whose last bit is the processor's.
        torch.testing.assert_close(
            filters[first : first + len(weights), band], torch.tensor(weights), rtol=0, atol=5e-5
        )


@pytest.mark.parametrize(
    ("sample_rate", "n_fft", "n_mels", "f_min", "f_max"),
    [(32000, 1024, 128, 0.0, 15000.0), (16000, 512, 64, 20.0, 8000.0), (44100, 2048, 80, 50.0, 22050.0)],
)
def test_kaldi_filters_equal_those_of_the_torchaudio_installed(
    sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float
) -> None:
    try:
        from torchaudio.compliance.kaldi import get_mel_banks
    except (ImportError, OSError) as error:  # OSError: its binaries are for another torch
        pytest.skip(f"torchaudio cannot be imported beside torch {torch.__version__}: {error}")
    expected, _ = get_mel_banks(n_mels, n_fft, float(sample_rate), f_min, f_max, 100.0, -500.0, 1.0)
    filters = kaldi_filters(sample_rate, n_fft, n_mels, f_min, f_max)
    torch.testing.assert_close(filters[:-1].T, expected, rtol=0, atol=1e-7)
    assert not filters[-1].any()


def test_ten_seconds_have_1000_frames_at_efficientat_as_in_its_release() -> None:
    assert LogMel("efficientat-32k")(torch.zeros(1, 320000))[1].tolist() == [1000]
    assert LogMel("32k")(torch.zeros(1, 320000))[1].tolist() == [1001]


@pytest.mark.parametrize("n_samples", [2, 3, 100, 512, 513, 514, 2000])
def test_edges_are_mirrored_as_numpy_does(n_samples: int) -> None:
    """Including clips shorter than half a window, which are mirrored repeatedly."""
    fe = replace(get_front_end("efficientat-32k"), pre_emphasis=0.0)
    audio = noise(n_samples)
    mirrored = np.pad(audio, fe.n_fft // 2, mode="reflect")
    logmel, _ = LogMel(fe)(torch.from_numpy(audio)[None])
    # This frame lies within the signal that was mirrored by hand, so it needs no padding.
    middle = LogMel(replace(fe, edges="zeros", hop_length=fe.n_fft // 2))
    by_hand, _ = middle(torch.from_numpy(mirrored)[None, : fe.n_fft])
    torch.testing.assert_close(logmel[0, 0], by_hand[0, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["16k", "32k"])
def test_silence_is_exactly_zero(name: str) -> None:
    logmel, _ = LogMel(name)(torch.zeros(2, 5000))
    assert torch.count_nonzero(logmel) == 0


@pytest.mark.parametrize("name", FRONT_ENDS)
@settings(max_examples=25)
@example(lengths=[1, 44100])
@given(lengths=st.lists(st.integers(1, 30000), min_size=2, max_size=4))
def test_padding_does_not_change_a_clip(name: str, lengths: list[int]) -> None:
    front_end = LogMel(name)
    clips = [(10.0**-seed) * torch.from_numpy(noise(n, seed)) for seed, n in enumerate(lengths)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    together, n_frames = front_end(batch, torch.tensor(lengths))
    for clip, logmel, frames in zip(clips, together, n_frames, strict=True):
        alone, (expected_frames,) = front_end(clip[None])
        assert frames == expected_frames == alone.shape[1] == front_end.front_end.n_frames(len(clip))
        torch.testing.assert_close(logmel[:frames], alone[0], rtol=0, atol=1e-4 * front_end.front_end.gain)
        assert torch.count_nonzero(logmel[frames:]) == 0


def test_the_floor_of_paper_44k_depends_only_on_the_clip() -> None:
    """For a quiet clip in a batch with a loud one."""
    front_end = LogMel("paper-44k")
    loud, quiet = torch.from_numpy(noise(RATE)), 1e-4 * torch.from_numpy(noise(RATE // 2))
    batch = torch.nn.utils.rnn.pad_sequence([loud, quiet], batch_first=True)
    logmel, n_frames = front_end(batch, torch.tensor([len(loud), len(quiet)]))
    second = logmel[1, : n_frames[1]]
    assert second.max() < logmel[0].max() - 70
    assert second.min() < logmel[0].max() - 80
    torch.testing.assert_close(second, front_end(quiet[None])[0][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_autocast_changes_nothing(name: str) -> None:
    front_end, audio = LogMel(name), torch.from_numpy(noise(2 * 10000)).reshape(2, -1)
    expected, _ = front_end(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logmel, _ = front_end(audio)
    assert logmel.dtype == torch.float32
    assert torch.equal(logmel, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_gpu_equals_cpu_even_inside_autocast(name: str) -> None:
    audio, lengths = torch.from_numpy(noise(2 * 50000)).reshape(2, -1), torch.tensor([50000, 20000])
    audio[1, 20000:] = 0
    expected, frames = LogMel(name)(audio, lengths)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logmel, gpu_frames = LogMel(name).cuda()(audio.cuda(), lengths.cuda())
    assert logmel.dtype == torch.float32
    assert gpu_frames.tolist() == frames.tolist()
    torch.testing.assert_close(logmel.cpu(), expected, rtol=0, atol=1e-3)


def test_the_waveform_is_not_modified() -> None:
    audio = torch.from_numpy(noise(5000))[None]
    before = audio.clone()
    LogMel("16k")(audio)
    assert torch.equal(audio, before)


def test_an_unknown_front_end_is_refused_with_the_known_names() -> None:
    with pytest.raises(WeakAudioError, match=r"'48k'.*paper-44k, 32k, 16k"):
        get_front_end("48k")


def test_only_the_preset_that_requires_float64_uses_it() -> None:
    """Not every device supports float64."""
    doubles = {name for name in FRONT_ENDS if any(b.dtype == torch.float64 for b in LogMel(name).buffers())}
    assert doubles == {"paper-44k"}
