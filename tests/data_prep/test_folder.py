from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from killable import Killable, wait_to_be_killed
from weakaudio_data_prep import summary
from weakaudio_data_prep.folder import prepare

from weakaudio.data.corpus import Corpus
from weakaudio.data.store import ClipStore, StoreWriter
from weakaudio.errors import DataPrepError, ManifestError

MakeWavs = Callable[..., Path]


def tone(n: int) -> np.ndarray:
    return (0.1 * np.sin(np.arange(400 + n))).astype(np.float32)


@pytest.fixture
def class_folders(make_wavs: MakeWavs) -> Path:
    return make_wavs({"dog/a.wav": tone(0), "dog/deep/er/b.wav": tone(1), "rain/a.wav": tone(2)})


@pytest.mark.parametrize("sample_rate", [None, 8000])
def test_a_truncated_file_is_left_out_with_and_without_a_store(
    class_folders: Path, tmp_path: Path, sample_rate: int | None
) -> None:
    whole = (class_folders / "dog" / "a.wav").read_bytes()
    (class_folders / "dog" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    summary = prepare(str(class_folders), str(tmp_path / "out"), sample_rate=sample_rate)
    assert summary.n_clips == 3
    ((path, reason),) = summary.failures
    assert path.endswith("cut.wav")
    assert "truncated" in reason


def test_class_folders_become_labels(class_folders: Path, tmp_path: Path) -> None:
    summary = prepare(str(class_folders), str(tmp_path / "out"), sample_rate=8000)
    corpus = Corpus(tmp_path / "out")
    assert corpus.manifest.table["labels"].tolist() == [["dog"], ["dog"], ["rain"]]
    assert [path.resolve() for path in corpus.manifest.paths] == [
        (class_folders / name).resolve() for name in ("dog/a.wav", "dog/deep/er/b.wav", "rain/a.wav")
    ]
    assert corpus.store.n_samples.tolist() == [400, 401, 402]
    assert (summary.n_clips, summary.n_classes, summary.failures) == (3, 2, [])
    assert summary.seconds == pytest.approx(1203 / 8000)
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_a_csv_gives_labels_and_folds(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "clips.csv").write_text("path,labels,fold\nrain/a.wav,rain;wind,1\ndog/a.wav,dog,2\n")
    summary = prepare(str(class_folders / "clips.csv"), str(tmp_path / "out"), sample_rate=16000)
    corpus = Corpus(tmp_path / "out")
    assert corpus.label_set.names == ["dog", "rain", "wind"]
    assert corpus.targets(corpus.select({"fold": 1})).tolist() == [[0.0, 1.0, 1.0]]
    assert corpus.store.n_samples.tolist() == [804, 800]
    assert summary.groups == {"fold 1": 1, "fold 2": 1}


@pytest.mark.parametrize("sample_rate", [None, 8000])
def test_a_broken_file_is_listed_and_all_others_are_kept(
    class_folders: Path, tmp_path: Path, sample_rate: int | None
) -> None:
    (class_folders / "dog" / "broken.wav").write_text("no audio")
    (class_folders / "rain" / "empty.flac").touch()
    summary = prepare(str(class_folders), str(tmp_path / "out"), sample_rate)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert [Path(path).name for path in failures["path"]] == ["broken.wav", "empty.flac"]
    assert "not audio" in failures["reason"][0]
    assert "empty file" in failures["reason"][1]
    assert [Path(path).name for path, _ in summary.failures] == ["broken.wav", "empty.flac"]
    table = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert [Path(path).name for path in table["path"]] == ["a.wav", "b.wav", "a.wav"]
    if sample_rate:
        assert len(ClipStore(tmp_path / "out" / "store")) == 3


def test_a_truncated_file_is_listed_when_packed(class_folders: Path, tmp_path: Path) -> None:
    path = class_folders / "dog" / "a.wav"
    path.write_bytes(path.read_bytes()[:400])
    prepare(str(class_folders), str(tmp_path / "out"), sample_rate=8000)
    assert "truncated" in pd.read_csv(tmp_path / "out" / "failures.csv")["reason"][0]


def test_a_repaired_file_is_added_by_the_next_run(class_folders: Path, tmp_path: Path) -> None:
    good = (class_folders / "dog" / "a.wav").read_bytes()
    (class_folders / "dog" / "a.wav").write_text("no audio")
    prepare(str(class_folders), str(tmp_path / "out"), sample_rate=8000)
    assert (tmp_path / "out" / "failures.csv").exists()
    (class_folders / "dog" / "a.wav").write_bytes(good)
    summary = prepare(str(class_folders), str(tmp_path / "out"), sample_rate=8000)
    assert (summary.n_clips, summary.failures) == (3, [])
    assert not (tmp_path / "out" / "failures.csv").exists()
    assert sorted(Corpus(tmp_path / "out").store.n_samples) == [400, 401, 402]


def test_a_corrected_label_reaches_training(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "clips.csv").write_text("path,labels\ndog/a.wav,rain\nrain/a.wav,dog\n")
    prepare(str(class_folders / "clips.csv"), str(tmp_path / "out"), sample_rate=8000)
    (class_folders / "clips.csv").write_text("path,labels\ndog/a.wav,dog\nrain/a.wav,rain\n")
    prepare(str(class_folders / "clips.csv"), str(tmp_path / "out"), sample_rate=8000)
    corpus = Corpus(tmp_path / "out")
    assert corpus.targets(corpus.select({})).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class SmallShards(StoreWriter):
    """Waits to be killed once it has so many shards."""

    most = 1000

    def __init__(self, folder: Path, sample_rate: int) -> None:
        super().__init__(folder, sample_rate, shard_samples=2000)

    def add(self, *arguments: Any) -> None:
        if len(list(self.folder.glob("shard-*.h5"))) >= self.most:
            wait_to_be_killed()
        super().add(*arguments)


def pack_until_killed(_: object, root: Path, out: Path, most: int) -> None:
    SmallShards.most, summary.StoreWriter = most, SmallShards  # type: ignore[misc]
    prepare(str(root), str(out), sample_rate=8000)


def test_packing_by_killed_runs_equals_an_uninterrupted_one(make_wavs: MakeWavs, tmp_path: Path) -> None:
    root = make_wavs({f"{'dog' if n % 2 else 'rain'}/{n:02d}.wav": tone(n) for n in range(40)})
    (root / "dog" / "broken.wav").write_text("no audio")

    out = tmp_path / "out"  # the same folder for both, as failures.csv names it

    assert Killable(pack_until_killed, root, out, 1000).wait() == 0
    uninterrupted = contents(out)
    assert {"failures.csv", "labels.txt", "manifest.csv", "store/shard-00006.h5"} <= set(uninterrupted)
    shutil.rmtree(out)
    for shards in (1, 4):
        run = Killable(pack_until_killed, root, out, shards)
        while len(list(out.glob("store/shard-*.h5"))) < shards:
            assert run.process.is_alive()
            time.sleep(0.002)
        assert run.kill() == -signal.SIGKILL
        assert len(list(out.glob("store/shard-*.h5"))) == shards
    assert Killable(pack_until_killed, root, out, 1000).wait() == 0
    assert contents(out) == uninterrupted


def test_audio_outside_the_class_folders_is_named(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "loose.wav").write_bytes((class_folders / "dog" / "a.wav").read_bytes())
    with pytest.raises(DataPrepError, match=r"loose\.wav is in no class folder"):
        prepare(str(class_folders), str(tmp_path / "out"))


def test_missing_sources_are_named(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match="absent"):
        prepare(str(tmp_path / "absent"), str(tmp_path / "out"))
    (class_folders / "clips.csv").write_text("path,labels\ndog/a.wav,dog\nabsent.wav,dog\n")
    with pytest.raises(ManifestError, match="1 of 2 clips do not exist"):
        prepare(str(class_folders / "clips.csv"), str(tmp_path / "out"))


@pytest.fixture
def sessions(make_wavs: MakeWavs) -> Path:
    """Two classes, four recordings of each, of one to four clips; dog and rain were recorded in other sessions."""
    return make_wavs(
        {
            f"{label}/{label[0]}{session}_{clip}.wav": tone(100 * number + 10 * session + clip)
            for number, label in enumerate(("dog", "rain"))
            for session in range(4)
            for clip in range(1 + session)
        }
    )


def folds_of(out: Path) -> pd.DataFrame:
    """Columns name, label, fold and, if present, source."""
    table = Corpus(out).manifest.table if (out / "store").exists() else pd.read_csv(out / "manifest.csv")
    return table.assign(name=[Path(path).stem for path in table["path"]])


def test_folds_keep_the_clips_of_a_recording_together_and_have_every_class(sessions: Path, tmp_path: Path) -> None:
    summary = prepare(str(sessions), str(tmp_path / "out"), folds=4, group=r"([^/]+)_\d+[.]wav")
    table = folds_of(tmp_path / "out")
    assert table["source"].tolist() == [name.split("_")[0] for name in table["name"]]
    assert set(table.groupby("source")["fold"].agg(lambda folds: len(set(folds)))) == {1}
    assert (table.groupby("labels")["fold"].nunique() == 4).all()
    assert sorted(summary.groups) == ["fold 1", "fold 2", "fold 3", "fold 4"]
    prepare(str(sessions), str(tmp_path / "again"), folds=4, group=r"([^/]+)_\d+[.]wav")
    assert folds_of(tmp_path / "again")["fold"].tolist() == table["fold"].tolist()


def test_without_a_group_each_file_is_a_recording(sessions: Path, tmp_path: Path) -> None:
    prepare(str(sessions), str(tmp_path / "out"), folds=5)
    table = folds_of(tmp_path / "out")
    assert "source" not in table
    assert pd.crosstab(table["labels"], table["fold"]).to_numpy().tolist() == [[2] * 5] * 2


def test_a_broken_file_changes_no_fold(sessions: Path, tmp_path: Path) -> None:
    prepare(str(sessions), str(tmp_path / "whole"), sample_rate=8000, folds=2)
    (sessions / "dog" / "d1_0.wav").write_text("no audio")
    assert len(prepare(str(sessions), str(tmp_path / "out"), sample_rate=8000, folds=2).failures) == 1
    whole, rest = (folds_of(tmp_path / name).set_index("name")["fold"] for name in ("whole", "out"))
    assert rest.to_dict() == whole.drop("d1_0").to_dict()


def write_csv(root: Path, rows: list[tuple[str, str, str]], header: str = "path,labels,source") -> str:
    (root / "clips.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(root / "clips.csv")


def test_a_csv_names_recordings_in_its_column_source(sessions: Path, tmp_path: Path) -> None:
    """Recordings may have clips of several classes; a clip without a source is a recording of its own."""
    rows = [
        (f"{label}/{label[0]}3_{clip}.wav", label, f"take {clip}") for label in ("dog", "rain") for clip in range(3)
    ]
    rows += [("dog/d3_3.wav", "dog", ""), ("rain/r3_3.wav", "rain", "")]
    prepare(write_csv(sessions, rows), str(tmp_path / "out"), folds=4)
    table = folds_of(tmp_path / "out")
    fold = table.set_index("name")["fold"]
    for clip in range(3):
        assert fold[f"d3_{clip}"] == fold[f"r3_{clip}"]
    assert pd.crosstab(table["labels"], table["fold"]).to_numpy().tolist() == [[1] * 4] * 2


def test_clips_of_several_classes_are_spread_by_class(sessions: Path, tmp_path: Path) -> None:
    rows = [(f"dog/d3_{clip}.wav", "dog;wind" if clip % 2 else "dog", f"s{clip}") for clip in range(4)]
    rows += [(f"rain/r3_{clip}.wav", "rain;wind" if clip % 2 else "rain", f"s{clip}") for clip in range(4)]
    prepare(write_csv(sessions, rows), str(tmp_path / "out"), folds=2)
    table = folds_of(tmp_path / "out")
    assert set(table.groupby("source")["fold"].agg(lambda folds: len(set(folds)))) == {1}
    for label in ("dog", "rain", "wind"):
        folds = table["fold"][table["labels"].str.contains(label)].tolist()
        assert folds.count(1) == folds.count(2) > 0


def test_impossible_folds_are_refused_with_what_to_do(sessions: Path, tmp_path: Path) -> None:
    def refused(message: str, root: Path | str = sessions, **settings: object) -> None:
        with pytest.raises(DataPrepError, match=message):
            prepare(str(root), str(tmp_path / "out"), **settings)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    rule = r"(.\d)_"
    refused("class 'dog' has 4 recordings, fewer than the 5 folds: .* use 4 folds", folds=5, group=rule)
    refused("1 folds; at least 2", folds=1)
    refused("not a regular expression", folds=2, group="(")
    refused("has no group; put the part that names the recording in", folds=2, group="d")
    refused("names no recording in 10 paths, the first: rain/r0_0.wav", folds=2, group="(d.)_")
    clips = [("dog/d0_0.wav", "dog", "1"), ("dog/d1_0.wav", "dog", "2")]
    refused("its column `source` names the recordings", write_csv(sessions, clips), group=rule)
    for column in ("fold", "split"):
        refused(f"already has a column `{column}`", write_csv(sessions, clips, f"path,labels,{column}"), folds=2)
    shutil.copy(sessions / "dog" / "d0_0.wav", sessions / "rain" / "r9_0.wav")
    refused(r"r9_0\.wav is a copy of .*d0_0\.wav", folds=2, group=rule)
