"""A recording becomes events and clip-level tags."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.geometry import SegmentGeometry, timeline
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.inference.detector import Detector
from weakaudio.inference.postprocess import Scores, find_events
from weakaudio.inference.windows import cut
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model

RATE = 16000
LABELS = ["dog", "rain, heavy", "saw"]
COLUMNS = ["start", "end", "label", "score"]
NO_EVENTS = 0.999999  # a threshold that random weights do not reach
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(detectable_model: Model) -> Model:
    return detectable_model


def noise(n: int, seed: int = 0) -> Audio:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


# ---- recordings ------------------------------------------------------------------------------------------


class Pitch(Network):
    """A segment's score says whether it holds 1 kHz, and whether 4 kHz; silence is 0 in this front end."""

    def __init__(self, span: int, hop: int) -> None:
        super().__init__()
        self.config = {"n_classes": 2, "pooling": "max"}
        self.n_features, self.geometry = 2, SegmentGeometry(span, hop)
        self.reset_classifier(2)
        self.classifier.weight.data = 20 * torch.eye(2)
        torch.nn.init.constant_(self.classifier.bias, -20.0)
        sine = np.stack([tones(1.0, RATE, (0.0, 1.0, hz)) for hz in (1000, 4000)])
        self.bands = LogMel("16k")(torch.from_numpy(sine))[0].mean(1).argmax(1).tolist()

    def forward_features(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert lengths is not None
        span, hop = self.geometry.span, self.geometry.hop
        mask = (
            torch.arange(self.geometry.n_segments(logmel.shape[1])) < self.geometry.segment_counts(lengths)[:, None]
        )
        frames = torch.nn.functional.pad(logmel[:, :, self.bands], (0, 0, 0, span))
        return frames.unfold(1, span, hop).mean(3)[:, : mask.shape[1]], mask


def tones(seconds: float, sample_rate: int, *parts: tuple[float, float, float]) -> Audio:
    """(start, end, Hz) of each tone in silence."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    audio = sum(np.sin(2 * math.pi * hz * t) * ((t >= start) & (t < end)) for start, end, hz in parts)
    return (0.4 * audio + 0 * t).astype(np.float32)


@pytest.mark.parametrize(("span", "hop"), [(16, 16), (32, 16)])
@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_tones_are_found_where_they_are(span: int, hop: int, sample_rate: int) -> None:
    detector = Detector(Model(Pitch(span, hop), "16k", ["low", "high"]))
    audio = tones(8.0, sample_rate, (1.0, 3.0, 1000), (2.0, 4.0, 4000), (6.0, 7.0, 1000))
    found = detector.detect_array(audio, sample_rate)
    assert found.seconds == 8.0
    assert found.events["label"].tolist() == ["low", "high", "low"]
    np.testing.assert_allclose(found.events["start"], [1, 2, 6], atol=0.17)
    np.testing.assert_allclose(found.events["end"], [3, 4, 7], atol=0.17)
    silent = detector.detect_array(tones(8.0, sample_rate), sample_rate)
    assert silent.events.empty
    assert silent.events.columns.tolist() == COLUMNS
    assert (silent.tags["score"] < 1e-6).all()


def test_events_and_tags_are_what_the_network_says(model: Model) -> None:
    audio = noise(5 * RATE + 17)
    output = model(torch.from_numpy(audio)[None])
    probs = output.segment_logits[0].sigmoid().detach().numpy()
    found = Detector(model, 0.5).detect_array(audio, RATE)
    values, edges = timeline(probs, model.segment_times(len(audio)))
    detector = Detector(model, 0.5)
    expected = find_events([Scores(values, edges)], LABELS, detector.post_processing, detector.hop)
    assert len(expected) > 0
    pd.testing.assert_frame_equal(found.events, expected, atol=1e-5)
    assert found.tags["score"].is_monotonic_decreasing
    tags = dict(found.tags.itertuples(index=False, name=None))
    np.testing.assert_allclose([tags[label] for label in LABELS], values.max(0), atol=1e-5)
    for label, score in zip(found.events["label"], found.events["score"], strict=True):
        assert tags[label] >= score


@pytest.mark.parametrize("name", ["weakcnn", "flash"])
def test_tags_do_not_depend_on_where_a_recording_is_cut(
    name: str, randomise: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, Any] = {"weakcnn": {"width": 1 / 8}, "flash": {"stages": [("dense", 1, 8)] * 4}}
    network = randomise(build_network(name, n_classes=3, n_mels=64, **sizes[name]))
    detector, audio = Detector(Model(network, "16k", LABELS)), noise(20 * RATE)
    whole = detector.detect_array(audio, RATE).tags
    monkeypatch.setattr("weakaudio.inference.windows.WINDOW_SECONDS", 2.0)
    assert len(list(cut(detector.model, [audio], detector.context))) > 3
    pd.testing.assert_frame_equal(detector.detect_array(audio, RATE).tags, whole, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, RATE, 44100, 96000, 192000])
@pytest.mark.parametrize("n_samples", [1, 2, 999])
def test_the_shortest_recordings_have_events_that_end_inside(model: Model, rate: int, n_samples: int) -> None:
    found = Detector(model, 0.0).detect_array(noise(n_samples), rate)
    assert found.seconds == n_samples / rate
    assert found.events["label"].tolist() == LABELS
    assert (found.events["start"] == 0).all()
    assert (found.events["end"] <= n_samples / rate).all()
    assert (found.events["end"] > 0).all()


def test_a_file_is_its_array_and_the_same_file_gives_the_same_bits(
    model: Model, make_wavs: Callable[..., Path]
) -> None:
    path = make_wavs({"a.wav": noise(30000)}, 22050) / "a.wav"
    audio, rate = sf.read(path, dtype="float32")
    detector = Detector(model, 0.5)
    found = [detector.detect_file(path), detector.detect_file(path), detector.detect_array(audio, rate)]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0].events, other.events, check_exact=True)
        pd.testing.assert_frame_equal(found[0].tags, other.tags, check_exact=True)


def test_arrays_that_are_no_audio_are_refused(model: Model) -> None:
    for audio, reason in ((np.zeros((2, 9), np.float32), "mono"), (np.zeros(0, np.float32), "no samples")):
        with pytest.raises(AudioError, match=reason):
            Detector(model).detect_array(audio, RATE)


# ---- thresholds ------------------------------------------------------------------------------------------


def test_the_models_own_settings_hold_unless_others_are_given(model: Model) -> None:
    assert Detector(model).post_processing.thresholds.tolist() == [0.5, 0.5, 0.5]
    assert Detector(model).post_processing.min_length == 0
    noted = Model(model.network, "16k", LABELS, {"threshold": 0.25, "min_length": 0.5})
    assert Detector(noted).post_processing.thresholds.tolist() == [0.25, 0.25, 0.25]
    assert Detector(noted).post_processing.min_length == 0.5
    assert Detector(noted, 0.75, 1.0).post_processing.thresholds.tolist() == [0.75, 0.75, 0.75]
    assert Detector(noted, 0.75, 1.0).post_processing.min_length == 1.0
    assert Detector(noted, 0.0, 0.0).post_processing.thresholds.tolist() == [0, 0, 0]
    assert Detector(noted, 0.0, 0.0).post_processing.min_length == 0


def test_thresholds_by_class_leave_out_the_other_classes(model: Model) -> None:
    detector = Detector(model, {"saw": 0.0, "dog": 1.0})
    assert detector.post_processing.thresholds.tolist() == [1.0, math.inf, 0.0]
    assert detector.detect_array(noise(RATE), RATE).events["label"].tolist() == ["saw"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threshold": 1.1}, "threshold 1.1"),
        ({"threshold": -0.1}, "threshold -0.1"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"threshold": {"dog": "high"}}, "threshold 'high'"),
        ({"threshold": {"cat": 0.5}}, "'cat'"),
        ({"min_length": -1.0}, "min_length -1.0"),
        ({"merge_gap": math.nan}, "merge_gap nan"),
        ({"device": "nothing"}, "nothing"),
    ],
)
def test_wrong_settings_are_refused(model: Model, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(WeakAudioError, match=said):
        Detector(model, **wrong)  # type: ignore[arg-type]
    if "device" not in wrong and "merge_gap" not in wrong:
        with pytest.raises(WeakAudioError, match=said):
            Detector(Model(model.network, "16k", LABELS, wrong))


def test_unknown_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        Detector.from_pretrained("no-such-model")
