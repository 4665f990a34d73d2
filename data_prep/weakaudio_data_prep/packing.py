"""Packing: several processes decode clips, and one writes them to a store in their order.

The store depends only on the clips and their order, so it is byte-equal for any number of processes and
interruptions.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weakaudio.audio import Waveform
from weakaudio.audio.io import read_audio, to_int16
from weakaudio.data.store import StoreWriter
from weakaudio.errors import AudioError, DataPrepError
from weakaudio.progress import progress

_AHEAD = 4  # clips per process decoded ahead of the writer, to bound memory


class Sound(Protocol):
    """Source of a clip's audio; pickled, as other processes read it."""

    def read(self, sample_rate: int) -> Waveform:
        """Decode to mono audio (N,) at `sample_rate` (Hz), or raise AudioError."""


@dataclass(frozen=True)
class SoundFile:
    """A clip that is a whole file."""

    path: Path

    def read(self, sample_rate: int) -> Waveform:
        return read_audio(self.path, sample_rate)[0]


@dataclass(frozen=True)
class Clip:
    """A clip to be packed."""

    key: str
    labels: list[str]
    sound: Sound


def pack(
    clips: Iterable[Clip], total: int, writer: StoreWriter, workers: int, what: str = "packing"
) -> list[tuple[str, str]]:
    """Add clips to a store in their order, except those that it already has.

    Parameters
    ----------
    total
        Number of clips, for the progress bar.
    workers
        Processes that decode; 1 is this process. More are started with "spawn", so a script that requests them needs
        `if __name__ == "__main__"`.

    Returns
    -------
    failures
        Key and reason of each clip that cannot be read, in the order of the clips.

    Raises
    ------
    DataPrepError
        Fewer than one worker, or a worker process died.
    WriteError
        The store cannot be written.
    """
    if workers < 1:
        raise DataPrepError(f"workers: {workers}, must be at least 1")
    failures: list[tuple[str, str]] = []
    todo = (clip for clip in progress(clips, total, what) if clip.key not in writer.keys)
    decoded = _decode_here(todo, writer.sample_rate) if workers == 1 else _decode(todo, writer.sample_rate, workers)
    with closing(decoded):
        for clip, audio in decoded:
            if isinstance(audio, str):
                failures.append((clip.key, audio))
            else:
                writer.add(clip.key, audio, clip.labels)
    return failures


_Decoded = NDArray[np.int16] | str  # samples, or the reason of a failure


def _read(sound: Sound, sample_rate: int) -> _Decoded:
    try:
        return to_int16(sound.read(sample_rate))
    except AudioError as error:
        return str(error)


def _decode_here(clips: Iterable[Clip], sample_rate: int) -> Generator[tuple[Clip, _Decoded], None, None]:
    for clip in clips:
        yield clip, _read(clip.sound, sample_rate)


def _decode(clips: Iterable[Clip], sample_rate: int, workers: int) -> Generator[tuple[Clip, _Decoded], None, None]:
    waiting: deque[tuple[Clip, Future[_Decoded]]] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _exit_with_parent)
    try:
        for clip in clips:
            waiting.append((clip, pool.submit(_read, clip.sound, sample_rate)))
            if len(waiting) > workers * _AHEAD:
                first, audio = waiting.popleft()
                yield first, audio.result()
        while waiting:
            first, audio = waiting.popleft()
            yield first, audio.result()
    except BrokenProcessPool as error:
        raise DataPrepError(
            "packing: a worker process died (out of memory?); run the same command with fewer workers to resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _exit_with_parent() -> None:
    """Initialise a worker: exit when its parent is killed, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
