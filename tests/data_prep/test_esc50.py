from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from weakaudio_data_prep.esc50 import prepare

from weakaudio.data.corpus import Corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import DataPrepError

Change = Callable[[pd.DataFrame], object]
ESC10 = ["Dog bark", "Rain", "Sea waves", "Baby cry", "Clock tick", "Person sneeze", "Helicopter", "Chainsaw"]
ESC10 += ["Rooster", "Fire crackling"]


@pytest.fixture(scope="module")
def one_sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    sf.write(path, np.array([0.5]), 8000)
    return path.read_bytes()


@pytest.fixture
def esc10(tmp_path: Path, one_sample: bytes) -> Path:
    """The layout of ESC-10: 10 folders of 40 clips of one sample."""
    for n, name in enumerate(ESC10):
        folder = tmp_path / "esc10" / f"{n + 1:03d} - {name}"
        folder.mkdir(parents=True)
        for clip in range(40):
            (folder / f"{clip % 5 + 1}-{1000 * n + clip}-A.wav").write_bytes(one_sample)
    return tmp_path / "esc10"


@pytest.fixture
def esc50(tmp_path: Path, one_sample: bytes) -> Callable[[Change], Path]:
    """The layout of ESC-50, 50 classes of 40 clips of one sample, whose listing went through `change`."""

    def make(change: Change = lambda table: table) -> Path:
        root = tmp_path / "esc50"
        (root / "audio").mkdir(parents=True)
        rows = []
        for target in range(50):
            for clip in range(40):
                fold, source = clip % 5 + 1, f"0{1000 * target + clip}"
                name = f"{fold}-{source}-A-{target}.wav"
                (root / "audio" / name).write_bytes(one_sample)
                rows.append({"filename": name, "fold": fold, "category": f"class {target}", "src_file": source})
        table = pd.DataFrame(rows)
        changed = change(table)
        (changed if isinstance(changed, pd.DataFrame) else table).to_csv(root / "esc50.csv", index=False)
        return root

    return make


def test_esc50_keeps_its_folds_classes_and_recordings(esc50: Callable[..., Path], tmp_path: Path) -> None:
    summary = prepare(str(esc50()), str(tmp_path / "out"))
    table = read_manifest(tmp_path / "out" / "manifest.csv").table
    assert (summary.name, summary.n_clips, summary.n_classes) == ("ESC-50", 2000, 50)
    assert summary.groups == {f"fold {n}": 400 for n in range(1, 6)}
    names = [Path(path).stem.split("-") for path in table["path"]]
    assert table["fold"].tolist() == [int(name[0]) for name in names]
    assert table["source"].tolist() == [name[1] for name in names]
    assert table["labels"].tolist() == [[f"class {name[3]}"] for name in names]


def test_esc50_is_found_in_its_published_layout_and_other_formats(esc50: Callable[..., Path], tmp_path: Path) -> None:
    """`meta/esc50.csv`, which says .wav, beside audio that is .flac."""
    root = esc50()
    (root / "meta").mkdir()
    (root / "esc50.csv").rename(root / "meta" / "esc50.csv")
    for path in list((root / "audio").iterdir()):
        path.rename(path.with_suffix(".flac"))
    assert prepare(str(root), str(tmp_path / "out")).n_clips == 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="fold"), "column fold missing"),
        (lambda t: t.iloc[:-1], "'class 49' has 39 clips"),
        (lambda t: t[t["category"] != "class 7"], "49 classes"),
        (lambda t: t.assign(category=t["category"].replace("class 1", "class 0")), "'class 0' has 80 clips"),
        (lambda t: t.assign(fold=t["fold"] - 1), "folds 1 to 5"),
        (lambda t: t.assign(fold=[2, *t["fold"][1:]]), "folds 1 to 5"),
        (lambda t: t.assign(filename=[t["filename"][5], *t["filename"][1:]]), "1-05-A-0|twice|more than once"),
        (
            lambda t: t.assign(filename=["absent.wav", *t["filename"][1:]]),
            "1 of 2000 clips of esc50.csv missing, .* absent",
        ),
    ],
)
def test_a_listing_that_is_not_esc50_is_refused_with_the_reason(
    esc50: Callable[..., Path], tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(DataPrepError, match=message):
        prepare(str(esc50(change)), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_a_listing_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "esc50.csv").write_text("filename,fold,category,src_file\na.wav,1,dog,1\n")
    with pytest.raises(DataPrepError, match="audio"):
        prepare(str(tmp_path), str(tmp_path / "out"))


def test_a_listing_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "esc50.csv").write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(DataPrepError, match=r"esc50\.csv"):
        prepare(str(tmp_path), str(tmp_path / "out"))


def test_esc10_is_read_from_its_folders_and_packed(esc10: Path, tmp_path: Path) -> None:
    (esc10 / "README.txt").write_text("not audio")
    (esc10 / "001 - Dog bark" / "notes.txt").write_text("not audio")
    summary = prepare(str(esc10), str(tmp_path / "out"), sample_rate=8000)
    corpus = Corpus(tmp_path / "out")
    assert (summary.name, summary.n_clips, summary.n_classes, summary.failures) == ("ESC-10", 400, 10, [])
    assert corpus.label_set.names == sorted(name.lower().replace(" ", "_") for name in ESC10)
    assert len(corpus.store) == 400
    assert corpus.targets(corpus.select({"fold": 3})).sum(0).tolist() == [8.0] * 10
    row = corpus.manifest.table.iloc[0]
    assert Path(row["path"]).name.startswith(f"{row['fold']}-{row['source']}-")


def test_an_esc10_clip_that_is_missing_is_refused(esc10: Path, tmp_path: Path) -> None:
    next((esc10 / "002 - Rain").iterdir()).unlink()
    with pytest.raises(DataPrepError, match="'rain' has 39 clips"):
        prepare(str(esc10), str(tmp_path / "out"))


def test_an_esc10_clip_in_another_fold_is_refused(esc10: Path, tmp_path: Path) -> None:
    clip = next((esc10 / "002 - Rain").glob("1-*"))
    clip.rename(clip.with_name("2" + clip.name[1:]))
    with pytest.raises(DataPrepError, match="folds 1 to 5"):
        prepare(str(esc10), str(tmp_path / "out"))


def test_a_folder_that_is_neither_is_named(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataPrepError, match=rf"{root.name}: neither"):
            prepare(str(root), str(tmp_path / "out"))
