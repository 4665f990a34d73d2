"""What a run does with each recording: the same for embeddings and for events."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from weakaudio.audio.io import audio_info, read_audio, resample, stream_audio
from weakaudio.batch.checkpoint import Arrays, Outcome
from weakaudio.batch.recordings import Recording
from weakaudio.errors import AudioError
from weakaudio.files import printable
from weakaudio.inference.windows import BLOCK_SECONDS, Audio, Window, cut, cut_clip, find_loudest
from weakaudio.networks.model import Model

T = TypeVar("T")

# Recordings are taken in chunks, and the result of a chunk's short ones is on disk before the next begins: as much as
# this is lost when a run is killed. Chunks do not depend on what was done before, so the result does not, either.
_CHUNK_FILES = 32
_SHORT_SECONDS = 30.0  # longer recordings are read in blocks, and so many windows are done together:
_STRETCH_WINDOWS = 4


class Analysis(Protocol):
    """What is made of windows."""

    model: Model
    n_beside: int
    """segments of a window's neighbours that it needs"""

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""

    def analyse(self, windows: Sequence[Window]) -> list[Arrays]:
        """The result of each window, in their order."""


@dataclass(frozen=True)
class Task:
    """A recording to be analysed."""

    recording: Recording
    seconds: float
    """length, as its header says; 0 if it cannot be read"""
    n_done: int = 0
    """parts of it that are there already"""

    @property
    def is_short(self) -> bool:
        return self.seconds <= _SHORT_SECONDS


def group_tasks(recordings: Sequence[Recording], n_done: Mapping[str, int]) -> list[list[Task]]:
    """What is done at once: of each chunk the short recordings together, and every long one alone.

    Parameters
    ----------
    recordings
        All, also those that are done.
    n_done
        The recordings that are to be analysed, by name, and how many of their parts are there.
    """

    def task(recording: Recording) -> Task:
        try:
            seconds = audio_info(recording.path).seconds
        except AudioError:
            seconds = 0.0  # why, says who tries to read it
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
    """The outcome of each recording, group after group; the next is decoded meanwhile. Those of a long recording come
    in stretches."""
    rate = analysis.model.sample_rate
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(os.cpu_count()) as readers:

        def decoded() -> Iterator[tuple[Sequence[Task], list[Clip | AudioError]]]:
            for group in groups:
                tasks = group if group[0].is_short else ()
                yield group, list(readers.map(lambda task: _read(task.recording, rate), tasks))

        for group, clips in _ahead(decoded(), pool):
            if clips:
                yield analyse_clips(analysis, group, clips)
            else:
                yield from _analyse_long(analysis, group[0])


@dataclass(frozen=True, eq=False)
class Clip:
    """A recording that is in memory."""

    audio: Audio
    """(N,) at the model's rate"""
    seconds: float


def analyse_clips(analysis: Analysis, group: Sequence[Task], clips: Sequence[Clip | AudioError]) -> list[Outcome]:
    """The outcome of short recordings that were read."""
    cuts = [
        cut_clip(analysis.model, clip.audio, analysis.n_beside) if isinstance(clip, Clip) else [] for clip in clips
    ]
    windows = [window for some in cuts for window in some]
    results = iter(analysis.analyse(windows) if windows else [])
    return [
        _failed(task, clip)
        if isinstance(clip, AudioError)
        else _checked(Outcome(task.recording, list(islice(results, len(some))), seconds=clip.seconds))
        for task, clip, some in zip(group, clips, cuts, strict=True)
    ]


def _analyse_long(analysis: Analysis, task: Task) -> Iterator[list[Outcome]]:
    model, path = analysis.model, task.recording.path
    rate = model.sample_rate

    def blocks() -> Iterator[Audio]:
        return stream_audio(path, rate, BLOCK_SECONDS)

    def stretches() -> Iterator[tuple[int, list[Window]]]:
        """What is analysed at once, and the number of its first window."""
        windows = enumerate(cut(model, blocks(), analysis.n_beside, find_loudest(model, blocks())))
        missing = islice(windows, task.n_done, None)  # those before are decoded, too, to get here
        while stretch := list(islice(missing, _STRETCH_WINDOWS)):
            yield stretch[0][0], [window for _, window in stretch]

    with ThreadPoolExecutor(1) as pool:
        try:
            for first, windows in _ahead(stretches(), pool):
                last = windows[-1]
                seconds = min((last.start + len(last.audio)) / rate, task.seconds)
                outcome = _checked(Outcome(task.recording, analysis.analyse(windows), first, seconds, last.is_last))
                yield [outcome]
                if outcome.reason is not None:
                    return
        except AudioError as error:
            yield [_failed(task, error)]


def _read(recording: Recording, sample_rate: int) -> Clip | AudioError:
    if not recording.is_as_found():  # it may have become a long one
        return _changed(recording)
    try:
        audio, own_rate = read_audio(recording.path)
    except AudioError as error:
        return error
    return Clip(resample(audio, own_rate, sample_rate), len(audio) / own_rate)


def _checked(outcome: Outcome) -> Outcome:
    """Refuse the outcome of a file that is written to: nobody knows of what it is."""
    if outcome.recording.is_as_found():
        return outcome
    return _failed(Task(outcome.recording, 0.0), _changed(outcome.recording))


def _changed(recording: Recording) -> AudioError:
    if not recording.path.exists():
        return AudioError(f"{recording.path}: no such file")
    return AudioError(f"{recording.path}: changed while it was read; run again when it is complete")


def _failed(task: Task, error: AudioError) -> Outcome:
    return Outcome(task.recording, [], reason=printable(str(error)))


_END: Any = object()


def _ahead(items: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    """The items, each made while the one before is in use."""
    coming = pool.submit(next, items, _END)
    while (item := coming.result()) is not _END:
        coming = pool.submit(next, items, _END)
        yield item
