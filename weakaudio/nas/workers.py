"""Scoring of networks in this process or in several; results come in the order of the networks."""

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

Scorer = Callable[[dict[str, Any]], float]
"""Gives the score of a network, lower is better, from the arguments of `ArchitectureConfig.to_config`."""

_LONGEST_ERROR = 300  # characters


class Scored(NamedTuple):
    """The outcome of scoring a network."""

    score: float | None
    error: str | None
    """why there is no score"""
    seconds: float


ScoreAll = Callable[[list[dict[str, Any]]], Iterator[Scored]]


@contextmanager
def scoring(scorer: Scorer, workers: int) -> Iterator[ScoreAll]:
    """Give a function that scores several networks; with several workers, in processes with a copy of `scorer` each.

    The processes share the threads that torch uses here, and end with the block or with this process.

    Raises
    ------
    WeakAudioError
        A process died.
    """
    if workers == 1:
        yield lambda configs: (evaluate(scorer, config) for config in configs)
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(scorer, _threads() // workers),
    )

    def run(configs: list[dict[str, Any]]) -> Iterator[Scored]:
        for future in [pool.submit(_evaluate_here, config) for config in configs]:
            yield future.result()

    try:
        yield run
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - set(others):  # would finish their present network
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise WeakAudioError(
                "search: a process died, perhaps out of memory; evaluations so far are kept: use fewer workers"
            ) from error
        raise
    pool.shutdown()


def evaluate(scorer: Scorer, config: dict[str, Any]) -> Scored:
    """Score a network, or record why it has no score.

    Raises
    ------
    StoreError, ManifestError, WriteError
        A file is missing or damaged, which is no fault of the network.
    """
    start = time.perf_counter()
    value, error = None, None
    try:
        value = float(scorer(config))
    except (StoreError, ManifestError, WriteError):
        raise
    except (WeakAudioError, RuntimeError) as caught:
        error = one_line(caught)
    if value is not None and not math.isfinite(value):
        value, error = None, f"score: {value}"
    return Scored(value, error, round(time.perf_counter() - start, 3))


def one_line(error: Exception) -> str:
    """An error's message on one line, shortened if long; its type if it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 3] + "..."


_scorer: list[Scorer] = []  # of this process, if it is a worker


def _threads() -> int:
    """Threads of torch in this process; 0 if torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 0


def _begin(scorer: Scorer, threads: int) -> None:
    """Set a worker up: it ignores Ctrl-C, which its parent handles, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "torch" in sys.modules:  # imported with the scorer
        sys.modules["torch"].set_num_threads(max(threads, 1))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    _scorer[:] = [scorer]


def _evaluate_here(config: dict[str, Any]) -> Scored:
    return evaluate(_scorer[0], config)
