"""AudioSet (Gemmeke et al., 2017): segments of YouTube videos with 527 classes, as far as they are on disk.

The official lists give the segments with their splits and labels. Missing audio is reported by class and does not
stop the preparation. Audio is read from files or Parquet shards (see `audioset_audio`). Additional files in the
corpus: missing_per_class.csv   class, split, listed, missing, unreadable, packed: numbers of clips missing_clips.csv
path, split of each listed clip without audio notes.csv               path, note: clips listed twice, found twice, or
with other labels in a shard
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
from weakaudio.data.ontology import read_ontology
from weakaudio.data.store import ClipStore
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio_data_prep import listings
from weakaudio_data_prep.audioset_audio import AudioIndex, Segment
from weakaudio_data_prep.packing import Clip
from weakaudio_data_prep.summary import NOTES, Summary, finish, write_report

CLASSES, ONTOLOGY = "class_labels_indices.csv", "ontology.json"
PER_CLASS, MISSING = "missing_per_class.csv", "missing_clips.csv"

SPLITS = {"eval": "test", "val": "val"}  # split of each list; all other lists are training
_ORDER = ("train", "val", "test")  # a recording in several splits is used in the last
_IDS = r'[^\s",]+(?:,[^\s",]+)*'
_ROW = re.compile(rf'([\w-]{{11}}),\s*(\d+(?:\.\d+)?),\s*(\d+(?:\.\d+)?),\s*(?:"({_IDS})"|({_IDS}))', re.ASCII)
_COUNT = re.compile(r"\bnum_segs=(\d+)")

Notes = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A row of a segment list; labels are class ids."""

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
    """Pack the available part of AudioSet into a corpus; clips are named YTID_start_end.

    Another run adds new clips; packed clips stay even if their files are gone. For the same lists and audio, the
    corpus does not depend on the number of workers or interruptions.

    Parameters
    ----------
    root
        Folder with the segment lists, `class_labels_indices.csv` and, to propagate, `ontology.json`.
    out
        Folder of the corpus.
    audio
        Folder, searched recursively, of files YTID.wav, YYTID.wav or YTID_start_end.flac (seconds or milliseconds)
        and of Parquet shards with columns `video_id` and `audio.bytes`; None for `root`. A file that is at most half
        a second longer than the segment is used completely. A longer file is cut: from its beginning if its name has
        the segment's times; otherwise it is the complete video and is cut from the segment's start. A file without
        times in its name is also the complete video if several of its segments are listed.
    lists
        Names of lists: "eval" is eval_segments.csv. "eval" is split test, "val" (not published) split val, and all
        others are split train.
    propagate
        Add the ancestor classes of each label in the ontology, as far as they are among the classes.
    held_out
        Fraction of the training recordings, in [0, 1), that is assigned to split val. The assignment depends only on
        the recording's name and the seed, so it does not change when lists or audio are added.
    seed
        Seed of `held_out`.
    sample_rate
        Hz, of the store.
    workers
        Processes that decode.

    Raises
    ------
    DataPrepError
        A list is missing or has an invalid row or an unknown class id; no listed clip has audio that can be read; a
        shard lacks the columns.
    LabelError
        Class list or ontology are malformed or do not match.
    StoreError
        The store has another rate or format, or another run writes to it.
    WriteError
        The corpus cannot be written.
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
    present = [row for row in listed if row.segment.key in packed or row.segment in index]
    if not present:
        raise DataPrepError(f"{audio or root}: has none of the {len(listed)} listed clips, in files or shards")
    notes += index.notes + _other_labels(present, index, classes)
    expand = _ancestors(folder / ONTOLOGY, classes) if propagate else {}
    by_ids = {ids: _names(ids, classes, expand) for ids in {row.labels for row in listed}}
    names = {row.segment.key: by_ids[row.labels] for row in listed}

    def clips(keys: Set[str]) -> Iterator[Clip]:
        wanted = [row.segment for row in present if row.segment.key not in keys]
        for segment, sound in index.sounds(wanted):
            yield Clip(segment.key, names[segment.key], sound)

    table = pd.DataFrame(
        {
            "path": [row.segment.key for row in present],
            "labels": [names[row.segment.key] for row in present],
            "split": [row.split for row in present],
            "source": [row.segment.ytid for row in present],
        }
    )
    label_set = LabelSet(classes.values())
    summary = finish("AudioSet", table, base, sample_rate, workers, label_set, clips)
    missing = {row.segment.key for row in listed} - set(table["path"])
    unreadable = {key for key, _ in summary.failures}
    write_report(notes, ("path", "note"), base / NOTES)
    gone = [(row.segment.key, row.split) for row in listed if row.segment.key in missing]
    write_report(gone, ("path", "split"), base / MISSING)
    write_table(_per_class(listed, names, label_set, missing, unreadable), base / PER_CLASS)
    return replace(summary, missing=len(missing))


def _read_classes(path: Path) -> dict[str, str]:
    """Display names by class id, in the official order."""
    if not path.is_file():
        raise DataPrepError(f"{path}: missing; it is published with AudioSet's segment lists")
    names = read_audioset_labels(path).names
    table = listings.read_listing(path, ["mid"])
    if table["mid"].duplicated().any():
        raise DataPrepError(f"{path}: a class id in its column mid is repeated")
    return dict(zip(table["mid"], names, strict=True))


def _read_list(folder: Path, name: str, classes: dict[str, str], notes: Notes) -> Iterator[_Listed]:
    path = folder / f"{name}_segments.csv"
    if not path.is_file():
        raise DataPrepError(f"{path}: missing; list {name!r} needs it")
    split = SPLITS.get(name, "train")
    count, declared = 0, None
    known: dict[frozenset[str], frozenset[str]] = {}  # two million rows share few sets of labels
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
    """Move training recordings whose hash, as a fraction of the largest, is below `part` to split val."""
    for row in listed:
        if part and row.split == "train":
            digest = hashlib.sha256(f"{seed} {row.segment.ytid}".encode()).digest()
            if int.from_bytes(digest[:8], "big") < part * 2**64:
                row = replace(row, split="val")
        yield row


def _merge(listed: Iterable[_Listed], notes: Notes) -> list[_Listed]:
    """List each clip once, with all its labels, and each recording in one split, the last in `_ORDER`."""
    rows = list(listed)
    split: dict[str, str] = {}
    for row in rows:
        ytid = row.segment.ytid
        split[ytid] = max(split.get(ytid, _ORDER[0]), row.split, key=_ORDER.index)
    merged: dict[str, _Listed] = {}
    for row in rows:
        key, final = row.segment.key, split[row.segment.ytid]
        if row.split != final:
            notes.append((key, f"left out of split {row.split}: its recording is in split {final}"))
            continue
        known = merged.setdefault(key, row)
        if known is not row:
            same = known.labels == row.labels
            notes.append((key, "listed twice" if same else "listed twice with different labels: it has all of them"))
            merged[key] = replace(known, labels=known.labels | row.labels)
    return list(merged.values())


def _ancestors(path: Path, classes: dict[str, str]) -> dict[str, set[str]]:
    """Ancestor class ids of each class id."""
    ontology = read_ontology(path)
    ontology.check_classes(classes)
    return {label: ontology.ancestors(label) & classes.keys() for label in classes}


def _names(labels: Set[str], classes: dict[str, str], expand: dict[str, set[str]]) -> list[str]:
    """Display names of class ids and their expansion, in the official order."""
    full = set(labels).union(*(expand.get(label, ()) for label in labels))
    return [name for label, name in classes.items() if label in full]


def _other_labels(listed: list[_Listed], index: AudioIndex, classes: dict[str, str]) -> Notes:
    """Note clips whose labels in a shard (ids or names) differ from the list."""
    ids = {name: label for label, name in classes.items()}
    notes: Notes = []
    for row in listed:
        labels = index.shard_labels(row.segment)
        if labels is not None and {ids.get(label, label) for label in labels} != row.labels:
            notes.append((row.segment.key, f"labels {';'.join(labels)} in its shard; those of the list are used"))
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
