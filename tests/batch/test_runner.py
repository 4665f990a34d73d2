"""Runs over many recordings: killed, resumed, repeated, of any length."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from killable import Killable, wait_to_be_killed

from weakaudio.batch import runner
from weakaudio.batch.checkpoint import Outcome, RunCheckpoint
from weakaudio.batch.detect import detect_folder
from weakaudio.batch.embed import EmbeddingAnalysis, embed_folder
from weakaudio.batch.recordings import Recording, find_recordings, listed_recordings
from weakaudio.batch.runner import checkpoint_path
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model


@pytest.fixture
def model(scored_model: Model) -> Model:
    return scored_model


@pytest.fixture
def recordings(make_wavs: Callable[..., Path], rng: np.random.Generator) -> Path:
    """Sixteen of 3 s, one of them broken, and one of 200 s, which is not read at once."""
    noise = {f"{n:02d}.wav": 0.1 * rng.standard_normal(48_000).astype(np.float32) for n in range(16)}
    level = np.repeat(10.0 ** rng.uniform(-3, -0.5, 400), 8000)
    root = make_wavs({**noise, "long.wav": (level * rng.standard_normal(len(level))).astype(np.float32)})
    (root / "05.wav").write_bytes(b"broken")
    return root


# ---- resumption ------------------------------------------------------------------------------------------


Job = Callable[[str, Path, Path], object]  # of the path of a model, the recordings and the output


def work(tell: Callable[[str], None], job: Job, model: str, source: Path, out: Path, adds: int) -> None:
    """Run a job that tells when it has kept a part of its results, and waits to be killed after some."""
    runner._CHUNK_FILES, runner._WINDOWS_AT_ONCE = 2, 1
    add, left = RunCheckpoint.add, iter(range(adds))

    def add_and_tell(checkpoint: RunCheckpoint, outcomes: Any) -> None:
        if next(left, None) is None:
            wait_to_be_killed()
        add(checkpoint, outcomes)
        tell("kept")

    RunCheckpoint.add = add_and_tell  # type: ignore[method-assign]
    job(model, source, out)


def embed(model: str, source: Path, out: Path) -> None:
    embed_folder(Embedder.from_pretrained(model), source, out, "segment")


def detect(model: str, source: Path, out: Path) -> None:
    detect_folder(Detector.from_pretrained(model), source, out)


def n_done(checkpoint: Path) -> int:
    """Parts that a run which was killed has left."""
    with sqlite3.connect(checkpoint) as database:
        return database.execute("SELECT COUNT(*) FROM parts").fetchone()[0]


@pytest.mark.parametrize(("job", "suffix"), [(embed, "h5"), (detect, "csv")])
def test_runs_that_are_killed_again_and_again_end_with_the_same_bytes(
    model: Model,
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    suffix: str,
) -> None:
    path = str(tmp_path / "m.safetensors")
    save_model(model, path)
    out, undisturbed = tmp_path / "killed" / f"o.{suffix}", tmp_path / "whole" / f"o.{suffix}"
    steps = [0]
    for _ in range(2):
        run = Killable(work, job, path, recordings, out, 2)
        assert run.receive() == "kept"
        assert run.kill() == -signal.SIGKILL
        steps.append(n_done(checkpoint_path(out)))
    assert 0 < steps[1] < steps[2] < 20  # nothing is lost, and it was not at its end
    assert Killable(work, job, path, recordings, out, 1000).wait() == 0
    monkeypatch.setattr(runner, "_CHUNK_FILES", 2)
    job(path, recordings, undisturbed)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert (out.parent / "failures.csv").read_bytes() == (undisturbed.parent / "failures.csv").read_bytes()


class StoppedError(Exception):
    pass


def test_a_long_recording_resumes_at_its_next_window(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_WINDOWS_AT_ONCE", 1)
    embedder, source = Embedder(model), recordings / "long.wav"
    windows: list[int] = []
    analyse = EmbeddingAnalysis.analyse

    def counted(self: EmbeddingAnalysis, some: list) -> list:
        if len(windows) == 2:
            raise StoppedError
        windows.extend(window.start for window in some)
        return analyse(self, some)

    monkeypatch.setattr(EmbeddingAnalysis, "analyse", counted)
    with pytest.raises(StoppedError):
        embed_folder(embedder, source, tmp_path / "e.h5", "segment")
    first = list(windows)
    windows.clear()
    with pytest.raises(StoppedError):
        embed_folder(embedder, source, tmp_path / "e.h5", "segment")
    assert len(first) == 2
    assert min(windows) > max(first)  # what was done is not done again
    monkeypatch.setattr(EmbeddingAnalysis, "analyse", analyse)
    embed_folder(embedder, source, tmp_path / "e.h5", "segment")
    found, whole = read_embeddings(tmp_path / "e.h5"), embedder.embed_file(source)
    np.testing.assert_allclose(found.embeddings, whole.segments, atol=1e-5)
    np.testing.assert_allclose(np.stack([found.start, found.end], 1), whole.times, atol=1e-9)


def test_a_later_run_does_what_is_new_or_has_changed(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, out = Embedder(model), tmp_path / "e.npz"
    embed_folder(embedder, recordings, out)
    sf.write(recordings / "05.wav", np.full(16000, 0.1), 16000)  # it is complete now
    sf.write(recordings / "06.wav", np.full(16000, 0.2), 16000)
    sf.write(recordings / "new.wav", np.full(16000, 0.3), 16000)
    (recordings / "07.wav").unlink()
    seen: list[str] = []
    read = runner._read
    monkeypatch.setattr(runner, "_read", lambda one, rate: (seen.append(one.name), read(one, rate))[1])
    summary = embed_folder(embedder, recordings, out)
    assert sorted(seen) == ["05.wav", "06.wav", "new.wav"]
    assert summary.failures == []
    found = read_embeddings(out)
    assert found.paths == sorted(path.name for path in recordings.iterdir())
    expected = np.stack([embedder.embed_file(recordings / name).clip for name in found.paths])
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)


# ---- long recordings -------------------------------------------------------------------------------------


def test_long_recordings_are_as_if_they_were_in_memory(model: Model, recordings: Path, tmp_path: Path) -> None:
    audio, rate = sf.read(recordings / "long.wav", dtype="float32")
    middle = Embedder(model, "f2").embed_array(audio, rate).segments.mean(0).tolist()
    detector = Detector(model, dict(zip(model.labels, middle, strict=True)), hysteresis=0.99, median=2.0)
    events = detector.detect_array(audio, rate).events
    assert len(events) > 5
    detect_folder(detector, recordings / "long.wav", tmp_path / "e.csv")
    found = pd.read_csv(tmp_path / "e.csv").drop(columns="file")
    pd.testing.assert_frame_equal(found, events.round({"score": 6}), atol=1e-5)
    pd.testing.assert_frame_equal(detector.detect_file(recordings / "long.wav").events, events, atol=1e-5)
    for pooling in ("mean", "max+std"):
        embedder = Embedder(model, "f1+f2", pooling)
        embed_folder(embedder, recordings / "long.wav", tmp_path / f"{pooling}.h5")
        clip = read_embeddings(tmp_path / f"{pooling}.h5").embeddings[0]
        np.testing.assert_allclose(clip, embedder.embed_array(audio, rate).clip, atol=1e-5)


def test_a_long_recording_that_breaks_off_is_left_out(model: Model, recordings: Path, tmp_path: Path) -> None:
    sf.write(recordings / "long.flac", sf.read(recordings / "long.wav")[0], 16000)
    whole = (recordings / "long.flac").read_bytes()
    (recordings / "long.flac").write_bytes(whole[: int(0.8 * len(whole))])
    summary = detect_folder(Detector(model), recordings, tmp_path / "e.csv", include=["long.*"])
    assert [path for path, _ in summary.failures] == ["long.flac"]
    assert summary.n_files == 1


# ---- what can happen to files ----------------------------------------------------------------------------


def test_a_file_that_is_written_to_meanwhile_is_left_out_until_it_is_complete(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse = EmbeddingAnalysis.analyse

    def write_meanwhile(self: EmbeddingAnalysis, windows: list) -> list:
        with (recordings / "03.wav").open("ab") as file:
            file.write(b"\0\0")
        return analyse(self, windows)

    monkeypatch.setattr(EmbeddingAnalysis, "analyse", write_meanwhile)
    summary = embed_folder(Embedder(model), recordings, tmp_path / "e.h5", include=["0[34].wav"])
    ((path, reason),) = summary.failures
    assert path == "03.wav"
    assert "changed while it was read" in reason
    monkeypatch.undo()
    assert embed_folder(Embedder(model), recordings, tmp_path / "e.h5", include=["0[34].wav"]).failures == []


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode on this system")
def test_odd_names_links_and_folders(model: Model, make_wavs: Callable[..., Path], tmp_path: Path) -> None:
    names = ["a b/c d.wav", "line\nbreak.wav", "ü/ö.wav", 'quote".wav', "comma,.wav"]
    root = make_wavs({name: np.full(800, 0.1, np.float32) for name in names})
    os.rename(root / "comma,.wav", os.fsencode(root) + b"/\xe9.wav")
    (root / "a b" / "loop").symlink_to(root)
    (root / "elsewhere").symlink_to(make_elsewhere(tmp_path))
    (root / "gone.wav").symlink_to(root / "nothing.wav")
    (root / "folder.wav").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.wav").write_bytes(b"")
    summary = embed_folder(Embedder(model), root, tmp_path / "e.h5")
    assert summary.failures == []
    expected = ["a b/c d.wav", "elsewhere/y.wav", "line\nbreak.wav", 'quote".wav', "ü/ö.wav", "\\udce9.wav"]
    assert sorted(read_embeddings(tmp_path / "e.h5").paths) == sorted(expected)


def make_elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    sf.write(tmp_path / "other" / "y.wav", np.full(800, 0.1), 16000)
    return tmp_path / "other"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="a superuser may look into any folder")
def test_a_folder_that_cannot_be_looked_into_is_a_failure(recordings: Path) -> None:
    (recordings / "closed").mkdir(mode=0)
    assert [path for path, _ in find_recordings(recordings)[1]] == ["closed"]


def test_only_what_is_wanted_is_found(recordings: Path) -> None:
    found, _ = find_recordings(recordings, ["0*.wav", "long*"], ["*3.wav"])
    assert [one.name for one in found] == [f"{n:02d}.wav" for n in range(10) if n != 3] + ["long.wav"]
    with pytest.raises(AudioError, match="leave none of its 17 files"):
        find_recordings(recordings, ["*.flac"])
    listed = listed_recordings(str(one.path) for one in found)
    assert [one.path.name for one in find_recordings(listed, exclude=["*/0?.wav"])[0]] == [
        "long.wav"
    ]  # a list has patterns, too


def test_a_list_has_the_order_of_its_lines_and_each_file_once(model: Model, recordings: Path, tmp_path: Path) -> None:
    lines = [f"{recordings / name}\n" for name in ("07.wav", "01.wav", "07.wav", "none.wav")]
    summary = embed_folder(Embedder(model), listed_recordings(lines), tmp_path / "e.h5")
    assert read_embeddings(tmp_path / "e.h5").paths == [str(recordings / name) for name in ("07.wav", "01.wav")]
    assert [path for path, _ in summary.failures] == [str(recordings / "none.wav")]
    with pytest.raises(AudioError, match="empty"):
        listed_recordings(["\n"])


# ---- the checkpoint -----------------------------------------------------------------------------------------


def test_arrays_are_kept_whatever_their_memory_order(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(tmp_path / "j", {})
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    checkpoint.add([Outcome(Recording("a", tmp_path / "a", 0, 0), [{"x": array[:, [2, 0]], "y": array.T}])])
    (part,) = checkpoint.parts("a")
    np.testing.assert_array_equal(part["x"], array[:, [2, 0]])
    np.testing.assert_array_equal(part["y"], array.T)
    checkpoint.close()


def test_a_second_run_into_the_same_output_is_refused(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(tmp_path / "j", {"a": 1})
    with pytest.raises(StoreError, match="another run writes to it"):
        RunCheckpoint(tmp_path / "j", {"a": 1})
    checkpoint.close()
    RunCheckpoint(tmp_path / "j", {"a": 1}).close()


def test_a_damaged_journal_says_what_to_do(tmp_path: Path) -> None:
    RunCheckpoint(tmp_path / "j", {"a": 1}).close()
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(b"no database" + whole[11:])
    with pytest.raises(StoreError, match="delete it to start again"):
        RunCheckpoint(tmp_path / "j", {"a": 1})
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE settings (value TEXT)")
    with pytest.raises(StoreError, match="delete it to start again"):
        RunCheckpoint(tmp_path / "other", {"a": 1})


def test_a_full_disk_is_told_and_what_is_done_is_kept(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(tmp_path / "j", {})
    small, large = (Recording(name, Path(name), 0, 0) for name in ("small", "large"))
    checkpoint.add([Outcome(small, [{"x": np.zeros(3, np.float32)}])])
    checkpoint._database.execute("PRAGMA max_page_count = 20")
    with pytest.raises(WeakAudioError, match=r"full.*results so far are kept"):
        checkpoint.add([Outcome(large, [{"x": np.zeros(10**6, np.float32)}])])
    checkpoint.close()
    again = RunCheckpoint(tmp_path / "j", {})
    assert again.finished() == {"small"}
    assert [part["x"].tolist() for part in again.parts("small")] == [[0, 0, 0]]
    again.close()


# ---- what reviews found -----------------------------------------------------------------------------------


def test_windows_of_another_length_do_not_resume_a_run(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a later version of this package may have them: its third window is not where the third was."""
    embedder, source = Embedder(model), recordings / "long.wav"
    embed_folder(embedder, source, tmp_path / "e.h5", "segment")
    monkeypatch.setattr("weakaudio.inference.windows.WINDOW_SECONDS", 1.5)
    with pytest.raises(StoreError, match="window_seconds"):
        embed_folder(embedder, source, tmp_path / "e.h5", "segment")


def test_a_long_file_that_fails_in_the_middle_is_a_failure_and_resumes_there(
    model: Model, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_WINDOWS_AT_ONCE", 1)
    embedder, out = Embedder(model), tmp_path / "e.h5"
    checks = iter([True, False])
    monkeypatch.setattr(Recording, "is_as_found", lambda self: next(checks, True))
    summary = embed_folder(embedder, recordings, out, "segment", include=["0[12].wav", "long.wav"])
    assert len(summary.failures) == 1
    monkeypatch.undo()
    assert embed_folder(embedder, recordings, out, "segment", include=["0[12].wav", "long.wav"]).failures == []
    found, whole = read_embeddings(out), embedder.embed_file(recordings / "long.wav")
    own = found.embeddings[found.clip == found.paths.index("long.wav")]
    np.testing.assert_allclose(own, whole.segments, atol=1e-5)


def test_lines_that_are_no_paths_are_failures(model: Model, recordings: Path, tmp_path: Path) -> None:
    lines = [str(recordings / "01.wav"), "a\0b.wav", "x" * 5000 + ".wav", f"{recordings}/./01.wav"]
    summary = embed_folder(Embedder(model), listed_recordings(lines), tmp_path / "e.h5")
    assert summary.n_files == 1
    assert len(summary.failures) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode on this system")
def test_names_that_are_one_when_they_are_printed_are_refused(make_wavs: Callable[..., Path]) -> None:
    root = make_wavs({"\\udce9.wav": np.zeros(9, np.float32), "b.wav": np.zeros(9, np.float32)})
    os.rename(root / "b.wav", os.fsencode(root) + b"/\xe9.wav")
    with pytest.raises(AudioError, match="two files are called"):
        find_recordings(root)


def test_long_recordings_whose_floor_hangs_on_the_whole(
    randomise: Callable[[Network], Network], recordings: Path, tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(WeakCNN(3, n_mels=128, width=1 / 16))
    embedder = Embedder(Model(network, "paper-44k", ["dog", "rain", "saw"]))
    embed_folder(embedder, recordings / "long.wav", tmp_path / "e.h5", "segment")
    audio, rate = sf.read(recordings / "long.wav", dtype="float32")
    found, whole = read_embeddings(tmp_path / "e.h5").embeddings, embedder.embed_array(audio, rate).segments
    np.testing.assert_allclose(found, whole, atol=1e-4)


LIMITED = """
import resource, sys
import numpy as np
from weakaudio.errors import WeakAudioError
from weakaudio.formats.embeddings import EmbeddingTable, write_embeddings
from weakaudio.formats.events import write_events
from weakaudio.reports.html import write_page
import pandas as pd, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rows = 3000
table = EmbeddingTable(["a"] * rows, np.random.default_rng(0).standard_normal((rows, 64)).astype("f4"), {})
events = pd.DataFrame({"file": ["a"] * rows, "start": np.arange(rows) / 7, "end": np.arange(rows) / 7 + 1,
                       "label": ["b"] * rows, "score": np.linspace(0, 1, rows)})
write = {"embeddings": lambda path: write_embeddings(table, path), "events": lambda path: write_events(events, path),
         "page": lambda path: write_page("x" * 300_000, path)}
for limit in (0, 1000, 20_000, 40_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for name in sys.argv[2:]:
        kind, path = name.split(":")
        try:
            write[kind](sys.argv[1] + "/" + path)
            print("written", name, limit)
        except WeakAudioError as error:
            assert path in str(error), error
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are of this system")
def test_a_full_disk_is_one_clear_line_for_every_writer_and_leaves_nothing(tmp_path: Path) -> None:
    files = ["embeddings:e.h5", "embeddings:e.npz", "embeddings:e.parquet", "page:p.html"]
    files += [f"events:e.{suffix}" for suffix in ("csv", "jsonl", "txt", "tsv", "labels")]
    command = [sys.executable, "-c", LIMITED, str(tmp_path), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_a_recording(model: Model, tmp_path: Path, rng: np.random.Generator) -> None:
    peaks = []
    detector, embedder = Detector(model, 0.999999), Embedder(model)
    for minutes in (8, 32):  # more than what is there at once
        path = tmp_path / f"{minutes}.wav"
        sf.write(path, np.tile(0.1 * rng.standard_normal(8000 * 60), minutes), 8000)
        tracemalloc.start()
        detect_folder(detector, path, tmp_path / f"{minutes}.csv")
        embed_folder(embedder, path, tmp_path / f"{minutes}.h5")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
