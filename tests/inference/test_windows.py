"""A recording in parts is the recording as a whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.errors import WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.inference.parts import Pooled, join
from weakaudio.inference.windows import Window, Windower, cut, find_loudest
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model

Randomise = Callable[[Network], Network]

LABELS = [f"class {n}" for n in range(3)]
CASES = {
    "weakcnn": ("weakcnn", {"n_mels": 64, "width": 1 / 8}, "16k"),
    "weakcnn, floors": ("weakcnn", {"n_mels": 64, "width": 1 / 8, "coverage": "paper"}, "16k"),
    "weakcnn, front end of the paper": ("weakcnn", {"n_mels": 128, "width": 1 / 8, "depth": 1}, "paper-44k"),
    "windowed-cnn": ("windowed-cnn", {"n_mels": 64, "width": 1 / 8}, "16k"),
    "cnn14": ("cnn14", {"n_mels": 64, "width": 1 / 16}, "panns-32k"),
    "flash": ("flash", {"n_mels": 64, "stages": [("dense", 1, 8)] * 4, "n_features": 16}, "16k"),
    "flash, finer scores": (
        "flash",
        {"n_mels": 64, "stages": [("dense", 1, 8)] * 4, "n_features": 16, "score_stride": 4, "score_width": 8},
        "16k",
    ),
    "flash, mirrored ends": ("flash", {"n_mels": 128, "stages": [("dense", 1, 8)] * 4}, "efficientat-32k"),
    "stacked": ("stacked", {"base": "weakcnn", "base_config": {"n_classes": 4, "n_mels": 64, "width": 1 / 8}}, "16k"),
}


def model_of(case: str, randomise: Randomise) -> Model:
    name, config, front_end = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(randomise(build_network(name, n_classes=len(LABELS), **config)), front_end, LABELS).eval()


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    """Louder and softer by the second, so that no two parts are alike."""
    rng = np.random.default_rng(seed)
    level = np.repeat(10.0 ** rng.uniform(-3, -0.5, n_samples // 8000 + 1), 8000)[:n_samples]
    return (level * rng.standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=6)
@given(data=st.data())
def test_a_recording_in_windows_is_the_recording_as_a_whole(
    case: str, data: st.DataObject, randomise: Randomise
) -> None:
    model = model_of(case, randomise)
    rate = model.sample_rate
    clip = noise(data.draw(st.integers(1, 20 * rate)))
    context = data.draw(st.integers(0, 2))
    seconds = data.draw(st.floats(0.1, 4.0))
    blocks = np.split(clip, sorted(data.draw(st.lists(st.integers(0, len(clip)), max_size=5))))
    embedder = Embedder(model, "f1+f2", "mean+max+std")
    (whole,) = embedder.embed_windows([Window(clip)])

    windower = Windower(model, seconds, context, find_loudest(model, blocks))
    windows = [window for block in blocks for window in windower.push(block)] + [windower.finish()]
    parts = embedder.embed_windows(windows)
    core = np.concatenate([part.segments[part.core] for part in parts])
    times = np.concatenate([part.times[part.core] for part in parts])
    np.testing.assert_allclose(core, whole.segments, atol=1e-4)
    np.testing.assert_allclose(times, whole.times, atol=1e-9)

    (scored,) = embedder.score_windows([Window(clip)])
    scores = embedder.score_windows(windows)
    core, times = (np.concatenate([getattr(part, of)[part.core] for part in scores]) for of in ("segments", "times"))
    np.testing.assert_allclose(core, scored.segments, atol=1e-4)
    np.testing.assert_allclose(times, model.score_times(len(clip)), atol=1e-9)

    starts = np.cumsum([0] + [len(part.segments[part.core]) for part in parts])
    for n, part in enumerate(parts):  # the context is right, too
        first, last = starts[n] - part.context_before, starts[n + 1] + part.context_after
        np.testing.assert_allclose(part.segments, whole.segments[first:last], atol=1e-4)
        assert part.context_before == min(context, starts[n])
    assert [part.context_after for part in parts[:-1]] == [context] * (len(parts) - 1)
    assert max(len(window.audio) for window in windows) <= (seconds + 15) * rate


def test_finer_scores_in_bfloat16_are_near_those_in_float32(randomise: Randomise) -> None:
    model, clip = model_of("flash, finer scores", randomise), noise(5 * 16000)
    parts = [Embedder(model, dtype=dtype).score_windows([Window(clip)]) for dtype in ("float32", "bfloat16")]
    exact, rounded = (part for (part,) in parts)
    np.testing.assert_allclose(rounded.segments, exact.segments, atol=0.05)
    assert (rounded.segments != exact.segments).any()


@pytest.mark.parametrize("case", CASES)
def test_a_network_sees_as_far_as_it_says(case: str, randomise: Randomise) -> None:
    network = model_of(case, randomise).network
    network.double()
    context, geometry = network.context, network.geometry
    assert context is not None
    n_mels, middle = CASES[case][1].get("n_mels", 64), -(-(context + geometry.span) // geometry.hop) + 1
    n_frames = (2 * middle + 4) * geometry.hop
    frames = torch.rand(1, n_frames, n_mels, dtype=torch.float64, requires_grad=True)
    network.forward_features(frames)[0][0, middle].sum().backward()
    assert frames.grad is not None
    seen = frames.grad[0].abs().sum(1).nonzero()[:, 0]
    first, last = middle * geometry.hop - geometry.lead, middle * geometry.hop - geometry.lead + geometry.span
    assert first - context <= seen.min()
    assert seen.max() < last + context
    # Maxima choose one of several, and so hide a part of what a network sees: at least half of it shows.
    assert seen.min() <= first - context // 2
    assert seen.max() >= last + context // 2 - geometry.span


def test_the_loudest_frame_is_found_wherever_it_is(randomise: Randomise) -> None:
    model = model_of("weakcnn, front end of the paper", randomise)
    clip = noise(200_000)
    clip[123_000:123_300] *= 100
    expected = float(model.logmel.loudest(torch.from_numpy(clip)[None]))
    for cuts in ([], [122_900], [123_100], [100, 300, 123_299], list(range(1000, 200_000, 1000))):
        assert find_loudest(model, np.split(clip, cuts)) == pytest.approx(expected, abs=1e-4)


def test_live_audio_is_refused_where_the_floor_hangs_on_the_whole_recording(randomise: Randomise) -> None:
    with pytest.raises(WeakAudioError, match="maximum of the whole recording"):
        Windower(model_of("weakcnn, front end of the paper", randomise))


def test_networks_that_depend_on_all_of_a_clip_see_a_window_with_what_is_around(randomise: Randomise) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(build_network("mobilenet", n_classes=3, n_mels=64, width=1 / 8))
    model = Model(network, "16k", LABELS).eval()
    clip = noise(200 * 16000)
    windows = list(cut(model, [clip]))
    parts = Embedder(model).embed_windows(windows)
    assert sum(len(part.segments) for part in parts) == len(model.segment_times(len(clip)))
    assert all(10 <= len(window.audio) / 16000 < 11 for window in windows[2:-2])  # as long as it was trained on
    network.clip_seconds = None
    assert {round(len(window.audio) / 16000) for window in list(cut(model, [clip]))[:1]} == {45}  # and 5 s after it


def test_summaries_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    segments = rng.standard_normal((20, 4)).astype(np.float32)

    def summary(rows: np.ndarray) -> Pooled:
        return Pooled(len(rows), rows.mean(0), rows.max(0), rows.std(0), rows[:, :2].mean(0))

    joined = join([summary(segments[:3]), summary(segments[3:4]), summary(segments[4:])])
    for name in ("mean", "max", "std", "probs"):
        np.testing.assert_allclose(getattr(joined, name), getattr(summary(segments), name), atol=1e-6)
