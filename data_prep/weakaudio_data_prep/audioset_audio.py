"""Where the audio of AudioSet's segments lies: files in the usual namings, and Parquet shards.

A file beats a shard, a file whose name has the segment's times beats one without, and otherwise the first by
name is taken. The name of a video is 11 of A-Z, a-z, 0-9, "-" and "_"; with a "Y" before it, it is 12, so the two
cannot be taken for one another, even where the name itself begins with "Y" or ends with "_".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weakaudio.audio.io import EncodedAudio, audio_info, find_audio, read_audio
from weakaudio.errors import AudioError, DataPrepError
from weakaudio_data_prep.packing import Sound

SLACK = 0.5  # seconds by which a cut file may be longer than its segment: cutters and codecs are not exact
_STEM = re.compile(r"Y?([\w-]{11})(?:_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?))?", re.ASCII)
_BATCH = 16  # rows of a shard that are in memory at a time


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a video; start and end in seconds."""

    ytid: str
    start: float
    end: float

    @property
    def key(self) -> str:
        return f"{self.ytid}_{self.start:.3f}_{self.end:.3f}"

    def has_times(self, start: float, end: float) -> bool:
        """Whether times of a file's name are those of the segment, in seconds or in milliseconds."""
        return any(abs(start / k - self.start) < 0.5 and abs(end / k - self.end) < 0.5 for k in (1, 1000))


def parse_stem(stem: str) -> tuple[str, float | None, float | None] | None:
    """Name of the video, start and end from a file's name without its extension; None if it is no such name."""
    found = _STEM.fullmatch(stem)
    if not found:
        return None
    return found[1], *(float(time) if time else None for time in found.group(2, 3))  # type: ignore[return-value]


@dataclass(frozen=True)
class SegmentSound:
    """A segment in a file that holds it or the whole video."""

    source: Path | EncodedAudio
    segment: Segment
    begins_there: bool
    """the file is known to begin where the segment does"""
    whole_video: bool = False
    """the file cannot hold this segment alone, as it is that of other segments, too"""

    def read(self, sample_rate: int) -> NDArray[np.float32]:
        length = self.segment.end - self.segment.start
        seconds = audio_info(self.source).seconds
        if seconds <= length + SLACK and (self.begins_there or not self.whole_video):
            return read_audio(self.source, sample_rate)[0]
        start = 0.0 if self.begins_there else self.segment.start
        if start >= seconds:
            raise AudioError(
                f"{self.source}: lasts {seconds:.1f} s: not its segment alone ({length:.1f} s), too short for the "
                f"whole video (the segment begins at {start:.1f} s)"
            )
        return read_audio(self.source, sample_rate, start, length)[0]


@dataclass(frozen=True)
class NoSound:
    """A clip that is there and cannot be read."""

    reason: str

    def read(self, sample_rate: int) -> NDArray[np.float32]:
        raise AudioError(self.reason)


@dataclass
class AudioIndex:
    """Of each segment, where its audio lies."""

    files: dict[Segment, tuple[Path, bool]] = field(default_factory=dict)
    """path, and whether its name has the segment's times"""
    rows: dict[Segment, tuple[Path, int]] = field(default_factory=dict)
    """shard and row"""
    labels: dict[Segment, list[str]] = field(default_factory=dict)
    """what the shard says, where it does"""
    notes: list[tuple[str, str]] = field(default_factory=list)
    several: set[str] = field(default_factory=set)
    """videos of which more than one segment is listed"""

    @classmethod
    def of(cls, folder: Path, segments: Iterable[Segment]) -> AudioIndex:
        """Search a folder for segments.

        Raises
        ------
        DataPrepError
            No such folder; a shard without the columns.
        """
        if not folder.is_dir():
            raise DataPrepError(f"{folder}: no such folder of audio")
        by_ytid: dict[str, list[Segment]] = {}
        for segment in sorted(segments, key=lambda segment: segment.key):
            by_ytid.setdefault(segment.ytid, []).append(segment)
        index = cls(several={ytid for ytid, parts in by_ytid.items() if len(parts) > 1})
        index._search_files(folder, by_ytid)
        for shard in sorted(folder.rglob("*.parquet")):
            index._search_shard(shard, by_ytid)
        index.notes.sort()
        return index

    def __contains__(self, segment: Segment) -> bool:
        return segment in self.files or segment in self.rows

    def shard_labels(self, segment: Segment) -> list[str] | None:
        """Labels the shard gives a segment that is read from it."""
        return None if segment in self.files else self.labels.get(segment)

    def sounds(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, Sound]]:
        """Segments with their audio: those in files in the order given, then those in shards in the shards' order."""
        in_shards: dict[Path, dict[int, list[Segment]]] = {}
        for segment in segments:
            if segment in self.files:
                path, begins_there = self.files[segment]
                yield segment, SegmentSound(path, segment, begins_there, segment.ytid in self.several)
            elif segment in self.rows:
                shard, row = self.rows[segment]
                in_shards.setdefault(shard, {}).setdefault(row, []).append(segment)
        for shard in sorted(in_shards):
            for row, content in _read_rows(shard, sorted(in_shards[shard])):
                for segment in in_shards[shard][row]:
                    name = f"{shard}, row {row}"
                    if isinstance(content, str):
                        yield segment, NoSound(f"{name}: {content}")
                    else:
                        source = EncodedAudio(content, name)
                        yield segment, SegmentSound(source, segment, False, segment.ytid in self.several)

    def _search_files(self, folder: Path, by_ytid: dict[str, list[Segment]]) -> None:
        try:
            paths = find_audio(folder)
        except AudioError:  # no audio files; perhaps shards
            return
        for path in paths:
            found = parse_stem(path.stem)
            if not found or found[0] not in by_ytid:
                continue
            _, start, end = found
            fit = [
                segment
                for segment in by_ytid[found[0]]
                if start is None or end is None or segment.has_times(start, end)
            ]
            if not fit:
                self.notes.append((str(path.relative_to(folder)), "its times are those of no listed segment"))
            for segment in fit:
                self._add_file(segment, path, start is not None)

    def _add_file(self, segment: Segment, path: Path, timed: bool) -> None:
        known = self.files.get(segment)
        if known is None:
            self.files[segment] = path, timed
            return
        taken, other = (path, known[0]) if timed and not known[1] else (known[0], path)
        self.files[segment] = taken, timed or known[1]
        self.notes.append((segment.key, f"found twice: {taken.name} is taken, {other.name} is not"))

    def _search_shard(self, shard: Path, by_ytid: dict[str, list[Segment]]) -> None:
        try:
            file = pq.ParquetFile(shard)
        except (pa.ArrowException, OSError) as error:
            self.notes.append((shard.name, f"cannot be read, its clips count as missing ({error})"))
            return
        with file:
            schema = file.schema_arrow
            columns = {"video_id": pa.types.is_string, "audio": pa.types.is_struct}
            fit = all(name in schema.names and test(schema.field(name).type) for name, test in columns.items())
            if not fit or schema.field("audio").type.get_field_index("bytes") < 0:
                raise DataPrepError(f"{shard}: needs columns video_id and audio.bytes, has {', '.join(schema.names)}")
            wanted = ["video_id", "labels"] if "labels" in schema.names else ["video_id"]
            row = -1
            for batch in file.iter_batches(1024, columns=wanted):
                for values in batch.to_pylist():
                    row += 1
                    for segment in by_ytid.get(values["video_id"], ()):
                        if segment in self.rows:
                            self.notes.append((segment.key, f"twice in shards: {shard.name}, row {row} is not taken"))
                            continue
                        self.rows[segment] = shard, row
                        if isinstance(values.get("labels"), list):
                            self.labels[segment] = values["labels"]


def _read_rows(shard: Path, rows: list[int]) -> Iterator[tuple[int, bytes | str]]:
    """Content of the rows asked for, in order, or why there is none; reads only the row groups that hold them."""
    left = rows[::-1]
    try:
        with pq.ParquetFile(shard) as file:
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if left and left[-1] < first + size:
                    row = first
                    for batch in file.iter_batches(_BATCH, row_groups=[group], columns=["audio.bytes"]):
                        while left and left[-1] < row + len(batch):
                            content = batch["audio"].field("bytes")[left[-1] - row].as_py()
                            yield left.pop(), content or "no audio in it"
                        row += len(batch)
                first += size
    except (pa.ArrowException, OSError) as error:
        for row in reversed(left):
            yield row, f"cannot be read ({error})"
