"""Runs over many recordings: what `embed_folder` and `detect_folder` have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from weakaudio.audio import Waveform
from weakaudio.audio.io import audio_info, read_audio, resample
from weakaudio.batch.checkpoint import Arrays, Outcome, RunCheckpoint
from weakaudio.batch.recordings import FAILURES, Recording, check_failures, write_failures
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.files import printable
from weakaudio.inference.windows import Window, core_seconds, cut_clip, cut_file
from weakaudio.networks.model import Model
from weakaudio.progress import hours_done

T = TypeVar("T")

# Recordings are taken in chunks, and the results of a chunk's short ones are on disk before the next begins: a kill
# loses no more than that. Chunks do not depend on what was done before, so neither do the results.
_CHUNK_FILES = 32
_SHORT_SECONDS = 30.0  # longer recordings are read window by window
_WINDOWS_AT_ONCE = 4  # of a long recording, analysed together


class Analysis(Protocol):
    """Turns windows into the arrays that a run keeps of them."""

    model: Model
    context: int
    """valid segments of its neighbours that a window needs"""

    settings: dict[str, Any]
    """all that decide the arrays, as JSON"""

    def analyse(self, windows: Sequence[Window]) -> list[Arrays]:
        """Arrays of each window, in their order."""


@dataclass(frozen=True)
class Task:
    """A recording to be analysed."""

    recording: Recording
    seconds: float
    """length according to its header; 0 if it cannot be read"""
    n_done: int = 0
    """parts that are kept already"""

    @property
    def is_short(self) -> bool:
        return self.seconds <= _SHORT_SECONDS


Failures = list[tuple[str, str]]
"""path and reason"""
AnalyseGroups = Callable[[Analysis, Sequence[Sequence[Task]]], Iterator[list[Outcome]]]
"""`analyse_groups`, or the same work on a cluster"""


@dataclass
class RunSummary:
    """Result of a run over recordings."""

    out: Path
    recordings: dict[Recording, float]
    """those analysed, and their lengths in seconds"""
    n_rows: int
    rows: str
    """kind of the rows, for messages"""
    failures: Failures
    events: pd.DataFrame = field(default_factory=pd.DataFrame)
    """the table written, for a run that detects events"""

    @property
    def n_files(self) -> int:
        return len(self.recordings)

    @property
    def seconds(self) -> float:
        return sum(self.recordings.values())

    def __str__(self) -> str:
        text = f"{self.n_rows} {self.rows}, {self.n_files} files, {self.seconds / 3600:.2f} h -> {self.out}"
        failed = f"; {len(self.failures)} failed, see {self.out.parent / FAILURES}"
        return text + (failed if self.failures else "")


def checkpoint_path(out: Path) -> Path:
    """File beside an output with the results of the run so far."""
    return out.with_name(f"{out.name}.journal")


@contextmanager
def open_checkpoint(
    analysis: Analysis, source: str | Path | Sequence[Recording], out: Path, overwrite: bool
) -> Iterator[RunCheckpoint]:
    """Open the checkpoint of an output for the length of a run.

    Raises
    ------
    StoreError
        The output exists and is not by a run with these settings, and is not to be overwritten.
    WeakAudioError
        It cannot be written there.
    """
    path = checkpoint_path(out)
    if out.exists() and not path.exists() and not overwrite:
        raise StoreError(
            f"{out}: exists, but not from a run that can be resumed; give another output, or --overwrite"
        )
    check_writable(out)
    check_failures(out)
    where = printable(str(Path(source).resolve())) if isinstance(source, str | Path) else "a list"
    settings = {**analysis.settings, "window_seconds": core_seconds(analysis.model)}
    checkpoint = RunCheckpoint(path, settings, where, overwrite)
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def check_writable(path: Path) -> None:
    """Check before the work that a file can be written.

    Raises
    ------
    WeakAudioError
        No file can be written there.
    """
    trial = path.with_name(f".{path.name}.{os.getpid()}.trial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise WeakAudioError(f"{path}: cannot be written ({error.strerror or error})") from error


def analyse_recordings(
    analysis: Analysis, recordings: Sequence[Recording], checkpoint: RunCheckpoint, engine: AnalyseGroups
) -> None:
    """Bring a checkpoint up to date: analyse what is missing or has changed, and drop what no longer exists."""
    checkpoint.match(recordings)
    done = checkpoint.finished()
    groups = group_tasks(
        recordings, {one.name: checkpoint.n_parts(one.name) for one in recordings if one.name not in done}
    )
    seconds = {task.recording.name: task.seconds for group in groups for task in group}
    analysed = dict.fromkeys(seconds, 0.0)
    with hours_done(sum(seconds.values()), f"{len(seconds)} of {len(recordings)} files") as show:
        for outcomes in engine(analysis, groups):
            checkpoint.add(outcomes)
            for outcome in outcomes:
                name = outcome.recording.name
                analysed[name] = seconds[name] if outcome.finished else outcome.seconds
            show(sum(analysed.values()))


def collect_outcomes(
    checkpoint: RunCheckpoint, recordings: Sequence[Recording], unreadable: Failures, out: Path, source: object
) -> tuple[dict[Recording, float], Failures]:
    """Recordings that were analysed, with their lengths in seconds, and all failures, which are listed beside `out`.

    Raises
    ------
    AudioError
        No recording could be read.
    """
    outcomes = list(checkpoint.outcomes(recordings))
    failures = sorted([*unreadable, *((own.name, reason) for own, _, reason in outcomes if reason is not None)])
    write_failures(failures, out)
    done = {own: seconds for own, seconds, reason in outcomes if reason is None}
    if not done:
        raise AudioError(f"{source}: none of its {len(recordings)} files can be read; see {out.parent / FAILURES}")
    return done, failures


def group_tasks(recordings: Sequence[Recording], n_done: Mapping[str, int]) -> list[list[Task]]:
    """Group what is analysed together: of each chunk the short recordings, and each long one alone.

    Parameters
    ----------
    recordings
        All, including those that are done.
    n_done
        Number of kept parts of each recording that is to be analysed, by name.
    """

    def task(recording: Recording) -> Task:
        try:
            seconds = audio_info(recording.path).seconds
        except AudioError:
            seconds = 0.0  # reading it later gives the reason
        return Task(recording, seconds, n_done[recording.name])

    groups: list[list[Task]] = []
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(recordings), _CHUNK_FILES):
            chunk = [one for one in recordings[first : first + _CHUNK_FILES] if one.name in n_done]
            tasks = list(pool.map(task, chunk))
            short = [one for one in tasks if one.is_short]
            groups += [short] if short else []
            groups += [[one] for one in tasks if not one.is_short]
    return groups


def analyse_groups(analysis: Analysis, groups: Sequence[Sequence[Task]]) -> Iterator[list[Outcome]]:
    """Analyse group after group, while the next is decoded; a long recording gives several outcomes."""
    rate = analysis.model.sample_rate
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(os.cpu_count()) as readers:

        def decoded() -> Iterator[tuple[Sequence[Task], list[_Clip | AudioError]]]:
            for group in groups:
                tasks = group if group[0].is_short else ()
                yield group, list(readers.map(lambda task: _read(task.recording, rate), tasks))

        for group, clips in _prefetch(decoded(), pool):
            if clips:
                yield _analyse_short(analysis, group, clips)
            else:
                yield from _analyse_long(analysis, group[0])


@dataclass(frozen=True, eq=False)
class _Clip:
    """A recording in memory."""

    audio: Waveform
    """(N,) at the model's rate"""
    seconds: float


def _analyse_short(analysis: Analysis, group: Sequence[Task], clips: Sequence[_Clip | AudioError]) -> list[Outcome]:
    cuts = [
        cut_clip(analysis.model, clip.audio, analysis.context) if isinstance(clip, _Clip) else [] for clip in clips
    ]
    windows = [window for some in cuts for window in some]
    results = iter(analysis.analyse(windows) if windows else [])
    return [
        _failed(task.recording, clip)
        if isinstance(clip, AudioError)
        else _unless_changed(Outcome(task.recording, list(islice(results, len(some))), seconds=clip.seconds))
        for task, clip, some in zip(group, clips, cuts, strict=True)
    ]


def _analyse_long(analysis: Analysis, task: Task) -> Iterator[list[Outcome]]:
    model = analysis.model

    def batches() -> Iterator[tuple[int, list[Window]]]:
        """Windows that are analysed together, and the number of the first."""
        windows = enumerate(cut_file(model, task.recording.path, analysis.context))
        missing = islice(windows, task.n_done, None)  # those before have to be decoded as well
        while batch := list(islice(missing, _WINDOWS_AT_ONCE)):
            yield batch[0][0], [window for _, window in batch]

    with ThreadPoolExecutor(1) as pool:
        try:
            for first, windows in _prefetch(batches(), pool):
                last = windows[-1]
                seconds = min((last.start + len(last.audio)) / model.sample_rate, task.seconds)
                outcome = Outcome(task.recording, analysis.analyse(windows), first, seconds, last.is_last)
                outcome = _unless_changed(outcome)
                yield [outcome]
                if outcome.reason is not None:
                    return
        except AudioError as error:
            yield [_failed(task.recording, error)]


def _read(recording: Recording, sample_rate: int) -> _Clip | AudioError:
    if not recording.is_as_found():  # it may have become a long one
        return _changed(recording)
    try:
        audio, own_rate = read_audio(recording.path)
    except AudioError as error:
        return error
    return _Clip(resample(audio, own_rate, sample_rate), len(audio) / own_rate)


def _unless_changed(outcome: Outcome) -> Outcome:
    """Replace the outcome of a file that is being written to by a failure: it may mix old and new content."""
    if outcome.recording.is_as_found():
        return outcome
    return _failed(outcome.recording, _changed(outcome.recording))


def _changed(recording: Recording) -> AudioError:
    if not recording.path.exists():
        return AudioError(f"{recording.path}: no such file")
    return AudioError(f"{recording.path}: changed while it was read; run again when it is complete")


def _failed(recording: Recording, error: AudioError) -> Outcome:
    return Outcome(recording, [], reason=printable(str(error)))


_END: Any = object()


def _prefetch(items: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    """The items, each made while the one before is in use."""
    coming = pool.submit(next, items, _END)
    while (item := coming.result()) is not _END:
        coming = pool.submit(next, items, _END)
        yield item
