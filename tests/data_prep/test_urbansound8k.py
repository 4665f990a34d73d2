from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from weakaudio_data_prep.urbansound8k import prepare

from weakaudio.data.corpus import Corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import DataPrepError, ManifestError

pytestmark = pytest.mark.filterwarnings("ignore:.*official ten-fold protocol")

RATE = 8000
CLASSES = {"siren": 8, "dog_bark": 3}

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def urban(tmp_path: Path) -> Callable[..., Path]:
    """Three folds of two classes: a recording in each with a foreground and a background slice.

    The table of slices goes through `change` after the audio was written.
    """

    def make(change: Change = lambda table: table, listing: str = "UrbanSound8K.csv") -> Path:
        root, rows = tmp_path / "urban", []
        for fold in (1, 2, 3):
            (root / "audio" / f"fold{fold}").mkdir(parents=True)
            for name, number in CLASSES.items():
                recording = f"0{100 * fold + number}"
                for salience in (1, 2):
                    file = f"{recording}-{number}-0-{salience}.wav"
                    sf.write(root / "audio" / f"fold{fold}" / file, np.full(fold * 800, 0.1 * salience), RATE)
                    rows.append((file, recording, salience, fold, name))
        table = pd.DataFrame(rows, columns=["slice_file_name", "fsID", "salience", "fold", "class"])
        (root / listing).parent.mkdir(exist_ok=True)
        change(table).to_csv(root / listing, index=False)
        return root

    return make


def prepared(out: Path) -> pd.DataFrame:
    return read_manifest(out / "manifest.csv").table


@pytest.mark.parametrize("listing", ["UrbanSound8K.csv", "metadata/UrbanSound8K.csv"])
@pytest.mark.parametrize("column", ["class", "class_name"])
def test_slices_keep_their_folds_classes_and_recordings(
    urban: Callable[..., Path], tmp_path: Path, listing: str, column: str
) -> None:
    root = urban(lambda t: t.rename(columns={"class": column}), listing)
    summary = prepare(str(root), str(tmp_path / "out"))
    assert (summary.name, summary.n_clips, summary.n_classes, summary.failures) == ("UrbanSound8K", 12, 2, [])
    assert summary.groups == {"fold 1": 4, "fold 2": 4, "fold 3": 4}
    assert summary.seconds == pytest.approx(4 * (0.1 + 0.2 + 0.3))
    for path, labels, fold, source in prepared(tmp_path / "out")[["path", "labels", "fold", "source"]].to_numpy():
        recording, number, *_ = Path(path).stem.split("-")
        assert source == recording
        assert Path(path).parent.name == f"fold{fold}"
        assert [CLASSES[label] for label in labels] == [int(number)]


def test_audio_may_be_in_another_format(urban: Callable[..., Path], tmp_path: Path) -> None:
    """The listing says .wav."""
    root = urban()
    for path in list(root.rglob("*.wav")):
        path.rename(path.with_suffix(".flac"))
    (root / "audio" / "fold1" / "notes.txt").write_text("not audio")
    assert prepare(str(root), str(tmp_path / "out")).n_clips == 12


def test_missing_folds_are_left_out(urban: Callable[..., Path], tmp_path: Path) -> None:
    root = urban()
    (root / "audio" / "fold2").rename(root / "elsewhere")
    assert prepare(str(root), str(tmp_path / "out")).groups == {"fold 1": 4, "fold 3": 4}


def test_fewer_than_ten_folds_raise_a_warning(
    urban: Callable[..., Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    root = urban()
    with pytest.warns(UserWarning, match="only folds 1, 2, 3 of UrbanSound8K's ten"):
        prepare(str(root), str(tmp_path / "three"))
    table = pd.read_csv(root / "UrbanSound8K.csv", dtype=str)
    for fold in range(4, 11):
        (root / "audio" / f"fold{fold}").mkdir()
        sf.write(root / "audio" / f"fold{fold}" / f"{fold}-3-0-1.wav", [0.1], RATE)
        table.loc[len(table)] = [f"{fold}-3-0-1.wav", str(fold), "1", str(fold), "dog_bark"]
    table.to_csv(root / "UrbanSound8K.csv", index=False)
    recwarn.clear()
    assert len(prepare(str(root), str(tmp_path / "ten")).groups) == 10
    assert not recwarn.list


def test_background_slices_can_be_left_out(urban: Callable[..., Path], tmp_path: Path) -> None:
    assert prepare(str(urban()), str(tmp_path / "out"), foreground_only=True).n_clips == 6
    assert {Path(path).stem[-1] for path in prepared(tmp_path / "out")["path"]} == {"1"}


@pytest.mark.parametrize("form", ["folder", "file"])
def test_recordings_of_another_data_set_are_left_out(urban: Callable[..., Path], tmp_path: Path, form: str) -> None:
    """Its audio may be missing, and ids keep their leading zeros."""
    other = tmp_path / "other" / "manifest.csv"
    other.parent.mkdir()
    pd.DataFrame({"path": ["a.ogg", "b.ogg"], "labels": "dog", "source": ["0103", "208"]}).to_csv(other, index=False)
    without = other if form == "file" else other.parent
    assert prepare(str(urban()), str(tmp_path / "out"), without=str(without)).n_clips == 10
    assert sorted(set(prepared(tmp_path / "out")["source"])) == ["0108", "0203", "0208", "0303", "0308"]


def test_a_data_set_to_leave_out_must_name_its_recordings(urban: Callable[..., Path], tmp_path: Path) -> None:
    pd.DataFrame({"path": ["a.ogg"], "labels": "dog"}).to_csv(tmp_path / "other.csv", index=False)
    root = urban()
    with pytest.raises(DataPrepError, match=r"other\.csv: no column `source`"):
        prepare(str(root), str(tmp_path / "out"), without=str(tmp_path / "other.csv"))
    with pytest.raises(ManifestError, match="absent"):
        prepare(str(root), str(tmp_path / "out"), without=str(tmp_path / "absent"))
    assert not (tmp_path / "out").exists()


def test_slices_are_packed_at_the_given_rate(urban: Callable[..., Path], tmp_path: Path) -> None:
    root = urban()
    (root / "audio" / "fold1" / "0108-8-0-2.wav").write_bytes(b"RIFF")
    summary = prepare(str(root), str(tmp_path / "out"), sample_rate=2 * RATE)
    corpus = Corpus(tmp_path / "out")
    assert [os.path.basename(path) for path, _ in summary.failures] == ["0108-8-0-2.wav"]
    assert (summary.n_clips, len(corpus.store), corpus.store.sample_rate) == (11, 11, 16000)
    assert sorted(corpus.store.n_samples) == [1600] * 3 + [3200] * 4 + [4800] * 4
    assert corpus.targets(corpus.select({"fold": 1})).sum(0).tolist() == [2.0, 1.0]  # dog_bark, siren
    assert corpus.label_set.names == ["dog_bark", "siren"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="fsID"), r"UrbanSound8K\.csv: column fsID missing"),
        (lambda t: t.drop(columns=["salience", "class"]), "column class and salience missing"),
        (lambda t: t.assign(fold=t["fold"].where(t.index != 3)), "line 5 has an empty cell"),
        (lambda t: pd.concat([t, t.iloc[[7]]]), "clip 0203-3-0-2.wav is listed more than once"),
        (lambda t: t.assign(fold=t["fold"] + 3), "no folder fold1"),
        (lambda t: t.iloc[:0], "no folder fold1"),
        (lambda t: t.assign(slice_file_name="x" + t["slice_file_name"]), "fold1: 4 of 4 clips .* missing, .* x0108"),
        (lambda t: t.assign(fold=t["fold"].replace(2, 1)), "fold1: 4 of 8 clips .* missing, the first: 0208-8-0-1"),
        (lambda t: t.assign(salience=2), "no slice is left"),
    ],
)
def test_a_table_that_is_not_urbansound8k_is_refused_with_the_reason(
    urban: Callable[..., Path], tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(DataPrepError, match=message):
        prepare(str(urban(change)), str(tmp_path / "out"), foreground_only=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b'a,b\n"', b"\x93\xff\x00\xfe" * 50], ids=["empty", "open quote", "binary"])
def test_a_listing_that_is_not_a_table_is_refused(urban: Callable[..., Path], tmp_path: Path, content: bytes) -> None:
    root = urban()
    (root / "UrbanSound8K.csv").write_bytes(content)
    with pytest.raises(DataPrepError, match=r"UrbanSound8K\.csv: not a CSV table"):
        prepare(str(root), str(tmp_path / "out"))


def test_a_folder_without_listing_or_audio_is_named(urban: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match=r"absent: no UrbanSound8K\.csv"):
        prepare(str(tmp_path / "absent"), str(tmp_path / "out"))
    root = urban()
    (root / "audio").rename(tmp_path / "audio")
    with pytest.raises(DataPrepError, match=r"urban/audio: no folder fold1"):
        prepare(str(root), str(tmp_path / "out"))
