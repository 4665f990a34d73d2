"""Index of the audio of AudioSet's segments, in files with the usual names and in Parquet shards.

Files take precedence over shards, files whose name has the segment's times over files without, and then the first by
name. A video id has 11 characters of A-Z, a-z, 0-9, "-" and "_"; with the prefix "Y" the name has 12, so it is
unambiguous even if the id starts with "Y" or ends with "_".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from weakaudio.audio import Waveform
from weakaudio.audio.io import EncodedAudio, audio_info, find_audio, read_audio
from weakaudio.errors import AudioError, DataPrepError
from weakaudio_data_prep.packing import Sound

SLACK = 0.5  # seconds by which the file of a segment may be too long, as cutting and codecs are inexact
_STEM = re.compile(r"Y?([\w-]{11})(?:_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?))?", re.ASCII)
_BATCH = 16  # rows of a shard in memory at a time


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of a video; start and end in seconds."""

    ytid: str
    start: float
    end: float

    @property
    def key(self) -> str:
        return f"{self.ytid}_{self.start:.3f}_{self.end:.3f}"

    def has_times(self, start: float, end: float) -> bool:
        """Compare with times from a file name, in seconds or in milliseconds."""
        return any(abs(start / k - self.start) < 0.5 and abs(end / k - self.end) < 0.5 for k in (1, 1000))


def parse_stem(stem: str) -> tuple[str, float | None, float | None] | None:
    """Parse video id, start and end from a file name without extension; None if it has another form."""
    found = _STEM.fullmatch(stem)
    if not found:
        return None
    return found[1], *(float(time) if time else None for time in found.group(2, 3))  # type: ignore[return-value]


@dataclass(frozen=True)
class SegmentSound:
    """A segment in a file of the segment or of the complete video."""

    source: Path | EncodedAudio
    segment: Segment
    begins_there: bool
    """the file is known to start at the segment"""
    whole_video: bool = False
    """the file must be the complete video, as other segments are read from it as well"""

    def read(self, sample_rate: int) -> Waveform:
        length = self.segment.end - self.segment.start
        seconds = audio_info(self.source).seconds
        if seconds <= length + SLACK and (self.begins_there or not self.whole_video):
            return read_audio(self.source, sample_rate)[0]
        start = 0.0 if self.begins_there else self.segment.start
        if start >= seconds:
            raise AudioError(
                f"{self.source}: has {seconds:.1f} s: longer than its segment ({length:.1f} s), too short for the "
                f"complete video (the segment starts at {start:.1f} s)"
            )
        return read_audio(self.source, sample_rate, start, length)[0]


@dataclass(frozen=True)
class NoSound:
    """A clip that is present but cannot be read."""

    reason: str

    def read(self, sample_rate: int) -> Waveform:
        raise AudioError(self.reason)


@dataclass
class AudioIndex:
    """Location of each segment's audio."""

    files: dict[Segment, tuple[Path, bool]] = field(default_factory=dict)
    """path, and whether the name has the segment's times"""
    rows: dict[Segment, tuple[Path, int]] = field(default_factory=dict)
    """shard and row"""
    labels: dict[Segment, list[str]] = field(default_factory=dict)
    """labels in the shard, if it has any"""
    notes: list[tuple[str, str]] = field(default_factory=list)
    several: set[str] = field(default_factory=set)
    """videos with more than one listed segment"""

    @classmethod
    def of(cls, folder: Path, segments: Iterable[Segment]) -> AudioIndex:
        """Search a folder recursively for segments.

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
        """Labels in the shard of a segment that is read from it."""
        return None if segment in self.files else self.labels.get(segment)

    def sounds(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, Sound]]:
        """Yield segments with their audio: first those in files as ordered, then those in shards in shard order."""
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
                self.notes.append((str(path.relative_to(folder)), "its times match no listed segment"))
            for segment in fit:
                self._add_file(segment, path, start is not None)

    def _add_file(self, segment: Segment, path: Path, timed: bool) -> None:
        known = self.files.get(segment)
        if known is None:
            self.files[segment] = path, timed
            return
        taken, other = (path, known[0]) if timed and not known[1] else (known[0], path)
        self.files[segment] = taken, timed or known[1]
        self.notes.append((segment.key, f"found twice: {taken.name} is used, {other.name} is not"))

    def _search_shard(self, shard: Path, by_ytid: dict[str, list[Segment]]) -> None:
        try:
            file = pq.ParquetFile(shard)
        except (pa.ArrowException, OSError) as error:
            self.notes.append((shard.name, f"cannot be read; its clips count as missing ({error})"))
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
                            self.notes.append((segment.key, f"twice in shards: {shard.name}, row {row} is not used"))
                            continue
                        self.rows[segment] = shard, row
                        if isinstance(values.get("labels"), list):
                            self.labels[segment] = values["labels"]


def _read_rows(shard: Path, rows: list[int]) -> Iterator[tuple[int, bytes | str]]:
    """Content of the given rows in order, or the reason of a failure; reads only the row groups that have them."""
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
                            yield left.pop(), content or "has no audio"
                        row += len(batch)
                first += size
    except (pa.ArrowException, OSError) as error:
        for row in reversed(left):
            yield row, f"cannot be read ({error})"
