"""AudioSet (Gemmeke et al., 2017): segments of YouTube videos, 527 classes, as much of them as is on disk.

The official lists say which segments there are, in which split, with which labels; what is missing is reported,
class by class, and never stops the preparation. Audio lies in files or in Parquet shards: see `audioset_audio`.
The corpus has, beside what every corpus has,
missing_per_class.csv   class, split, listed, missing, unreadable, packed: numbers of clips
missing_clips.csv       path, split of each listed clip that is not there
notes.csv               path, note: clips listed twice, found twice, or with other labels in a shard
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from weakaudio.data.corpus import STORE
from weakaudio.data.labels import LabelSet, read_audioset_labels
from weakaudio.data.manifest import Manifest
from weakaudio.data.ontology import read_ontology
from weakaudio.data.store import ClipStore
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio_data_prep.audioset_audio import AudioIndex, Segment
from weakaudio_data_prep.packing import Clip
from weakaudio_data_prep.summary import NOTES, Summary, finish

CLASSES, ONTOLOGY = "class_labels_indices.csv", "ontology.json"
PER_CLASS, MISSING = "missing_per_class.csv", "missing_clips.csv"

SPLITS = {"eval": "test", "val": "val"}  # split of a list by its name; all others are training
_ORDER = ("train", "val", "test")  # a recording in two of them stays in the last
_IDS = r'[^\s",]+(?:,[^\s",]+)*'
_ROW = re.compile(rf'([\w-]{{11}}),\s*(\d+(?:\.\d+)?),\s*(\d+(?:\.\d+)?),\s*(?:"({_IDS})"|({_IDS}))', re.ASCII)
_COUNT = re.compile(r"\bnum_segs=(\d+)")

Notes = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A row of a segment list: labels are class ids."""

    segment: Segment
    labels: frozenset[str]
    split: str


def prepare(
    root: str,
    out: str,
    audio: str | None = None,
    lists: Sequence[str] = ("balanced_train", "eval"),
    propagate: bool = False,
    held_out: float = 0.0,
    seed: int = 0,
    sample_rate: int = 32000,
    workers: int = 1,
) -> Summary:
    """Pack what is there of AudioSet into a corpus; clips are named YTID_start_end.

    Run again, it adds clips that came since; what was packed stays, even if its file is gone. Runs with any
    number of workers and kills end with the same bytes, as long as lists and audio are the same.

    Parameters
    ----------
    root
        Folder with the segment lists, `class_labels_indices.csv` and, to propagate, `ontology.json`.
    out
        Folder of the corpus.
    audio
        Folder, searched to its depths, of files YTID.wav, YYTID.wav, YTID_start_end.flac (seconds or
        milliseconds) and of Parquet shards with columns `video_id` and `audio.bytes`; `root` if not given. A file
        of at most the segment's length and half a second is taken whole; a longer one is cut: from its beginning
        if its name has the segment's times, else it is the whole video, from the segment's start. It is the whole
        video, too, if several segments of it are listed and its name has no times.
    lists
        Names of lists: "eval" is eval_segments.csv. "eval" is split test, "val", if you make one, split val, all
        others are split train.
    propagate
        Give each clip also the ancestors of its labels in the ontology, as far as they are among the classes.
    held_out
        Part of the listed training recordings, in [0, 1), that is split val instead. Each recording is drawn by its
        name and the seed alone, so it stays where it is when lists or audio are added, and all of its segments
        go with it.
    seed
        Of what is held out.
    sample_rate
        Hz, of the store.
    workers
        Processes that decode.

    Raises
    ------
    DataPrepError
        A list is missing or has a broken row or an unknown class id (file and line are named); no listed clip
        is there, or none can be read; a shard lacks the columns.
    LabelError
        Class list or ontology are malformed or do not fit together.
    StoreError
        The store has another rate or format, another run writes to it, or the disk is full.
    """
    folder, base = Path(root), Path(out)
    if sample_rate < 1:
        raise DataPrepError(f"sample_rate: {sample_rate}, must be positive")
    if not 0 <= held_out < 1:
        raise DataPrepError(f"held_out: {held_out}, must be in [0, 1)")
    classes = _read_classes(folder / CLASSES)
    notes: Notes = []
    listed = [row for name in lists for row in _read_list(folder, name, classes, notes)]
    listed = _merge(_hold_out(listed, held_out, seed), notes)
    index = AudioIndex.of(Path(audio) if audio else folder, {row.segment for row in listed})
    packed = set(ClipStore(base / STORE).keys) if any((base / STORE).glob("shard-*.h5")) else set()
    there = [row for row in listed if row.segment.key in packed or row.segment in index]
    if not there:
        raise DataPrepError(f"{audio or root}: has none of the {len(listed)} listed clips, neither files nor shards")
    notes += index.notes + _other_labels(there, index, classes)
    expand = _ancestors(folder / ONTOLOGY, classes) if propagate else {}
    by_ids = {ids: _names(ids, classes, expand) for ids in {row.labels for row in listed}}
    names = {row.segment.key: by_ids[row.labels] for row in listed}

    def clips(keys: Set[str]) -> Iterator[Clip]:
        wanted = [row.segment for row in there if row.segment.key not in keys]
        for segment, sound in index.sounds(wanted):
            yield Clip(segment.key, names[segment.key], sound)

    table = pd.DataFrame(
        {
            "path": [row.segment.key for row in there],
            "labels": [names[row.segment.key] for row in there],
            "split": [row.split for row in there],
            "source": [row.segment.ytid for row in there],
        }
    )
    label_set = LabelSet(classes.values())
    summary = finish("AudioSet", Manifest(table, base), base, sample_rate, workers, label_set, clips)
    missing = {row.segment.key for row in listed} - set(table["path"])
    unreadable = {key for key, _ in summary.failures}
    _report(pd.DataFrame(notes, columns=["path", "note"]), base / NOTES)
    gone = [(row.segment.key, row.split) for row in listed if row.segment.key in missing]
    _report(pd.DataFrame(gone, columns=["path", "split"]), base / MISSING)
    write_table(_per_class(listed, names, label_set, missing, unreadable), base / PER_CLASS)
    return replace(summary, missing=len(missing))


def _read_classes(path: Path) -> dict[str, str]:
    """Display name by class id, in the official order."""
    if not path.is_file():
        raise DataPrepError(f"{path}: not there; it comes with AudioSet's segment lists")
    names = read_audioset_labels(path).names
    table = pd.read_csv(path)
    if "mid" not in table or table["mid"].duplicated().any():
        raise DataPrepError(f"{path}: needs a column mid with each class id once")
    return dict(zip(table["mid"], names, strict=True))


def _read_list(folder: Path, name: str, classes: dict[str, str], notes: Notes) -> Iterator[_Listed]:
    path = folder / f"{name}_segments.csv"
    if not path.is_file():
        raise DataPrepError(f"{path}: not there; lists {name!r} needs it")
    split = SPLITS.get(name, "train")
    count, declared = 0, None
    known: dict[frozenset[str], frozenset[str]] = {}  # two million rows have few different sets of labels
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if line.startswith("#"):
                found = _COUNT.search(line)
                declared = int(found[1]) if found else declared
            elif line:
                count += 1
                segment, labels = _parse(line, f"{path}: line {number}", classes)
                yield _Listed(segment, known.setdefault(labels, labels), split)
    if declared is not None and declared != count:
        notes.append((path.name, f"declares {declared} segments, has {count}"))


def _parse(line: str, where: str, classes: dict[str, str]) -> tuple[Segment, frozenset[str]]:
    row = _ROW.fullmatch(line)
    if not row:
        raise DataPrepError(f'{where}: expected YTID, start, end, "class id,...", found {line[:100]!r}')
    start, end, labels = float(row[2]), float(row[3]), (row[4] or row[5]).split(",")
    if not start < end:
        raise DataPrepError(f"{where}: the segment ends at {end} s, not after its start at {start} s")
    unknown = [label for label in labels if label not in classes]
    if unknown:
        raise DataPrepError(f"{where}: class id {unknown[0]!r} is not in {CLASSES}")
    return Segment(row[1], start, end), frozenset(labels)


def _hold_out(listed: Iterable[_Listed], part: float, seed: int) -> Iterator[_Listed]:
    """Part of the training recordings go to split val: those whose hash, as a fraction of the largest, is below."""
    for row in listed:
        if part and row.split == "train":
            digest = hashlib.sha256(f"{seed} {row.segment.ytid}".encode()).digest()
            if int.from_bytes(digest[:8], "big") < part * 2**64:
                row = replace(row, split="val")
        yield row


def _merge(listed: Iterable[_Listed], notes: Notes) -> list[_Listed]:
    """Each clip once, with all labels it is listed with; each recording in one split, the last in `_ORDER`."""
    rows = list(listed)
    split: dict[str, str] = {}
    for row in rows:
        ytid = row.segment.ytid
        split[ytid] = max(split.get(ytid, _ORDER[0]), row.split, key=_ORDER.index)
    merged: dict[str, _Listed] = {}
    for row in rows:
        key, final = row.segment.key, split[row.segment.ytid]
        if row.split != final:
            notes.append((key, f"listed in split {row.split}, left out there: its recording is in split {final}"))
            continue
        known = merged.setdefault(key, row)
        if known is not row:
            same = known.labels == row.labels
            notes.append((key, "listed twice" if same else "listed twice with other labels: it has all of them"))
            merged[key] = replace(known, labels=known.labels | row.labels)
    return list(merged.values())


def _ancestors(path: Path, classes: dict[str, str]) -> dict[str, set[str]]:
    """Of each class id, the class ids above it."""
    ontology = read_ontology(path)
    ontology.check_classes(classes)
    return {label: ontology.ancestors(label) & classes.keys() for label in classes}


def _names(labels: Set[str], classes: dict[str, str], expand: dict[str, set[str]]) -> list[str]:
    """Display names of class ids and what they expand to, in the official order."""
    full = set(labels).union(*(expand.get(label, ()) for label in labels))
    return [name for label, name in classes.items() if label in full]


def _other_labels(listed: list[_Listed], index: AudioIndex, classes: dict[str, str]) -> Notes:
    """Clips whose labels in a shard, ids or names, are not those of the list."""
    ids = {name: label for label, name in classes.items()}
    notes: Notes = []
    for row in listed:
        labels = index.shard_labels(row.segment)
        if labels is not None and {ids.get(label, label) for label in labels} != row.labels:
            notes.append((row.segment.key, f"labels {';'.join(labels)} in its shard; those of the list are taken"))
    return notes


def _per_class(
    listed: list[_Listed], names: dict[str, list[str]], label_set: LabelSet, missing: Set[str], unreadable: Set[str]
) -> pd.DataFrame:
    splits = [split for split in _ORDER if any(row.split == split for row in listed)]
    counts = {(name, split): [0, 0, 0] for name in label_set.names for split in splits}
    for row in listed:
        key = row.segment.key
        for name in names[key]:
            count = counts[name, row.split]
            count[0] += 1
            count[1] += key in missing
            count[2] += key in unreadable
    rows = [(name, split, *count, count[0] - count[1] - count[2]) for (name, split), count in counts.items()]
    return pd.DataFrame(rows, columns=["class", "split", "listed", "missing", "unreadable", "packed"])


def _report(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        path.unlink(missing_ok=True)
    else:
        write_table(table, path)
