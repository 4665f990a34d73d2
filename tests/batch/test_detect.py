"""A folder becomes one table of events, from kept scores."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weakaudio.batch.detect import ScoreAnalysis, detect_folder
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.inference.detector import Detector
from weakaudio.inference.postprocess import Scores
from weakaudio.networks.model import Model

LABELS = ["dog", "rain, heavy", "saw"]
COLUMNS = ["start", "end", "label", "score"]
NO_EVENTS = 0.999999  # a threshold that random weights do not reach


@pytest.fixture(scope="module")
def model(detectable_model: Model) -> Model:
    return detectable_model


def noise(n: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


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
    assert "4 failed" in str(summary)
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


def other_model(model: Model) -> Model:
    """The model with its classes in another order."""
    return Model(model.network, model.front_end, LABELS[::-1])


def test_a_table_of_another_run_stays_unless_told(model: Model, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.csv"
    out.write_text("mine")
    with pytest.raises(StoreError, match="not from a run that can be resumed"):
        detect_folder(Detector(model), recordings, out)
    assert out.read_text() == "mine"
    detect_folder(Detector(model, 0.5), recordings, out, overwrite=True)
    with pytest.raises(StoreError, match=f"was made from {recordings}"):
        detect_folder(Detector(model, 0.5), recordings / "a", out)  # files of equal names are others there
    with pytest.raises(StoreError, match=r'other settings \(model "'):
        detect_folder(Detector(other_model(model), 0.5), recordings, out)
    detect_folder(Detector(other_model(model), 0.5), recordings, out, overwrite=True)
    expected = sum(len(Detector(other_model(model), 0.5).detect_file(recordings / name).events) for name in GOOD)
    assert len(pd.read_csv(out)) == expected


def test_wrong_arguments_are_refused_before_any_work(model: Model, recordings: Path, tmp_path: Path) -> None:
    detector = Detector(model)
    with pytest.raises(WeakAudioError, match=r"e\.doc: unknown suffix"):
        detect_folder(detector, recordings, tmp_path / "e.doc")
    with pytest.raises(AudioError, match="no such file or folder"):
        detect_folder(detector, tmp_path / "nowhere", tmp_path / "e.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["wavs"]


def test_a_table_that_cannot_be_written_is_found_out_before_the_work(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Detector, "score", lambda *_: pytest.fail("worked first"))
    with pytest.raises(WeakAudioError, match=r"e\.csv: cannot be written"):
        detect_folder(Detector(model), recordings, tmp_path / "file" / "e.csv")


# ---- kept scores -----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), median=st.sampled_from([0.0, 2.0]), hysteresis=st.sampled_from([1.0, 0.6]))
def test_kept_scores_give_the_same_events_as_all_scores(
    model: Model, seed: int, median: float, hysteresis: float
) -> None:
    """Although a class is dropped from windows in which it stays below the floor."""
    rng = np.random.default_rng(seed)
    detector = Detector(model, 0.1, hysteresis=hysteresis, median=median)
    ceilings = rng.choice([0.05, 0.2], (5, 1, 3))  # of each class in each window; the lower is below the floor
    probs = np.round(ceilings * rng.random((5, 8, 3)) * 65535) / 65535
    edges = np.arange(41) * detector.hop
    parts = [Scores(own.astype(np.float32), edges[8 * n : 8 * n + 9]) for n, own in enumerate(probs)]
    analysis = ScoreAnalysis(detector)
    analysis.settings["score_floor"] = 0.1 * hysteresis  # the highest floor that serves these thresholds
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector, "score", lambda windows: windows)
        kept = analysis.unpack(iter(analysis.analyse(parts)))
        expected = detector.events(parts, 1e9)
        pd.testing.assert_frame_equal(detector.events(kept, 1e9), expected, check_exact=True)
    assert any(len(part["classes"]) < 3 for part in map(analysis._pack, parts)) or (ceilings == 0.2).all()


def test_other_thresholds_filters_and_formats_need_no_analysis(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.csv"
    detect_folder(Detector(model, 0.5), recordings, out)
    others = [Detector(model, 0.3), Detector(model, 0.45, 0.5, 0.2, 0.9, 0.5, 3), Detector(model, {"saw": 0.2})]
    expected = [sum(len(other.detect_file(recordings / name).events) for name in GOOD) for other in others]
    monkeypatch.setattr(Detector, "score", lambda *_: pytest.fail("analysed again"))
    assert [detect_folder(other, recordings, out).n_rows for other in others] == expected


def test_thresholds_below_the_floor_need_scores_that_were_kept_below_it(
    model: Model, recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.csv"
    detect_folder(Detector(model, 0.5), recordings, out)
    with pytest.raises(StoreError, match=r"score_floor 0\.01, now 0"):
        detect_folder(Detector(model, 0.001), recordings, out)
    low = detect_folder(Detector(model, 0.001), recordings, out, overwrite=True).n_rows
    detect_folder(Detector(model, 0.5), recordings, out)  # kept below the floor serves thresholds above it
    (recordings / "ä.wav").write_bytes((recordings / "a" / "x.wav").read_bytes())
    detect_folder(Detector(model, 0.5), recordings, out)  # and so do scores that are added then
    table = detect_folder(Detector(model, 0.001), recordings, out).events
    expected = Detector(model, 0.001).detect_file(recordings / "ä.wav").events
    own = table[table["file"] == "ä.wav"].drop(columns="file").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected, atol=2e-5)
    assert len(table) >= low


def test_a_moved_folder_resumes(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, moved = tmp_path / "e.csv", tmp_path / "elsewhere"
    detect_folder(Detector(model, 0.5), recordings, out)
    first = out.read_bytes()
    recordings.rename(moved)
    monkeypatch.setattr(Detector, "score", lambda *_: pytest.fail("analysed again"))
    detect_folder(Detector(model, 0.5), moved, out)
    assert out.read_bytes() == first
    shutil.copytree(moved, tmp_path / "copy", copy_function=shutil.copy)  # with other times
    detect_folder(Detector(model, 0.5), tmp_path / "copy", out)
    assert out.read_bytes() == first


def test_another_folder_with_one_file_in_common_does_not_take_over(
    model: Model, recordings: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "e.csv", tmp_path / "other"
    detect_folder(Detector(model, 0.5), recordings, out)
    first = out.read_bytes()
    other.mkdir()
    shutil.copy(recordings / "ä.wav", other)
    with pytest.raises(StoreError, match="9 files 1 are here"):
        detect_folder(Detector(model, 0.5), other, out)
    assert out.read_bytes() == first


def test_files_of_equal_name_size_and_time_in_another_folder_are_other_recordings(
    model: Model, recordings: Path, tmp_path: Path
) -> None:
    """As recorders on one schedule write them."""
    out, other = tmp_path / "e.csv", tmp_path / "other"
    detect_folder(Detector(model, 0.5), recordings, out)
    for name in GOOD:
        stat, target = (recordings / name).stat(), other / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sf.write(target, noise(stat.st_size // 2 - 22, 99), 8000)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert target.stat().st_size == stat.st_size
    with pytest.raises(StoreError, match="was made from"):
        detect_folder(Detector(model, 0.5), other, out)


def test_results_of_an_earlier_release_are_refused_with_the_reason(
    model: Model, recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.csv"
    detect_folder(Detector(model, 0.5), recordings, out)
    with sqlite3.connect(tmp_path / "e.csv.journal") as database:
        (settings,) = database.execute("SELECT value FROM settings").fetchone()
        database.execute("UPDATE settings SET value = ?", (settings.replace('"version": 2', '"version": 1'),))
    with pytest.raises(StoreError, match="was made by another release of weakaudio"):
        detect_folder(Detector(model, 0.5), recordings, out)
    detect_folder(Detector(model, 0.5), recordings, out, overwrite=True)
