"""What a run does with each recording: the same for embeddings and for events."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from weakaudio.audio.io import audio_info, read_audio, resample, stream_audio
from weakaudio.errors import AudioError
from weakaudio.inference.journal import Arrays, Outcome
from weakaudio.inference.recordings import Recording, printable
from weakaudio.inference.windows import Audio, Window, cut, cut_clip, find_loudest
from weakaudio.networks.model import Model

T = TypeVar("T")

# Short recordings go through the network in groups, and a group's result is on disk before the next begins: as much
# as this is lost when a run is killed. Groups do not depend on the run, so the result does not, either.
_GROUP_FILES = 64
_GROUP_SECONDS = 600.0
_SHORT_SECONDS = 120.0  # longer recordings are read in blocks, and so many windows are on disk before the next:
_STRETCH_WINDOWS = 10


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


def make_tasks(recordings: Iterable[Recording]) -> list[Task]:
    """Look into each recording's header."""

    def task(recording: Recording) -> Task:
        try:
            return Task(recording, audio_info(recording.path).seconds)
        except AudioError:
            return Task(recording, 0.0)  # why, says who tries to read it

    with ThreadPoolExecutor() as pool:
        return list(pool.map(task, recordings))


def group_tasks(tasks: Iterable[Task]) -> list[list[Task]]:
    """What is done at once: short recordings together, long ones alone."""
    groups: list[list[Task]] = []
    together: list[Task] = []
    for task in tasks:
        seconds = sum(one.seconds for one in together) + task.seconds
        if together and (not task.is_short or len(together) == _GROUP_FILES or seconds > _GROUP_SECONDS):
            groups.append(together)
            together = []
        if task.is_short:
            together.append(task)
        else:
            groups.append([task])
    return groups + ([together] if together else [])


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
    results = iter(analysis.analyse([window for windows in cuts for window in windows]))
    return [
        _failed(task, clip)
        if isinstance(clip, AudioError)
        else _checked(Outcome(task.recording, list(islice(results, len(windows))), seconds=clip.seconds))
        for task, clip, windows in zip(group, clips, cuts, strict=True)
    ]


def _analyse_long(analysis: Analysis, task: Task) -> Iterator[list[Outcome]]:
    model, path = analysis.model, task.recording.path
    rate, n_samples = model.sample_rate, 0

    def blocks() -> Iterator[Audio]:
        nonlocal n_samples
        for block in stream_audio(path, rate):
            n_samples += len(block)
            yield block

    with ThreadPoolExecutor(1) as pool:
        try:
            loudest = find_loudest(model, stream_audio(path, rate))
            windows = enumerate(cut(model, _ahead(blocks(), pool), analysis.n_beside, loudest))
            stretch: list[Window] = []
            for n, window in windows:
                if n >= task.n_done:  # what is before was done by a run that was killed; it is decoded to get here
                    stretch.append(window)
                if window.is_last or len(stretch) == _STRETCH_WINDOWS:
                    parts = [part for one in stretch for part in analysis.analyse([one])]
                    seconds = min(n_samples / rate, task.seconds)
                    outcome = Outcome(task.recording, parts, n + 1 - len(stretch), seconds, window.is_last)
                    yield [_checked(outcome)]
                    stretch = []
        except AudioError as error:
            yield [_failed(task, error)]


def _read(recording: Recording, sample_rate: int) -> Clip | AudioError:
    try:
        audio, own_rate = read_audio(recording.path)
    except AudioError as error:
        return error
    return Clip(resample(audio, own_rate, sample_rate), len(audio) / own_rate)


def _checked(outcome: Outcome) -> Outcome:
    """Refuse the outcome of a file that is written to: nobody knows of what it is."""
    if outcome.recording.is_as_found():
        return outcome
    changed = AudioError(f"{outcome.recording.path}: changed while it was read; run again when it is complete")
    return _failed(Task(outcome.recording, 0.0), changed)


def _failed(task: Task, error: AudioError) -> Outcome:
    return Outcome(task.recording, [], reason=printable(str(error)))


_END: Any = object()


def _ahead(items: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    """The items, each made while the one before is in use."""
    coming = pool.submit(next, items, _END)
    while (item := coming.result()) is not _END:
        coming = pool.submit(next, items, _END)
        yield item
