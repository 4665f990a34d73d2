from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.data.labels import LabelSet
from weakaudio.data.manifest import Manifest, read_manifest, write_manifest
from weakaudio.errors import LabelError, ManifestError, WeakAudioError

WELL_FORMED = "path,labels,fold\na.wav,dog;rain,1\nsub/b.wav,saw,2\nc.wav,,2\n"


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "clips.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_manifest_is_read_as_written(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, WELL_FORMED), check_files=False)
    assert manifest.table["labels"].tolist() == [["dog", "rain"], ["saw"], []]
    assert manifest.table["fold"].tolist() == [1, 2, 2]
    assert manifest.paths == [tmp_path / "a.wav", tmp_path / "sub" / "b.wav", tmp_path / "c.wav"]
    assert manifest.label_set.names == ["dog", "rain", "saw"]
    assert len(manifest) == 3


def test_round_trip_is_byte_equal(tmp_path: Path) -> None:
    source = written(tmp_path, WELL_FORMED)
    write_manifest(read_manifest(source, check_files=False), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == source.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.csv", "clips.csv"]


# Difficult cells of a CSV: commas, quotes, and names that pandas would read as numbers or missing values.
names = st.one_of(
    st.sampled_from(["None", "NA", "nan", "null", "N/A", "007", "1e5", "True", 'Dog "bark"', "a, b", "é ü"]),
    st.text(st.characters(codec="utf-8", exclude_characters=";\r\n", exclude_categories=("C", "Z")), min_size=1),
)


@given(paths=st.lists(names, min_size=1, max_size=5, unique=True), data=st.data())
def test_any_names_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], data: st.DataObject
) -> None:
    labels = [data.draw(st.lists(names, max_size=3, unique=True)) for _ in paths]
    splits = [data.draw(names) for _ in paths]
    path = tmp_path_factory.mktemp("manifest") / "clips.csv"
    table = pd.DataFrame({"path": paths, "labels": labels, "split": splits})
    write_manifest(Manifest(table, path.parent), path)
    pd.testing.assert_frame_equal(read_manifest(path, check_files=False).table, table, check_dtype=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,labels\na.wav,dog\na.wav,saw\n", "'a.wav' is repeated"),
        ("path,labels\na.wav,dog\n,saw\n", "line 3 has no path"),
        ("path,label\na.wav,dog\n", "column labels missing"),
        ("labels\ndog\n", "column path missing"),
        ("path,labels\n", "no rows"),
        ("path,labels\nfirst,a.wav,dog\n", "more cells than its header"),
        ("", "not a CSV"),
        (np.random.default_rng(0).bytes(5000), "not a CSV"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "not a CSV"),
        (bytes(500), "missing"),
        ('path,labels\na.wav,"dog\nb.wav,saw\n', "not a CSV"),
    ],
)
def test_a_malformed_manifest_is_refused_with_reason(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=rf"clips\.csv: .*{message}"):
        read_manifest(written(tmp_path, content), check_files=False)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(ManifestError, match=path.name):
            read_manifest(path)


def test_missing_clips_are_counted_and_the_first_is_named(make_wavs: Callable[..., Path]) -> None:
    root = make_wavs({"a.wav": np.zeros(8, dtype=np.float32)})
    (root / "clips.csv").write_text(WELL_FORMED)
    with pytest.raises(ManifestError, match=r"2 of 3 clips do not exist, the first: .*sub/b\.wav"):
        read_manifest(root / "clips.csv")


def test_too_long_a_path_counts_as_missing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="1 of 1 clips do not exist"):
        read_manifest(written(tmp_path, f"path,labels\n{5000 * 'a'}.wav,dog\n"))


def test_an_unknown_label_is_refused_with_its_clip(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"clips\.csv: clip 'sub/b\.wav': unknown label 'saw'"):
        read_manifest(written(tmp_path, WELL_FORMED), LabelSet(["dog", "rain"]), check_files=False)


def test_where_selects_rows(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, WELL_FORMED), check_files=False)
    assert manifest.where(fold=2).table["path"].tolist() == ["sub/b.wav", "c.wav"]
    assert manifest.where(fold=[1, 2], path="a.wav").table["path"].tolist() == ["a.wav"]
    with pytest.raises(ManifestError, match="'split'"):
        manifest.where(split="train")
    with pytest.raises(WeakAudioError, match="no clip with"):
        manifest.where(fold=3)
