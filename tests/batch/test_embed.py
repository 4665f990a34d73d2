"""A folder becomes one file; bad recordings are listed, and a kill changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.batch.embed import embed_folder
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.formats.embeddings import EmbeddingTable, read_embeddings, write_embeddings
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model

FORMATS = ["h5", "npz", "parquet"]


@pytest.fixture(scope="module")
def embedder(randomise: Callable[[Network], Network]) -> Embedder:
    return Embedder(Model(randomise(WeakCNN(3, n_mels=64, width=1 / 8)), "16k", ["dog", "rain", "saw"]))


@pytest.fixture
def recordings(make_wavs: Callable[..., Path], rng: np.random.Generator) -> Path:
    """Five good files, of which two have one name in two folders, and four that cannot be read."""
    lengths = {"b/x.wav": 9000, "a/x.wav": 30000, "c d.wav": 1, "ä.wav": 8000, "a/z.wav": 8001}
    root = make_wavs({name: 0.1 * rng.standard_normal(n).astype(np.float32) for name, n in lengths.items()})
    (root / "empty.wav").write_bytes(b"")
    (root / "text.flac").write_text("hello")
    whole = (root / "b" / "x.wav").read_bytes()
    (root / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "header.wav").write_bytes(whole[:44])
    return root


GOOD = ["a/x.wav", "a/z.wav", "b/x.wav", "c d.wav", "ä.wav"]
BAD = ["a/header.wav", "cut.wav", "empty.wav", "text.flac"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("level", ["clip", "segment"])
def test_rows_are_those_of_the_files(
    embedder: Embedder, recordings: Path, tmp_path: Path, level: str, suffix: str
) -> None:
    out = tmp_path / "out" / f"e.{suffix}"
    summary = embed_folder(embedder, recordings, out, level, "tiny", "weakaudio embed x")
    table = read_embeddings(out)
    assert table.paths == GOOD
    assert (table.metadata["model"], table.metadata["command"]) == ("tiny", "weakaudio embed x")
    assert table.metadata["checksum"] == embedder.checksum
    alone = [embedder.embed_file(recordings / name) for name in GOOD]
    assert summary.n_rows == (len(GOOD) if level == "clip" else sum(len(one.segments) for one in alone))
    if level == "clip":
        assert table.clip is None
        np.testing.assert_allclose(table.embeddings, np.stack([one.clip for one in alone]), atol=1e-5)
    else:
        assert table.clip is not None
        assert table.clip.tolist() == [n for n, one in enumerate(alone) for _ in one.segments]
        np.testing.assert_allclose(table.embeddings, np.concatenate([one.segments for one in alone]), atol=1e-5)
        times = np.stack([table.start, table.end], axis=1)
        np.testing.assert_array_equal(times, np.concatenate([one.times for one in alone]))
    assert [path for path, _ in summary.failures] == BAD
    listed = pd.read_csv(out.parent / "failures.csv")
    assert listed["path"].tolist() == BAD
    for reason, expected in zip(listed["reason"], ["truncated", "truncated", "empty", "not audio"], strict=True):
        assert expected in reason
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(
        [out.name, f"{out.name}.journal", "failures.csv"]
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_folder_gives_the_same_bytes(
    embedder: Embedder, recordings: Path, tmp_path: Path, suffix: str
) -> None:
    files = [tmp_path / f"{n}.{suffix}" for n in range(2)]
    for out in files:
        embed_folder(embedder, recordings, out, "segment")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_single_recording_is_a_folder_of_one(embedder: Embedder, recordings: Path, tmp_path: Path) -> None:
    embed_folder(embedder, recordings / "a" / "x.wav", tmp_path / "e.npz")
    assert read_embeddings(tmp_path / "e.npz").paths == ["x.wav"]


def test_a_list_of_failures_goes_when_they_do(embedder: Embedder, recordings: Path, tmp_path: Path) -> None:
    embed_folder(embedder, recordings, tmp_path / "e.h5")
    for name in BAD:
        (recordings / name).unlink()
    assert embed_folder(embedder, recordings, tmp_path / "e.h5").failures == []
    assert not (tmp_path / "failures.csv").exists()


def test_a_file_of_that_name_that_is_not_ours_stays(embedder: Embedder, recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "failures.csv").write_text("my own\n")
    with pytest.raises(WeakAudioError, match=r"failures\.csv: exists and is no list of failures"):
        embed_folder(embedder, recordings, tmp_path / "e.h5")
    assert (tmp_path / "failures.csv").read_text() == "my own\n"


def test_outputs_beside_each_other_have_their_failures_in_one_list(
    embedder: Embedder, recordings: Path, tmp_path: Path
) -> None:
    embed_folder(embedder, recordings, tmp_path / "e.h5")
    embed_folder(embedder, recordings / "a", tmp_path / "b.npz")
    listed = pd.read_csv(tmp_path / "failures.csv")
    assert listed["output"].tolist() == ["b.npz"] + ["e.h5"] * len(BAD)
    assert listed["path"].tolist() == ["header.wav", *BAD]
    (recordings / "a" / "header.wav").unlink()
    embed_folder(embedder, recordings / "a", tmp_path / "b.npz")
    assert pd.read_csv(tmp_path / "failures.csv")["output"].tolist() == ["e.h5"] * len(BAD)


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode on this system")
def test_a_name_that_is_not_utf8_stands_there_with_its_bytes(
    embedder: Embedder, recordings: Path, tmp_path: Path
) -> None:
    os.rename(recordings / "c d.wav", os.fsencode(recordings) + b"/\xe9.wav")
    embed_folder(embedder, recordings, tmp_path / "e.h5")
    expected = ["a/x.wav", "a/z.wav", "b/x.wav", "ä.wav", "\\udce9.wav"]
    assert read_embeddings(tmp_path / "e.h5").paths == expected
    assert pd.read_csv(tmp_path / "failures.csv")["path"].tolist() == BAD


def test_nothing_readable_is_an_error(embedder: Embedder, recordings: Path, tmp_path: Path) -> None:
    for name in GOOD:
        (recordings / name).unlink()
    with pytest.raises(AudioError, match=r"none of its 4 files .*failures\.csv"):
        embed_folder(embedder, recordings, tmp_path / "e.h5")
    assert pd.read_csv(tmp_path / "failures.csv")["path"].tolist() == BAD


def test_wrong_arguments_are_refused_before_any_work(embedder: Embedder, recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"e\.csv"):
        embed_folder(embedder, recordings, tmp_path / "e.csv")
    with pytest.raises(WeakAudioError, match="frame"):
        embed_folder(embedder, recordings, tmp_path / "e.h5", "frame")
    with pytest.raises(AudioError, match="no such file or folder"):
        embed_folder(embedder, tmp_path / "nowhere", tmp_path / "e.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["wavs"]


names = st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1), unique=True)


@given(paths=names, width=st.integers(1, 4), counts=st.data(), suffix=st.sampled_from(FORMATS))
def test_tables_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], width: int, counts: st.DataObject, suffix: str
) -> None:
    clip = np.repeat(np.arange(len(paths)), [counts.draw(st.integers(1, 3)) for _ in paths])
    rows = np.arange(len(clip) * width, dtype=np.float32).reshape(len(clip), width)
    start = np.arange(len(clip)) / 3
    table = EmbeddingTable(paths, rows, {"model": "m", "command": "ü"}, clip, start, start + 1)
    path = tmp_path_factory.mktemp("table") / f"e.{suffix}"
    write_embeddings(table, path)
    found = read_embeddings(path)
    assert (found.paths, found.metadata) == (paths, table.metadata)
    for name in ("embeddings", "clip", "start", "end"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
    assert found.embeddings.dtype == np.float32


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"e.{suffix}"
    write_embeddings(EmbeddingTable(["a", "b"], np.zeros((2, 3), np.float32), {}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(StoreError, match=path.name):
        read_embeddings(path)
    with pytest.raises(StoreError, match="no such file"):
        read_embeddings(tmp_path / f"none.{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": np.full((3, 2), np.nan, np.float32)},
        {"clip": np.array([0, 1, 7])},
        {"start": np.array([0.0, np.inf, 1.0])},
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path: Path, suffix: str, changes: dict[str, Any]) -> None:
    if suffix == "parquet" and "clip" in changes:
        pytest.skip("Parquet takes its paths by clip when it is written")
    fine = EmbeddingTable(
        ["a", "b"], np.zeros((3, 2), np.float32), {}, np.array([0, 1, 1]), np.arange(3.0), np.ones(3)
    )
    write_embeddings(replace(fine, **changes), tmp_path / f"e.{suffix}")
    with pytest.raises(StoreError, match=f"e.{suffix}: damaged"):
        read_embeddings(tmp_path / f"e.{suffix}")


def test_an_hdf5_file_has_no_global_heap(tmp_path: Path) -> None:
    """HDF5 keeps text of any length there; over a damaged heap HDF5 2.0.0 reads for ever."""
    write_embeddings(
        EmbeddingTable(["ü"], np.zeros((1, 2), np.float32), {"model": "ü", "command": ""}), tmp_path / "e.h5"
    )
    assert b"GCOL" not in (tmp_path / "e.h5").read_bytes()
    assert read_embeddings(tmp_path / "e.h5").metadata == {"model": "ü", "command": ""}
