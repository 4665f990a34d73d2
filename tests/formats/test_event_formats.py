"""Tables of events come back from every format as they went, or are refused in one line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.errors import WeakAudioError
from weakaudio.formats.event_formats import COLUMNS, FORMATS
from weakaudio.formats.events import check_events, check_names, read_events, write_events

SUFFIXES = {name: known.suffix for name, known in FORMATS.items()}
OWN = ["csv", "parquet", "jsonl"]
OTHERS = ["raven", "audacity", "desed"]


def table(*rows: tuple[str, float, float, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


EVENTS = table(
    ("a.wav", 0.5, 1.25, "dog", 0.75),
    ("a.wav", 3.0, 86399.123456, "rain, heavy", 0.333333),
    ("Vögel/Größe 'x' \"y\", z.wav", 0.0, 0.1, 'say "hey", ok', 1.0),
)


# ---- what was written is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_events_come_back_sorted_with_names_that_are_hard_to_write(name: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / f"events{SUFFIXES[name]}"
    write_events(EVENTS.iloc[::-1], path)
    found = read_events(path)
    expected = check_events(EVENTS, "")
    if name == "audacity":
        expected = expected.assign(score=1.0)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-9)
    assert found["file"].tolist() == sorted(EVENTS["file"])
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing is left beside


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
spans = st.tuples(st.floats(0, 1e5), st.floats(0, 1e4))
rows = st.tuples(names, spans, names, st.floats(0, 1))


@pytest.mark.parametrize("name", ["csv", "parquet", "jsonl", "raven", "desed"])
@settings(max_examples=30, deadline=None)
@given(drawn=st.lists(rows, max_size=6))
def test_any_table_comes_back_or_is_refused_for_a_name(
    name: str, drawn: list[tuple[str, tuple[float, float], str, float]]
) -> None:
    events = check_events(table(*[(f, on, on + length, label, s) for f, (on, length), label, s in drawn]), "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"events{SUFFIXES[name]}"
        written = {*events["file"], *events["label"]}
        if any(character in text for text in written for character in FORMATS[name].refused):
            with pytest.raises(WeakAudioError, match="choose jsonl or parquet"):
                write_events(events, path)
            assert not path.exists()
            return
        write_events(events, path)
        found = read_events(path)
    key = ["file", "label", "start", "end", "score"]  # rounded times may change the order of equals
    if name in OTHERS:
        events = events.round({"start": 6, "end": 6})
    events = events.round({"score": 6})
    pd.testing.assert_frame_equal(
        found.sort_values(key, ignore_index=True), events.sort_values(key, ignore_index=True), rtol=0, atol=2e-6
    )
    if name in OWN:
        assert found["start"].tolist() == events["start"].tolist()
        assert found["end"].tolist() == events["end"].tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_no_events_are_a_table_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"events{SUFFIXES[name]}"
    write_events(table(), path)
    found = read_events(path)
    assert found.empty
    assert found.columns.tolist() == list(COLUMNS)
    assert pd.concat([found, EVENTS])["start"].dtype == np.float64


def test_scores_have_six_decimals_and_other_columns_are_left(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    write_events(table(("a.wav", 1 / 3, 2.0, "dog", 2 / 3)).assign(note="x"), path)
    assert path.read_text() == f"file,start,end,label,score\na.wav,{1 / 3},2.0,dog,0.666667\n"


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_table_twice_gives_the_same_bytes_and_takes_the_place_of_the_first(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"events{SUFFIXES[name]}"
    write_events(table(("old.wav", 0.0, 1.0, "cat", 0.5)), path)
    write_events(EVENTS, path)
    write_events(EVENTS.sample(frac=1, random_state=0), tmp_path / f"again{SUFFIXES[name]}")

    def content(root: Path) -> dict[str, bytes]:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}

    assert content(path) == content(tmp_path / f"again{SUFFIXES[name]}")


def test_the_format_can_be_said_whatever_the_name(tmp_path: Path) -> None:
    write_events(EVENTS, tmp_path / "events.dat", "jsonl")
    assert len(read_events(tmp_path / "events.dat", "jsonl")) == 3
    write_events(EVENTS, tmp_path / "EVENTS.CSV")
    assert (tmp_path / "EVENTS.CSV").read_text().startswith("file,start")


# ---- other programs --------------------------------------------------------------------------------------


def test_raven_finds_each_event_by_the_path_and_the_time_in_its_recording(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    write_events(EVENTS, path, folder=tmp_path / "audio")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert lines[0][:7] == [
        "Selection",
        "View",
        "Channel",
        "Begin Time (s)",
        "End Time (s)",
        "Low Freq (Hz)",
        "High Freq (Hz)",
    ]
    assert all(len(line) == len(lines[0]) for line in lines)
    last = dict(zip(lines[0], lines[-1], strict=True))
    assert last["Selection"] == "3"
    assert last["Begin Path"] == str(tmp_path / "audio" / "a.wav")
    assert last["Begin File"] == "a.wav"
    assert last["Begin Time (s)"] == last["File Offset (s)"] == "3.000000"
    assert float(last["Low Freq (Hz)"]) < float(last["High Freq (Hz)"])


def test_a_table_made_in_raven_is_read(tmp_path: Path) -> None:
    # A sequence of recordings: times count from the first; a selection has a row for each view.
    (tmp_path / "raven.txt").write_text(
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tAnnotation\r\n"
        "1\tWaveform 1\t1\t5.0\t6.0\ta.wav\t5.0\tRobin\r\n"
        "1\tSpectrogram 1\t1\t5.0\t6.0\ta.wav\t5.0\tRobin\r\n"
        "2\tSpectrogram 1\t1\t65.1\t66.6\tb.wav\t5.1\tWren\r\n"
    )
    expected = table(("a.wav", 5.0, 6.0, "Robin", 1.0), ("b.wav", 5.1, 6.6, "Wren", 1.0))
    pd.testing.assert_frame_equal(read_events(tmp_path / "raven.txt"), check_events(expected, ""))


def test_a_selection_drawn_by_hand_into_our_table_is_read_beside_ours(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    write_events(table(("site/a.wav", 1.0, 2.0, "dog", 0.5)), path, folder=tmp_path)
    header, row = path.read_text().splitlines()
    by_hand = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    by_hand.update({"Selection": "2", "Begin Time (s)": "7", "End Time (s)": "8", "File Offset (s)": "7"})
    by_hand.update({"File": "", "Begin File": "b.wav", "Score": "", "Annotation": "cat"})
    path.write_text("\n".join([header, row, "\t".join(by_hand.values())]))
    expected = table(("b.wav", 7.0, 8.0, "cat", 1.0), ("site/a.wav", 1.0, 2.0, "dog", 0.5))
    pd.testing.assert_frame_equal(read_events(path), check_events(expected, ""))


def test_audacity_gets_a_file_for_each_recording_where_the_recording_is(tmp_path: Path) -> None:
    path = tmp_path / "events.labels"
    write_events(table(("site/a.wav", 1.0, 2.5, "dog", 0.5), ("a.flac", 0.0, 1.0, "cat", 0.5)), path)
    files = {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*.txt")}
    assert files == {"site/a.wav.txt": "1.000000\t2.500000\tdog\n", "a.flac.txt": "0.000000\t1.000000\tcat\n"}
    (path / "a.flac.txt").write_text("0.5\t0.5\tpoint\n\\\t100.0\t2000.0\n")  # as Audacity writes a spectral label
    assert read_events(path).iloc[0].tolist() == ["a.flac", 0.5, 0.5, "point", 1.0]
    assert read_events(path / "a.flac.txt", "audacity")["file"].tolist() == ["a.flac"]


def test_audacity_never_writes_over_a_folder_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "events.labels"
    path.mkdir()
    (path / "thesis.docx").write_text("years of work")
    with pytest.raises(WeakAudioError, match="not a folder of labels only"):
        write_events(EVENTS, path)
    assert (path / "thesis.docx").read_text() == "years of work"


@pytest.mark.parametrize("file", ["../a.wav", "/a.wav", "x/../../a.wav", "./a.wav"])
def test_audacity_writes_below_its_folder_only(file: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / "events.labels"
    write_events(EVENTS, path)
    with pytest.raises(WeakAudioError, match="no path below a folder"):
        write_events(table((file, 0.0, 1.0, "dog", 0.5)), path)
    assert len(read_events(path)) == 3  # what was there stays
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_dir()) == ["Vögel", "events.labels", "out"]


def test_ground_truth_of_desed_has_no_scores_and_files_without_events(tmp_path: Path) -> None:
    (tmp_path / "truth.tsv").write_text("filename\tonset\toffset\tevent_label\nb.wav\t\t\t\na.wav\t0.5\t2\tSpeech\n")
    found = read_events(tmp_path / "truth.tsv")
    pd.testing.assert_frame_equal(found, check_events(table(("a.wav", 0.5, 2.0, "Speech", 1.0)), ""))


def test_libraries_of_the_field_read_our_desed_table(tmp_path: Path) -> None:
    io = pytest.importorskip("sed_scores_eval.base_modules.io")
    write_events(table(("x/a.wav", 1.0, 2.0, "dog", 0.5)), tmp_path / "events.tsv")
    assert io.read_ground_truth_events(tmp_path / "events.tsv") == {"x/a": [[1.0, 2.0, "dog"]]}


def test_a_csv_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = "label,file,start,end,who\r\nNA,a.wav,1,2,me\r\n\r\n"
    (tmp_path / "truth.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_events(tmp_path / "truth.csv").iloc[0].tolist() == ["a.wav", 1.0, 2.0, "NA", 1.0]


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("character", ["\t", "\n"])
def test_a_name_that_a_format_cannot_hold_is_refused_before_anything_is_written(
    name: str, character: str, tmp_path: Path
) -> None:
    path = tmp_path / f"events{SUFFIXES[name]}"
    write_events(EVENTS, path)
    with pytest.raises(WeakAudioError, match=f"format {name} holds no"):
        write_events(table((f"a{character}b.wav", 0.0, 1.0, "dog", 0.5)), path)
    assert len(read_events(path)) == 3
    with pytest.raises(WeakAudioError, match="not UTF-8"):
        check_names(["a\udcff.wav"], path)


BROKEN = {
    "cut.csv": b'file,start,end,label,score\n"a.wav,1,2,dog,0.5\n',
    "short.csv": b"file,start,end,label,score\na.wav,1,2\n",
    "other.csv": b"path,labels\na.wav,dog\n",
    "empty.csv": b"",
    "latin.csv": "file,start,end,label\nä.wav,1,2,dog\n".encode("latin-1"),
    "words.csv": b"file,start,end,label\na.wav,one,2,dog\n",
    "comma.csv": b'file,start,end,label\na.wav,"1,5",2,dog\n',
    "back.csv": b"file,start,end,label\na.wav,3,2,dog\n",
    "past.csv": b"file,start,end,label\na.wav,-1,2,dog\n",
    "nan.csv": b"file,start,end,label\na.wav,nan,2,dog\n",
    "endless.csv": b"file,start,end,label\na.wav,1,inf,dog\n",
    "nameless.csv": b"file,start,end,label\n,1,2,dog\n",
    "percent.csv": b"file,start,end,label,score\na.wav,1,2,dog,50\n",
    "noise.parquet": bytes(range(256)) * 4,
    "empty.parquet": b"",
    "cut.jsonl": b'{"file": "a.wav", "start": 1, "end"',
    "list.jsonl": b"[1, 2]\n",
    "deep.jsonl": b"[" * 100_000,
    "other.jsonl": b'{"file": "a.wav"}\n',
    "types.jsonl": b'{"file": 7, "start": 1, "end": 2, "label": "dog"}\n',
    "truth.jsonl": b'{"file": "a.wav", "start": true, "end": 2, "label": "dog"}\n',
    "huge.jsonl": b'{"file": "a.wav", "start": 1, "end": 1' + b"0" * 400 + b', "label": "dog"}\n',
    "half.jsonl": b'{"file": "\\ud800", "start": 1, "end": 2, "label": "dog"}\n',
    "null.jsonl": b'{"file": "a.wav", "start": null, "end": 2, "label": "dog"}\n',
    "labels.txt": b"1.0\t2.0\tdog\n",
    "onesound.txt": b"Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n1\t1\t2\tdog\n",
    "nolabel.txt": b"Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\n1\t1\t2\ta.wav\n",
    "words.txt": b"Begin Time (s)\tEnd Time (s)\tBegin File\tSpecies\none\t2\ta.wav\tdog\n",
    "comma.tsv": b"filename,onset,offset,event_label\na.wav,1,2,dog\n",
    "short.tsv": b"filename\tonset\toffset\tevent_label\na.wav\t1\n",
    "half.tsv": b"filename\tonset\toffset\tevent_label\na.wav\t1\t\tdog\n",
    "events.xlsx": b"PK",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(WeakAudioError) as caught:
        read_events(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lines", ["1.0\t2.0\n", "1.0 2.0 dog\n", "a\tb\tdog\n", "2\t1\tdog\n", "1\t2\t\n"])
def test_broken_labels_are_told(lines: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav.txt").write_text(lines)
    with pytest.raises(WeakAudioError, match=str(tmp_path)):
        read_events(tmp_path)


def test_what_is_no_table_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match="no such file"):
        read_events(tmp_path / "events.csv")
    (tmp_path / "a.wav").touch()
    with pytest.raises(WeakAudioError, match="no label files"):
        read_events(tmp_path)
    with pytest.raises(WeakAudioError, match="a folder; expected a file"):
        read_events(tmp_path, "csv")
    with pytest.raises(WeakAudioError, match=r"\.csv \(csv\), .*\.tsv \(desed\)"):
        write_events(EVENTS, tmp_path / "events.xml")
    with pytest.raises(WeakAudioError, match="there are csv, parquet"):
        write_events(EVENTS, tmp_path / "events.csv", "excel")
    with pytest.raises(WeakAudioError, match="column start, label missing"):
        write_events(EVENTS[["file", "end"]], tmp_path / "events.csv")
    with pytest.raises(WeakAudioError, match="cannot be written"):
        write_events(EVENTS, tmp_path / "a.wav" / "events.csv")
    with pytest.raises(WeakAudioError, match="cannot be written"):
        write_events(EVENTS, tmp_path / "a.wav" / "events.labels")


def test_a_parquet_table_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    for content in ({"file": ["a"]}, {"file": [1], "start": [1], "end": [2], "label": ["x"]}):
        pq.write_table(pa.table(content), path)
        with pytest.raises(WeakAudioError, match=r"other\.parquet"):
            read_events(path)
    doubled = pa.Table.from_arrays([pa.array(["a"])] * 5, names=["file", "file", "start", "end", "label"])
    pq.write_table(doubled, path)
    with pytest.raises(WeakAudioError, match=r"other\.parquet"):
        read_events(path)


@pytest.mark.parametrize("name", ["csv", "parquet", "jsonl", "raven", "desed"])
@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1), piece=st.binary(max_size=4), cut=st.integers(0, 4))
def test_a_damaged_file_is_read_or_refused_but_never_crashes(name: str, where: float, piece: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"events{SUFFIXES[name]}"
        write_events(EVENTS, path)
        content = path.read_bytes()
        at = int(where * len(content))
        path.write_bytes(content[:at] + piece + content[at + cut :])
        try:
            found = read_events(path)
        except WeakAudioError:
            return
    assert ((found["start"] >= 0) & (found["start"] <= found["end"]) & found["score"].between(0, 1)).all()


def test_json_lines_are_json(tmp_path: Path) -> None:
    write_events(EVENTS, tmp_path / "events.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[1] == {"file": "a.wav", "start": 0.5, "end": 1.25, "label": "dog", "score": 0.75}
