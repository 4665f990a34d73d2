"""Segment scores become events, and a folder becomes one table of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sed_scores_eval.base_modules.detection import scores_to_event_list
from torch import Tensor

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.geometry import SegmentGeometry, timeline
from weakaudio.batch.detect import detect_folder
from weakaudio.errors import AudioError, CheckpointError, StoreError, WeakAudioError
from weakaudio.evaluation.scored_clips import score_frames
from weakaudio.inference.detector import Detector
from weakaudio.inference.postprocess import PostProcessing, find_events
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model

RATE = 16000
LABELS = ["dog", "rain, heavy", "saw"]
COLUMNS = ["start", "end", "label", "score"]
NO_EVENTS = 0.999999  # a threshold that random weights do not reach
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network]) -> Model:
    network = randomise(WeakCNN(3, n_mels=64, width=1 / 8))
    with torch.no_grad():
        network.classifier.bias.zero_()
        network.classifier.weight[1] = network.classifier.weight[0].abs()  # so that "rain, heavy" is heard
    return Model(network, "16k", LABELS).eval()


def noise(n: int, seed: int = 0) -> Audio:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


# ---- events ----------------------------------------------------------------------------------------------


def abutting(scores: list[float], hop: float = 0.5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of one class with the times of segments that follow each other."""
    edges = np.arange(len(scores) + 1) * hop
    return np.array(scores)[:, None], np.stack([edges[:-1], edges[1:]], axis=1)


@given(
    span=st.integers(1, 4),
    n_frames=st.integers(1, 200),
    rest=st.integers(1, 159),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_events_cover_exactly_what_reaches_the_threshold(
    span: int, n_frames: int, rest: int, threshold: float, seed: int
) -> None:
    seconds = ((n_frames - 1) * 160 + rest) / RATE
    times = SegmentGeometry(8 * span, 8).times(n_frames, 0.01, seconds)
    probs = np.random.default_rng(seed).integers(0, 5, (len(times), 3)) / 4  # many meet a threshold exactly
    events = find_events(probs, times, LABELS, PostProcessing(np.full(3, threshold)))
    assert events.columns.tolist() == COLUMNS
    assert events["start"].is_monotonic_increasing
    assert ((events["start"] >= 0) & (events["start"] < events["end"]) & (events["end"] <= seconds)).all()
    pieces, edges = (probs, np.unique(times)) if span == 1 else timeline(probs, times)  # alone, a segment is a piece
    middles = (edges[:-1] + edges[1:]) / 2
    pieces = pieces[: len(middles)]  # a segment that begins where the recording ends has no length
    for n, label in enumerate(LABELS):
        own = events[events["label"] == label]
        assert (own["end"].to_numpy()[:-1] < own["start"].to_numpy()[1:]).all()
        inside = (own["start"].to_numpy()[:, None] <= middles) & (middles < own["end"].to_numpy()[:, None])
        np.testing.assert_array_equal(inside.sum(0), pieces[:, n] >= threshold)
        assert own["score"].tolist() == [pieces[heard, n].max() for heard in inside]


@given(span=st.integers(1, 3), n_frames=st.integers(8, 400), seed=st.integers(0, 999))
def test_events_are_those_that_evaluation_counts(span: int, n_frames: int, seed: int) -> None:
    times = SegmentGeometry(8 * span, 8).times(n_frames, 0.01, n_frames * 0.01)
    rng = np.random.default_rng(seed)
    probs, thresholds = rng.random((len(times), 3)), rng.uniform(0.2, 0.8, 3)
    events = find_events(probs, times, ["0", "1", "2"], PostProcessing(thresholds))
    expected = scores_to_event_list(score_frames(probs, times), thresholds)
    found = sorted(events[["start", "end", "label"]].itertuples(index=False, name=None))
    assert [label for *_, label in found] == [label for *_, label in expected]
    np.testing.assert_allclose([event[:2] for event in found], [event[:2] for event in expected], atol=1e-6)


def test_gaps_are_closed_before_short_events_go() -> None:
    probs, times = abutting([0.9, 0.0, 0.8, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.6, 0.6])

    def spans(**lengths: float) -> list[tuple[float, float, float]]:
        events = find_events(probs, times, ["a"], PostProcessing(np.array([0.5]), **lengths))
        return list(events[["start", "end", "score"]].itertuples(index=False, name=None))

    assert spans() == [(0, 0.5, 0.9), (1, 1.5, 0.8), (2.5, 3, 0.7), (4.5, 5.5, 0.6)]
    assert spans(merge_gap=0.5) == [(0, 1.5, 0.9), (2.5, 3, 0.7), (4.5, 5.5, 0.6)]
    assert spans(merge_gap=1.0) == [(0, 3, 0.9), (4.5, 5.5, 0.6)]
    assert spans(min_length=1.0) == [(4.5, 5.5, 0.6)]
    assert spans(merge_gap=0.5, min_length=1.5) == [(0, 1.5, 0.9)]


@pytest.mark.parametrize("hop", [0.1, 0.32, 1 / 3])
def test_lengths_that_are_no_binary_numbers_are_met(hop: float) -> None:
    probs, times = abutting([0, 0, 0, 1, 0, 1, 0, 0], hop)
    assert len(find_events(probs, times, ["a"], PostProcessing(np.array([0.5]), min_length=hop))) == 2
    assert len(find_events(probs, times, ["a"], PostProcessing(np.array([0.5]), merge_gap=hop))) == 1


def test_events_of_different_classes_are_not_joined() -> None:
    _, times = abutting([0.0] * 4)
    events = find_events(
        np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]),
        times,
        ["a", "b"],
        PostProcessing(np.full(2, 0.5), merge_gap=9.0),
    )
    assert list(events.itertuples(index=False, name=None)) == [(0, 1, "a", 1), (1, 2, "b", 1)]


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
    expected = find_events(probs, model.segment_times(len(audio)), LABELS, PostProcessing(np.full(3, 0.5)))
    assert len(expected) > 0
    pd.testing.assert_frame_equal(found.events, expected, atol=1e-5)
    assert found.tags["score"].is_monotonic_decreasing
    tags = dict(found.tags.itertuples(index=False, name=None))
    np.testing.assert_allclose([tags[label] for label in LABELS], output.clip_probs[0].detach(), atol=1e-5)


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
    assert Detector(model).rules.thresholds.tolist() == [0.5, 0.5, 0.5]
    assert Detector(model).rules.min_length == 0
    noted = Model(model.network, "16k", LABELS, {"threshold": 0.25, "min_length": 0.5})
    assert Detector(noted).rules.thresholds.tolist() == [0.25, 0.25, 0.25]
    assert Detector(noted).rules.min_length == 0.5
    assert Detector(noted, 0.75, 1.0).rules.thresholds.tolist() == [0.75, 0.75, 0.75]
    assert Detector(noted, 0.75, 1.0).rules.min_length == 1.0
    assert Detector(noted, 0.0, 0.0).rules.thresholds.tolist() == [0, 0, 0]
    assert Detector(noted, 0.0, 0.0).rules.min_length == 0


def test_thresholds_by_class_leave_out_the_other_classes(model: Model) -> None:
    detector = Detector(model, {"saw": 0.0, "dog": 1.0})
    assert detector.rules.thresholds.tolist() == [1.0, math.inf, 0.0]
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


# ---- folders ---------------------------------------------------------------------------------------------

GOOD = ["B/x.wav", "a/x.wav", "a/z.wav", "c d.wav", "ä.wav"]
BAD = ["a/header.wav", "empty.wav", "no samples.wav", "text.flac"]


@pytest.fixture
def recordings(make_wavs: Callable[..., Path]) -> Path:
    """Five good files, of which two have one name in two folders, and four that cannot be read."""
    lengths = {"B/x.wav": 9000, "a/x.wav": 60000, "c d.wav": 1, "ä.wav": 8000, "a/z.wav": 8001}
    root = make_wavs({name: noise(n, seed) for seed, (name, n) in enumerate(lengths.items())})
    (root / "empty.wav").write_bytes(b"")
    (root / "text.flac").write_text("hello")
    (root / "a" / "header.wav").write_bytes((root / "c d.wav").read_bytes()[:44])
    sf.write(root / "no samples.wav", np.zeros(0), 8000)
    return root


def test_a_folder_becomes_one_table(model: Model, recordings: Path, tmp_path: Path) -> None:
    detector, out = Detector(model, 0.5), tmp_path / "new" / "events.csv"
    summary = detect_folder(detector, recordings, out)
    table = pd.read_csv(out, float_precision="round_trip")
    assert table.columns.tolist() == ["file", *COLUMNS]
    alone = {name: detector.detect_file(recordings / name).events for name in GOOD}
    assert summary.n_files == 5
    assert summary.n_rows == len(table) == sum(map(len, alone.values()))
    assert list(dict.fromkeys(table["file"])) == [name for name in GOOD if len(alone[name])]
    assert "rain, heavy" in set(table["label"])
    for name, events in alone.items():
        own = table[table["file"] == name].drop(columns="file").reset_index(drop=True)
        # Batch mates move a score by a unit of its last bit, and so, at times, the sixth digit that is written.
        pd.testing.assert_frame_equal(own, events, check_exact=False, rtol=0, atol=1.5e-6)
    listed = pd.read_csv(out.parent / "failures.csv")
    assert listed["path"].tolist() == BAD == [path for path, _ in summary.failures]
    for reason, expected in zip(listed["reason"], ["truncated", "empty", "no samples", "not audio"], strict=True):
        assert expected in reason
    assert "4 left out" in str(summary)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "events.csv",
        "events.csv.journal",
        "failures.csv",
    ]
    first = out.read_bytes()
    detect_folder(detector, recordings, out)
    assert out.read_bytes() == first


def test_without_events_the_table_has_its_columns(model: Model, recordings: Path, tmp_path: Path) -> None:
    summary = detect_folder(Detector(model, NO_EVENTS), recordings / "a" / "x.wav", tmp_path / "e.csv")
    assert (summary.n_files, summary.n_rows, summary.failures) == (1, 0, [])
    assert (tmp_path / "e.csv").read_text() == "file,start,end,label,score\n"
    assert not (tmp_path / "failures.csv").exists()


def test_a_single_recording_is_a_folder_of_one(model: Model, recordings: Path, tmp_path: Path) -> None:
    detect_folder(Detector(model, 0.5), recordings / "a" / "x.wav", tmp_path / "e.csv")
    assert set(pd.read_csv(tmp_path / "e.csv")["file"]) == {"x.wav"}


def test_nothing_readable_is_an_error_and_the_old_table_stays(model: Model, recordings: Path, tmp_path: Path) -> None:
    detect_folder(Detector(model), recordings, tmp_path / "e.csv")
    old = (tmp_path / "e.csv").read_text()
    for name in GOOD:
        (recordings / name).unlink()
    with pytest.raises(AudioError, match=r"none of its 4 files .*failures\.csv"):
        detect_folder(Detector(model), recordings, tmp_path / "e.csv")
    assert pd.read_csv(tmp_path / "failures.csv")["path"].tolist() == BAD
    assert (tmp_path / "e.csv").read_text() == old


def test_a_table_of_another_run_stays_unless_told(model: Model, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.csv"
    out.write_text("mine")
    with pytest.raises(StoreError, match="of an unknown run"):
        detect_folder(Detector(model), recordings, out)
    assert out.read_text() == "mine"
    detect_folder(Detector(model, 0.5), recordings, out, overwrite=True)
    with pytest.raises(StoreError, match=r"other settings \(source\)"):
        detect_folder(Detector(model, 0.5), recordings / "a", out)  # files of equal names are others there
    with pytest.raises(StoreError, match=r"other settings \(thresholds\)"):
        detect_folder(Detector(model, 0.4), recordings, out)
    detect_folder(Detector(model, 0.4), recordings, out, overwrite=True)
    expected = sum(len(Detector(model, 0.4).detect_file(recordings / name).events) for name in GOOD)
    assert len(pd.read_csv(out)) == expected


def test_wrong_arguments_are_refused_before_any_work(model: Model, recordings: Path, tmp_path: Path) -> None:
    detector = Detector(model)
    with pytest.raises(WeakAudioError, match=r"e\.doc: the name says no format"):
        detect_folder(detector, recordings, tmp_path / "e.doc")
    with pytest.raises(AudioError, match="no such file or folder"):
        detect_folder(detector, tmp_path / "nowhere", tmp_path / "e.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["wavs"]


def test_a_table_that_cannot_be_written_is_found_out_before_the_work(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Detector, "detect_file", lambda self, path: pytest.fail("worked first"))
    with pytest.raises(WeakAudioError, match=r"e\.csv: cannot be written"):
        detect_folder(Detector(model), recordings, tmp_path / "file" / "e.csv")
