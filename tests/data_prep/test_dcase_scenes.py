from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import soundfile as sf
from weakaudio_data_prep.dcase_scenes import prepare

from weakaudio.data.corpus import Corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import DataPrepError
from weakaudio.transfer.cross_validation import FoldProtocol

RATE = 8000
SCENES = ("beach", "cafe/restaurant")


def write_audio(root: Path, files: list[str], suffix: str = ".wav") -> None:
    (root / "audio").mkdir(parents=True)
    for n, file in enumerate(files):
        sf.write((root / file).with_suffix(suffix), [0.1] * (80 + n), RATE)


def write_lines(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def tut(tmp_path: Path) -> Path:
    """TUT Acoustic Scenes 2016 in small: in each of four folds, a recording of each of two scenes, cut in two."""
    root = tmp_path / "TUT-acoustic-scenes-2016-development"
    clips = [
        (f"audio/{'ab'[k]}{fold:03d}_{start}_{start + 30}.wav", scene, fold)
        for fold in (1, 2, 3, 4)
        for k, scene in enumerate(SCENES)
        for start in (0, 30)
    ]
    write_audio(root, [file for file, _, _ in clips])
    write_lines(root / "meta.txt", [(file, scene) for file, scene, _ in clips])
    for fold in (1, 2, 3, 4):
        test = [(file, scene) for file, scene, of in clips if of == fold]
        train = [(file, scene) for file, scene, of in clips if of != fold]
        write_lines(root / f"evaluation_setup/fold{fold}_train.txt", train)
        write_lines(root / f"evaluation_setup/fold{fold}_evaluate.txt", test)
        write_lines(root / f"evaluation_setup/fold{fold}_test.txt", [(file,) for file, _ in test])
    return root


@pytest.fixture
def tau(tmp_path: Path) -> Path:
    """A small TAU Urban Acoustic Scenes: two scenes at five locations (the last unused) on devices a and s1."""
    root = tmp_path / "TAU-urban-acoustic-scenes-2020-mobile-development"
    clips = [
        (f"audio/{scene}-{city}-{n}-{100 * n + k}-{device}.wav", scene, f"{city}-{n}", device)
        for n, (scene, city) in enumerate(
            [("park", "lyon"), ("tram", "lyon"), ("park", "paris"), ("tram", "paris"), ("park", "milan")]
        )
        for k in range(2)
        for device in ("a", "s1")
    ]
    write_audio(root, [clip[0] for clip in clips])
    write_lines(root / "meta.csv", [("filename", "scene_label", "identifier", "source_label"), *clips])
    head, setup = ("filename", "scene_label"), root / "evaluation_setup"
    write_lines(setup / "fold1_train.csv", [head, *((clip[0], clip[1]) for clip in clips[:8])])
    write_lines(setup / "fold1_evaluate.csv", [head, *((clip[0], clip[1]) for clip in clips[8:16])])
    write_lines(setup / "fold1_test.csv", [head[:1], *((clip[0],) for clip in clips[8:16])])
    return root


def prepared(root: Path, out: Path) -> pd.DataFrame:
    prepare(str(root), str(out))
    return read_manifest(out / "manifest.csv").table


def test_a_clip_of_tut_has_the_fold_that_tests_it_and_its_recording_as_source(tut: Path, tmp_path: Path) -> None:
    summary = prepare(str(tut), str(tmp_path / "out"))
    assert (summary.name, summary.n_clips, summary.n_classes) == ("TUT Acoustic Scenes", 16, 2)
    assert summary.groups == {f"fold {n}": 4 for n in (1, 2, 3, 4)}
    table = read_manifest(tmp_path / "out" / "manifest.csv").table
    for path, labels, fold, source in table[["path", "labels", "fold", "source"]].to_numpy():
        assert Path(path).name.split("_")[0] == source == f"{'ab'[SCENES.index(labels[0])]}{fold:03d}"
    y = [labels[0] for labels in table["labels"]]
    assert FoldProtocol(y, table["fold"], table["source"]).shared_sources == ()
    assert not (tmp_path / "out" / "notes.csv").exists()


def test_the_recording_is_taken_from_the_third_column_if_there_is_one(tut: Path, tmp_path: Path) -> None:
    """In the layout of 2017 file names do not start with it."""
    rows = [line.split("\t") for line in (tut / "meta.txt").read_text().splitlines()]
    write_lines(tut / "meta.txt", [(file, scene, "at" + Path(file).stem[:4]) for file, scene in rows])
    table = prepared(tut, tmp_path / "out")
    assert table["source"].tolist()[:3] == ["ata001", "ata001", "atb001"]


def test_tau_keeps_its_split_its_locations_and_its_devices(tau: Path, tmp_path: Path) -> None:
    table = prepared(tau, tmp_path / "out")
    assert table["split"].tolist() == ["train"] * 8 + ["test"] * 8
    assert table["source"].unique().tolist() == ["lyon-0", "lyon-1", "paris-2", "paris-3"]
    assert table["device"].tolist() == ["a", "s1"] * 8
    assert table["labels"].tolist()[:5] == [["park"]] * 4 + [["tram"]]


def test_clips_in_neither_part_of_the_split_are_left_out_and_listed(tau: Path, tmp_path: Path) -> None:
    for path in (tau / "audio").glob("*milan*"):  # their audio may be missing
        path.unlink()
    table = prepared(tau, tmp_path / "out")
    assert len(table) == 16
    notes = pd.read_csv(tmp_path / "out" / "notes.csv")
    assert notes["path"].tolist() == [
        f"audio/park-milan-4-40{k}-{device}.wav" for k in (0, 1) for device in ("a", "s1")
    ]


@pytest.mark.parametrize("left", ["evaluate", "test"])
def test_one_list_of_the_test_part_is_enough(tut: Path, tau: Path, tmp_path: Path, left: str) -> None:
    for path in [*tut.rglob("fold*.txt"), *tau.rglob("fold*.csv")]:
        if not path.stem.endswith(("train", left)):
            path.unlink()
    assert len(prepared(tut, tmp_path / "tut")) == 16
    assert prepared(tau, tmp_path / "tau")["split"].tolist() == ["train"] * 8 + ["test"] * 8


def test_audio_may_be_in_another_format_and_is_packed_at_the_given_rate(tau: Path, tmp_path: Path) -> None:
    for path in list((tau / "audio").iterdir()):
        audio, rate = sf.read(path)
        sf.write(path.with_suffix(".flac"), audio, rate)
        path.unlink()
    prepare(str(tau), str(tmp_path / "out"), sample_rate=RATE)
    corpus = Corpus(tmp_path / "out")
    assert corpus.store.n_samples.tolist() == list(range(80, 96))
    assert len(corpus.select({"split": "test", "device": "a"})) == 4


A, B = "audio/a001_0_30.wav", "audio/a002_0_30.wav"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda root: (root / "meta.txt").unlink(), r"neither meta\.txt .* nor meta\.csv"),
        (lambda root: (root / "evaluation_setup/fold3_train.txt").unlink(), r"fold3_train\.txt: no such list"),
        (
            lambda root: [(root / f"evaluation_setup/fold2_{part}.txt").unlink() for part in ("test", "evaluate")],
            r"neither fold2_evaluate\.txt nor fold2_test\.txt",
        ),
        (lambda root: change(root / "evaluation_setup/fold2_test.txt", B + "\n", ""), f"{B} is in only one of"),
        (
            lambda root: change(root / "evaluation_setup/fold1_train.txt", B, "audio/x.wav"),
            "x.wav is not in the metadata",
        ),
        (
            lambda root: change(root / "evaluation_setup/fold1_train.txt", B + "\tbeach", A + "\tbeach"),
            "both the train and",
        ),
        (lambda root: change(root / "evaluation_setup/fold1_train.txt", B + "\tbeach\n", ""), "in no part of fold 1"),
        (
            lambda root: change(root / "evaluation_setup/fold1_train.txt", B + "\tbeach", B + "\tbus"),
            "'bus' here and",
        ),
        (lambda root: change(root / "meta.txt", B, A), f"{A} is listed more than once"),
        (lambda root: change(root / "meta.txt", f"{B}\tbeach", f"{B}\t"), "line 5 has an empty cell"),
        (lambda root: change(root / "meta.txt", "\t", ","), "column scene missing; expected a tab-separated"),
        (lambda root: change(root / "meta.txt", "\tbeach", "\tbeach\t1\t2"), "not a CSV table|4 columns"),
        (lambda root: (root / "meta.txt").write_bytes(b"\x93\xff\x00\xfe"), r"meta\.txt: not a CSV table"),
        (lambda root: (root / A).unlink(), f"1 of 16 clips of meta.txt missing, the first: {A}"),
        (lambda root: (root / "audio").rename(root / "elsewhere"), "no folder audio/"),
    ],
)
def test_contradicting_lists_are_refused_with_the_reason(
    tut: Path, tmp_path: Path, broken: Callable[[Path], object], message: str
) -> None:
    broken(tut)
    with pytest.raises(DataPrepError, match=message):
        prepare(str(tut), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def move(root: Path, file: str, scene: str, into: int, out_of: int | None = None) -> None:
    """Test a clip in another fold as well, or only there."""
    setup, row = root / "evaluation_setup", f"{file}\t{scene}\n"
    for fold in {into, out_of} - {None}:
        tested = fold == into
        for part, is_there in (("train", not tested), ("evaluate", tested), ("test", tested)):
            path = setup / f"fold{fold}_{part}.txt"
            line = f"{file}\n" if part == "test" else row
            path.write_text(path.read_text().replace(line, "") + (line if is_there else ""))


def test_a_clip_tested_in_two_folds_is_refused(tut: Path, tmp_path: Path) -> None:
    move(tut, A, "beach", into=3)
    with pytest.raises(DataPrepError, match=f"{A} is in the test parts of folds 1 and 3"):
        prepare(str(tut), str(tmp_path / "out"))


def test_a_clip_that_no_fold_tests_is_refused(tut: Path, tmp_path: Path) -> None:
    move(tut, A, "beach", into=3, out_of=1)
    move(tut, A, "beach", into=1, out_of=3)
    for part in ("test", "evaluate"):
        path = tut / f"evaluation_setup/fold1_{part}.txt"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if A not in line))
    with (tut / "evaluation_setup/fold1_train.txt").open("a") as file:
        file.write(f"{A}\tbeach\n")
    with pytest.raises(DataPrepError, match=f"1 clips are in no test part, the first: {A}"):
        prepare(str(tut), str(tmp_path / "out"))


def test_a_recording_in_two_folds_is_refused(tut: Path, tmp_path: Path) -> None:
    move(tut, A, "beach", into=3, out_of=1)
    with pytest.raises(DataPrepError, match="1 locations are shared, the first: a001 in fold 3 and 1"):
        prepare(str(tut), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda root: change(root / "meta.csv", "paris-2\ta", "lyon-0\ta"), "lyon-0 in split train and test"),
        (lambda root: change(root / "meta.csv", "identifier", "place"), r"meta\.csv: column identifier missing"),
        (lambda root: change(root / "meta.csv", "filename", "file name"), "column filename missing"),
        (lambda root: change(root / "meta.csv", "\tlyon-0\ta", "\t\ta"), "line 2 has an empty cell"),
        (lambda root: (root / "evaluation_setup/fold1_train.csv").unlink(), r"fold1_train\.csv: no such list"),
        (
            lambda root: change(root / "evaluation_setup/fold1_train.csv", "filename\tscene_label\n", ""),
            "column filename missing",
        ),
        (
            lambda root: change(root / "evaluation_setup/fold1_train.csv", "park-lyon-0-0-a", "park-lyon-0-9-a"),
            "park-lyon-0-9-a.wav is not in the metadata",
        ),
        (lambda root: next((root / "audio").glob("tram*")).unlink(), "1 of 16 clips of meta.csv missing"),
    ],
)
def test_a_contradicting_split_is_refused_with_the_reason(
    tau: Path, tmp_path: Path, broken: Callable[[Path], object], message: str
) -> None:
    broken(tau)
    with pytest.raises(DataPrepError, match=message):
        prepare(str(tau), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
