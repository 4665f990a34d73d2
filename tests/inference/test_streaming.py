"""Live audio gives the events of the recording."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.audio.geometry import timeline
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import Embedder
from weakaudio.inference.streaming import StreamingDetector
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model

RATE = 16000
LABELS = ["a", "b", "c"]
NETWORKS = {
    "weakcnn": {"n_mels": 64, "width": 1 / 8},
    "flash": {"n_mels": 64, "stages": [("dense", 1, 8)] * 4, "n_features": 16},
}


def model_of(name: str, randomise: Callable[[Network], Network], front_end: str = "16k", **config: object) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(build_network(name, n_classes=3, **{**NETWORKS[name], **config}))
    return Model(network, front_end, LABELS).eval()


def sounds(n_samples: int, seed: int) -> np.ndarray:
    """Louder and softer, so that classes come and go."""
    rng = np.random.default_rng(seed)
    level = np.repeat(10.0 ** rng.uniform(-4, -0.5, n_samples // 9000 + 1), 9000)[:n_samples]
    return (level * rng.standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=8)
@given(data=st.data())
def test_events_of_a_stream_are_those_of_the_recording(
    name: str, data: st.DataObject, randomise: Callable[[Network], Network], clear_threshold: Callable[..., float]
) -> None:
    model = model_of(name, randomise)
    rate = data.draw(st.sampled_from([RATE, 22050]))
    audio = sounds(data.draw(st.integers(1, 12 * rate)), data.draw(st.integers(0, 99)))
    scored = Embedder(model, "f2").embed_array(audio, rate)
    hysteresis = data.draw(st.sampled_from([1.0, 0.9]))
    rules = {
        "threshold": clear_threshold(timeline(scored.segments, scored.times)[0], hysteresis),
        "hysteresis": hysteresis,
        "median": data.draw(st.sampled_from([0.0, 2.0])),
        "merge_gap": data.draw(st.sampled_from([0.0, 1.0])),
        "min_length": data.draw(st.sampled_from([0.0, 0.7])),
    }
    detector = Detector(model, **rules)
    whole = detector.detect_array(audio, rate).events
    stream = StreamingDetector(detector, rate, step=data.draw(st.floats(0.2, 3.0)), longest=1000.0)
    cuts = sorted(data.draw(st.lists(st.integers(1, len(audio)), max_size=6)))
    tables = [stream.push(block) for block in np.split(audio, cuts) if len(block)] + [stream.finish()]
    assert stream.seconds == len(audio) / rate
    found = pd.concat([table for table in tables if len(table)] or tables[:1])
    found = found.sort_values(["start", "end", "label"], ignore_index=True)
    pd.testing.assert_frame_equal(found, whole, atol=1e-4)


def test_events_come_as_soon_as_they_are_over(randomise: Callable[[Network], Network]) -> None:
    detector = Detector(model_of("flash", randomise), 0.0)  # one event that never ends
    stream = StreamingDetector(detector, RATE, step=0.5, longest=2.0)
    assert stream.delay < 4
    pieces = []
    for n, block in enumerate(np.split(sounds(20 * RATE, 0), 40)):
        events = stream.push(block)
        pieces += events[events["label"] == "a"][["start", "end"]].to_numpy().tolist()
        if pieces:
            assert pieces[-1][1] > (n + 1) / 2 - 2.0 - stream.delay - 0.5
    pieces += stream.finish().query("label == 'a'")[["start", "end"]].to_numpy().tolist()
    assert pieces[0][0] == 0
    assert pieces[-1][1] == 20
    np.testing.assert_allclose([one[1] for one in pieces[:-1]], [one[0] for one in pieces[1:]], atol=1e-5)
    assert len(pieces) >= 8


def test_what_cannot_be_is_refused(randomise: Callable[[Network], Network]) -> None:
    detector = Detector(model_of("flash", randomise))
    with pytest.raises(WeakAudioError, match="step 0"):
        StreamingDetector(detector, RATE, step=0)
    with pytest.raises(AudioError, match="no audio arrived"):
        StreamingDetector(detector, RATE).finish()
    with pytest.raises(AudioError, match="NaN"):
        StreamingDetector(detector, RATE).push(np.array([0, np.nan], np.float32))
    paper = Detector(model_of("weakcnn", randomise, "paper-44k", n_mels=128))
    with pytest.raises(WeakAudioError, match="whole recording"):
        StreamingDetector(paper, RATE)
