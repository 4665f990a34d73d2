"""Networks are scored, here or in several processes, and their scores come in the order they were asked for."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from weakaudio.errors import ManifestError, StoreError, WeakAudioError, WriteError

Score = Callable[[dict[str, Any]], float]
"""How bad a network is, of the arguments that `ArchitectureConfig.to_config` gives: lower is better."""

_LONGEST_ERROR = 300  # characters


class Scored(NamedTuple):
    """What became of an evaluation."""

    score: float | None
    error: str | None
    seconds: float
    """that it took"""


Run = Callable[[list[dict[str, Any]]], Iterator[Scored]]


@contextmanager
def scoring(score: Score, workers: int) -> Iterator[Run]:
    """Gives what scores several networks; with several workers, in so many processes, each with a copy of `score`.

    Processes share the threads that torch uses here, and end with the block, and when this process is killed.

    Raises
    ------
    WeakAudioError
        A process died.
    """
    if workers == 1:
        yield lambda configs: (evaluate(score, config) for config in configs)
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(score, _threads() // workers),
    )

    def run(configs: list[dict[str, Any]]) -> Iterator[Scored]:
        for future in [pool.submit(_evaluate_here, config) for config in configs]:
            yield future.result()

    try:
        yield run
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - set(others):  # they would finish what they are at
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise WeakAudioError(
                "search: a process died, perhaps for want of memory; what is done is kept, go on with fewer workers"
            ) from error
        raise
    pool.shutdown()


def evaluate(score: Score, config: dict[str, Any]) -> Scored:
    """The score of a network, or why it has none."""
    start = time.perf_counter()
    value, error = None, None
    try:
        value = float(score(config))
    except (StoreError, ManifestError, WriteError):  # of files, not of this network
        raise
    except (WeakAudioError, RuntimeError) as caught:
        error = one_line(caught)
    if value is not None and not math.isfinite(value):
        value, error = None, f"score: {value}"
    return Scored(value, error, round(time.perf_counter() - start, 3))


def one_line(error: Exception) -> str:
    """What an error says, its kind if it says nothing; not all of it if that is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 3] + "..."


_score: list[Score] = []  # of this process, if it is a worker


def _threads() -> int:
    """That torch uses in this process; 0 if nothing needs torch."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 0


def _begin(score: Score, threads: int) -> None:
    """Start a worker: Ctrl-C is its parent's business, and without a parent it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "torch" in sys.modules:  # came with the score
        sys.modules["torch"].set_num_threads(max(threads, 1))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    _score[:] = [score]


def _evaluate_here(config: dict[str, Any]) -> Scored:
    return evaluate(_score[0], config)
