from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from weakaudio_data_prep.audioset import prepare
from weakaudio_data_prep.audioset_audio import Segment, SegmentSound, parse_stem

from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import Corpus
from weakaudio.data.store import StoreWriter
from weakaudio.errors import AudioError, DataPrepError, LabelError, StoreError

RATE = 1000
YTID = st.text("AYZaz019-_", min_size=11, max_size=11)
SECONDS = st.floats(0, 40000).map(lambda value: round(value, 3))


@given(
    ytid=YTID, prefix=st.sampled_from(["", "Y"]), start=SECONDS, end=SECONDS, form=st.sampled_from(["", "g", ".3f"])
)
def test_all_naming_schemes_are_parsed(ytid: str, prefix: str, start: float, end: float, form: str) -> None:
    if not form:
        assert parse_stem(prefix + ytid) == (ytid, None, None)
        return
    start, end = (start, end) if form == ".3f" else (round(start), round(end))
    stem = f"{prefix}{ytid}_{start:.3f}_{end:.3f}" if form == ".3f" else f"{prefix}{ytid}_{start:d}_{end:d}"
    assert parse_stem(stem) == (ytid, start, end)


@pytest.mark.parametrize(
    "stem", ["", "short", "twelve_chars", "Xabcdefghijk", "abcdefghijk_30", "abcdefghijk_a_b", "äbcdefghijk"]
)
def test_other_names_are_not_segments(stem: str) -> None:
    assert parse_stem(stem) is None


MIDS = {"/m/dog": "Dog", "/m/pet": "Pet, small", "/m/rain": "Rain"}
LIST = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=5, num_segs=5, num_unique_labels=3, num_positive_labels=6
# YTID, start_seconds, end_seconds, positive_labels
-dash-first, 30.000, 32.000, "/m/dog"
_underscore, 0.000, 2.000, "/m/dog,/m/rain"
Ybegin_with, 5.000, 7.000, "/m/rain"
whole_video, 1.000, 3.000, "/m/pet"
notthere___, 1.000, 3.000, "/m/rain,/m/dog"
"""
EVAL = 'evaluation1, 10.000, 11.000, "/m/dog"\n'


def tone(ytid: str, seconds: float = 2.0) -> np.ndarray:
    return np.random.default_rng([ord(c) for c in ytid]).integers(-9999, 9999, int(seconds * RATE), dtype=np.int16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Lists of five training clips and one test clip; four and one of them have audio, in four naming schemes."""
    root = tmp_path / "audioset"
    (root / "audio" / "deep").mkdir(parents=True)
    rows = "".join(f'{n},{mid},"{name}"\n' for n, (mid, name) in enumerate(MIDS.items()))
    (root / "class_labels_indices.csv").write_text("index,mid,display_name\n" + rows)
    nodes = {"/m/things": ["/m/pet", "/m/rain"], "/m/pet": ["/m/dog"], "/m/dog": [], "/m/rain": []}
    ontology = [{"id": k, "child_ids": v, "restrictions": ["abstract"] * ("th" in k)} for k, v in nodes.items()]
    (root / "ontology.json").write_text(json.dumps(ontology))
    (root / "balanced_train_segments.csv").write_text(LIST)
    (root / "eval_segments.csv").write_text(EVAL)
    sf.write(root / "audio" / "-dash-first_30_32.flac", tone("-dash-first"), RATE)
    sf.write(root / "audio" / "Y_underscore.wav", tone("_underscore", 1.5), RATE)
    sf.write(root / "audio" / "Ybegin_with_5.000_7.000.wav", tone("Ybegin_with"), RATE)
    sf.write(root / "audio" / "deep" / "whole_video.wav", tone("whole_video", 9), RATE)
    sf.write(root / "audio" / "deep" / "evaluation1_10000_11000.wav", tone("evaluation1", 1), RATE)
    return root


def run(root: Path, out: Path, **settings: object) -> Corpus:
    prepare(str(root), str(out), sample_rate=RATE, **settings)  # type: ignore[arg-type]
    return Corpus(out)


def samples(corpus: Corpus) -> dict[str, np.ndarray]:
    return {key[:11]: corpus.store.audio(n) * 32768 for n, key in enumerate(corpus.store.keys)}


def test_available_clips_are_packed_and_missing_ones_reported(root: Path, tmp_path: Path) -> None:
    summary = prepare(str(root), str(tmp_path / "out"), sample_rate=RATE)
    assert (summary.n_clips, summary.missing, summary.failures) == (5, 1, [])
    assert summary.groups == {"split test": 1, "split train": 4}
    assert "1 listed clips are missing" in str(summary)
    corpus = Corpus(tmp_path / "out")
    assert corpus.label_set.names == ["Dog", "Pet, small", "Rain"]
    assert corpus.manifest.table["path"].tolist()[0] == "-dash-first_30.000_32.000"
    assert corpus.manifest.table["labels"].tolist() == [["Dog"], ["Dog", "Rain"], ["Rain"], ["Pet, small"], ["Dog"]]
    found = samples(corpus)
    np.testing.assert_array_equal(found.pop("whole_video"), tone("whole_video", 9)[1000:3000])
    np.testing.assert_array_equal(found.pop("_underscore"), tone("_underscore", 1.5))
    np.testing.assert_array_equal(found.pop("evaluation1"), tone("evaluation1", 1))
    for ytid, audio in found.items():
        np.testing.assert_array_equal(audio, tone(ytid))
    missing = pd.read_csv(tmp_path / "out" / "missing_clips.csv")
    assert missing.to_numpy().tolist() == [["notthere____1.000_3.000", "train"]]
    assert (tmp_path / "out" / "missing_per_class.csv").read_text() == (
        "class,split,listed,missing,unreadable,packed\n"
        'Dog,train,3,1,0,2\nDog,test,1,0,0,1\n"Pet, small",train,1,0,0,1\n"Pet, small",test,0,0,0,0\n'
        "Rain,train,3,1,0,2\nRain,test,0,0,0,0\n"
    )
    assert not (tmp_path / "out" / "notes.csv").exists()


def test_labels_are_propagated_to_ancestors_among_the_classes(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    corpus = run(root, tmp_path / "out", propagate=True)
    expected = [["Dog", "Pet, small"], ["Dog", "Pet, small", "Rain"], ["Rain"], ["Pet, small"], ["Dog", "Pet, small"]]
    assert corpus.manifest.table["labels"].tolist() == expected
    assert corpus.store.labels == expected


def many(root: Path, recordings: int) -> None:
    """Add many recordings with two segments each to the training list, and more to another list."""
    names = [f"recording{n:02d}" for n in range(recordings)]
    rows = [f'{name}, {start}.000, {start + 1}.000, "/m/dog"\n' for name in names for start in (0, 5)]
    (root / "balanced_train_segments.csv").write_text("".join(rows))
    (root / "unbalanced_train_segments.csv").write_text("".join(f'{name}, 9, 10, "/m/rain"\n' for name in names))
    for name in names:
        sf.write(root / "audio" / f"{name}.wav", tone(name, 10.0), RATE)


def splits(corpus: Corpus) -> dict[str, str]:
    return dict(zip(corpus.manifest.table["path"], corpus.manifest.table["split"], strict=True))


def test_held_out_recordings_do_not_depend_on_other_lists_or_audio(root: Path, tmp_path: Path) -> None:
    many(root, 99)
    first = splits(run(root, tmp_path / "a", held_out=0.3))
    of = {}
    for path, split in first.items():
        assert of.setdefault(path[:11], split) == split  # all segments of a recording
    assert of.pop("evaluation1") == "test"
    assert 20 < sum(split == "val" for split in of.values()) < 40
    assert set(splits(run(root, tmp_path / "a")).values()) == {"train", "test"}  # none by default

    other = splits(run(root, tmp_path / "b", held_out=0.3, seed=1))
    assert first.keys() == other.keys()
    assert first != other

    for path in sorted((root / "audio").glob("recording*.wav"))[::2]:
        path.unlink()
    lists = ["unbalanced_train", "eval", "balanced_train"]
    fewer = splits(run(root, tmp_path / "c", held_out=0.3, lists=lists))
    assert len(fewer) == 3 * 49 + 1
    assert all(of.get(path[:11], "test") == split for path, split in fewer.items())
    more = splits(run(root, tmp_path / "c", held_out=0.5, lists=lists))
    assert {path for path in fewer if fewer[path] == "val"} < {path for path in more if more[path] == "val"}


def test_a_recording_of_the_test_list_is_never_held_out(root: Path, tmp_path: Path) -> None:
    (root / "balanced_train_segments.csv").write_text(LIST + 'evaluation1, 0.000, 1.000, "/m/rain"\n')
    corpus = run(root, tmp_path / "out", held_out=1 - 1e-9)
    assert set(splits(corpus).values()) == {"val", "test"}
    assert splits(corpus)["evaluation1_10.000_11.000"] == "test"
    per_class = pd.read_csv(tmp_path / "out" / "missing_per_class.csv")
    assert per_class.groupby("split")["listed"].sum().to_dict() == {"test": 1, "val": 7}


def test_an_ontology_without_a_class_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "ontology.json").write_text('[{"id": "/m/dog", "child_ids": []}]')
    with pytest.raises(LabelError, match="/m/pet"):
        run(root, tmp_path / "out", propagate=True)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("abcdefghijk, 1.0, 2.0", "expected YTID"),
        ("abc, 1.0, 2.0, /m/dog", "expected YTID"),
        ("abcdefghijk, one, 2.0, /m/dog", "expected YTID"),
        ('abcdefghijk, 1.0, 2.0, ""', "expected YTID"),
        ('abcdefghijk, 1.0, 2.0, "/m/dog', "expected YTID"),
        ("abcdefghijk, 2.0, 2.0, /m/dog", "ends at 2.0 s, not after its start"),
        ("abcdefghijk, 1.0, 2.0, /m/cat", "class id '/m/cat' is not in class_labels_indices.csv"),
        ("\0\0\0", "expected YTID"),
    ],
)
def test_invalid_rows_are_refused_with_file_and_line(root: Path, tmp_path: Path, row: str, said: str) -> None:
    (root / "balanced_train_segments.csv").write_text(LIST + row + "\n")
    with pytest.raises(DataPrepError, match=rf"balanced_train_segments\.csv: line 9: .*{said}"):
        run(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_repeated_clips_and_a_truncated_list_are_noted(root: Path, tmp_path: Path) -> None:
    more = (
        '_underscore, 0.000, 2.000, "/m/pet"\n'
        'Ybegin_with, 5.000, 7.000, "/m/rain"\n'
        'evaluation1, 0.000, 1.000, "/m/rain"\n'
    )
    (root / "balanced_train_segments.csv").write_text(LIST + more)
    sf.write(root / "audio" / "Ybegin_with.wav", tone("other"), RATE)
    corpus = run(root, tmp_path / "out")
    table = corpus.manifest.table.set_index("path")
    assert table["labels"]["_underscore_0.000_2.000"] == ["Dog", "Pet, small", "Rain"]
    assert table["split"]["evaluation1_10.000_11.000"] == "test"
    assert len(table) == 5
    np.testing.assert_array_equal(samples(corpus)["Ybegin_with"], tone("Ybegin_with"))
    notes = pd.read_csv(tmp_path / "out" / "notes.csv").to_numpy().tolist()
    assert notes == [
        ["balanced_train_segments.csv", "declares 5 segments, has 8"],
        ["_underscore_0.000_2.000", "listed twice with different labels: it has all of them"],
        ["Ybegin_with_5.000_7.000", "listed twice"],
        ["evaluation1_0.000_1.000", "left out of split train: its recording is in split test"],
        ["Ybegin_with_5.000_7.000", "found twice: Ybegin_with_5.000_7.000.wav is used, Ybegin_with.wav is not"],
    ]


def test_a_corrupt_file_is_listed_and_added_once_repaired(root: Path, tmp_path: Path) -> None:
    path = root / "audio" / "Y_underscore.wav"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    summary = prepare(str(root), str(tmp_path / "out"), sample_rate=RATE)
    assert [key for key, _ in summary.failures] == ["_underscore_0.000_2.000"]
    assert len(pd.read_csv(tmp_path / "out" / "failures.csv")) == 1
    per_class = pd.read_csv(tmp_path / "out" / "missing_per_class.csv").set_index(["class", "split"])
    assert per_class.loc[("Dog", "train")].tolist() == [3, 1, 1, 1]
    path.write_bytes(whole)
    assert prepare(str(root), str(tmp_path / "out"), sample_rate=RATE).failures == []


def test_packed_clips_stay_when_their_files_are_deleted(root: Path, tmp_path: Path) -> None:
    before = samples(run(root, tmp_path / "out"))
    (root / "audio" / "Y_underscore.wav").unlink()
    summary = prepare(str(root), str(tmp_path / "out"), sample_rate=RATE)
    assert (summary.n_clips, summary.missing) == (5, 1)
    assert samples(Corpus(tmp_path / "out")).keys() == before.keys()


@pytest.mark.parametrize(
    ("seconds", "start", "named", "expected"),
    [
        (1.0, 5.0, False, (0, 1000)),  # shorter: used completely
        (2.5, 5.0, False, (0, 2500)),  # half a second longer: used completely
        (2.6, 5.0, True, (0, 2000)),  # starts at the segment
        (9.0, 5.0, False, (5000, 7000)),  # complete video
        (6.0, 5.0, False, (5000, 6000)),  # complete video that ends within the segment
    ],
)
def test_long_files_are_cut_and_short_ones_used_completely(
    tmp_path: Path, seconds: float, start: float, named: bool, expected: tuple[int, int]
) -> None:
    sf.write(tmp_path / "a.wav", tone("a", seconds), RATE)
    audio = SegmentSound(tmp_path / "a.wav", Segment("a" * 11, start, start + 2), named).read(RATE)
    np.testing.assert_array_equal(audio * 32768, tone("a", seconds)[slice(*expected)])


def test_a_file_that_is_neither_segment_nor_video_is_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", tone("a", 3), RATE)
    with pytest.raises(AudioError, match=r"a\.wav: has 3\.0 s"):
        SegmentSound(tmp_path / "a.wav", Segment("a" * 11, 5, 7), False).read(RATE)


def test_two_segments_of_a_video_are_cut_from_it_or_have_their_own_files(root: Path, tmp_path: Path) -> None:
    more = '-dash-first, 40.000, 42.000, "/m/rain"\nwhole_video, 5.000, 7.000, "/m/rain"\n'
    more += '_underscore, 60.000, 62.000, "/m/rain"\n'  # its file has 1.5 s: the beginning of the segment from 0 s
    (root / "balanced_train_segments.csv").write_text(LIST + more)
    sf.write(root / "audio" / "Y-dash-first_40.000_42.000.wav", tone("later"), RATE)
    corpus = run(root, tmp_path / "out")
    found = {key: corpus.store.audio(n) * 32768 for n, key in enumerate(corpus.store.keys)}
    np.testing.assert_array_equal(found["-dash-first_30.000_32.000"], tone("-dash-first"))
    np.testing.assert_array_equal(found["-dash-first_40.000_42.000"], tone("later"))
    np.testing.assert_array_equal(found["whole_video_1.000_3.000"], tone("whole_video", 9)[1000:3000])
    np.testing.assert_array_equal(found["whole_video_5.000_7.000"], tone("whole_video", 9)[5000:7000])
    np.testing.assert_array_equal(found["_underscore_0.000_2.000"], tone("_underscore", 1.5))
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures["path"].tolist() == ["_underscore_60.000_62.000"]
    assert "too short for the complete video" in failures["reason"][0]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_an_excerpt_equals_that_part_of_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    sf.write(path, 0.3 * np.sin(np.arange(80000) ** 1.3 / 90), 16000)
    whole, part = read_audio(path)[0], read_audio(path, None, 2.0, 1.5)[0]
    np.testing.assert_allclose(part, whole[32000:56000], atol=1e-4 if suffix in ("ogg", "mp3") else 0)
    assert read_audio(path, None, 4.5, 9.0)[0].size == whole.size - 72000


def shard(path: Path, rows: list[tuple[str, bytes | None, list[str]]]) -> None:
    table = {
        "video_id": [row[0] for row in rows],
        "audio": [{"bytes": row[1], "path": f"{row[0]}.flac"} for row in rows],
        "labels": [row[2] for row in rows],
    }
    pq.write_table(pa.table(table), path, row_group_size=2)


def encoded(audio: np.ndarray) -> bytes:
    file = io.BytesIO()
    sf.write(file, audio, RATE, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_are_read_like_files(root: Path, tmp_path: Path, workers: int) -> None:
    for path in (root / "audio").rglob("*.*"):
        if "Y_under" not in path.name:
            path.unlink()
    first = [
        ("-dash-first", encoded(tone("-dash-first")), ["/m/dog"]),
        ("not_listed_", b"", ["/m/dog"]),
        ("_underscore", encoded(tone("other")), ["/m/dog", "/m/rain"]),
        ("Ybegin_with", encoded(tone("Ybegin_with"))[:60], ["/m/rain"]),
        ("whole_video", encoded(tone("whole_video", 9)), ["Dog"]),
    ]
    shard(root / "audio" / "00.parquet", first)
    shard(root / "audio" / "01.parquet", [("evaluation1", None, ["/m/dog"]), ("-dash-first", b"x", ["/m/dog"])])
    (root / "audio" / "02.parquet").write_bytes(b"PAR1 cut")
    corpus = run(root, tmp_path / "out", workers=workers)
    found = samples(corpus)
    assert list(found) == ["_underscore", "-dash-first", "whole_video"]
    np.testing.assert_array_equal(found["_underscore"], tone("_underscore", 1.5))  # files take precedence over shards
    np.testing.assert_array_equal(found["-dash-first"], tone("-dash-first"))
    np.testing.assert_array_equal(found["whole_video"], tone("whole_video", 9)[1000:3000])
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures["path"].str[:11].tolist() == ["Ybegin_with", "evaluation1"]
    assert failures["reason"].str.contains(r"00\.parquet, row 3: ").tolist() == [True, False]
    assert "01.parquet, row 0: has no audio" in failures["reason"][1]
    notes = dict(pd.read_csv(tmp_path / "out" / "notes.csv").to_numpy().tolist())
    assert "cannot be read" in notes["02.parquet"]
    assert "row 1 is not used" in notes["-dash-first_30.000_32.000"]
    assert notes["whole_video_1.000_3.000"] == "labels Dog in its shard; those of the list are used"


def test_a_parquet_file_without_the_columns_is_named(root: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a"], "audio": [1]}), root / "audio" / "x.parquet")
    with pytest.raises(DataPrepError, match=r"x\.parquet: needs columns video_id and audio\.bytes"):
        run(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"audio": "nowhere"}, "nowhere"),
        ({"lists": ["unbalanced_train"]}, r"unbalanced_train_segments\.csv: missing"),
        ({"workers": 0}, "workers: 0"),
        ({"held_out": 1.0}, r"held_out: 1\.0, must be in"),
        ({"held_out": -0.1}, r"held_out: -0\.1, must be in"),
    ],
)
def test_invalid_arguments_are_refused(root: Path, tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(DataPrepError, match=said):
        run(root, tmp_path / "out", **settings)


def test_a_second_run_in_the_same_folder_is_refused(root: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "out" / "store", RATE), pytest.raises(StoreError, match="another run writes to it"):
        run(root, tmp_path / "out")
    assert len(run(root, tmp_path / "out").store) == 5


def test_a_folder_without_listed_audio_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataPrepError, match="none of the 6 listed clips"):
        run(root, tmp_path / "out", audio=str(tmp_path / "empty"))


def test_only_broken_audio_is_refused_and_listed(root: Path, tmp_path: Path) -> None:
    for path in (root / "audio").rglob("*.*"):
        path.write_bytes(b"no audio")
    with pytest.raises(DataPrepError, match="none of 5 clips can be read"):
        run(root, tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "failures.csv")) == 5
