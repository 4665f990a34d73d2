"""Batches shared by threads that have one core each.

Many small operations lose less time so than when all cores share each of them and meet at its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def share(job: Callable[[Batch], Result], batches: Sequence[Batch]) -> list[Result]:
    """The result of each batch, in their order; as many batches at once as torch has threads.

    Batches that are left when the others are shared out evenly are taken one by one, by all cores.
    """
    n = torch.get_num_threads()
    even = len(batches) // n * n if n > 1 else 0
    shared = list(_lanes(n, os.getpid()).map(job, batches[:even])) if even else []
    return [*shared, *map(job, batches[even:])]


@lru_cache(maxsize=1)
def _lanes(n: int, process: int) -> ThreadPoolExecutor:
    """`n` threads; a process that was forked has none of its parent's."""
    started = Barrier(n)

    def start() -> None:
        torch.set_num_threads(1)  # of this thread, and of those that are new to torch until the last line here
        torch.ones(1 << 16).sum()  # a thread takes its number of threads at its first parallel operation

    lanes = ThreadPoolExecutor(n, thread_name_prefix="lane", initializer=start)
    for job in [lanes.submit(started.wait) for _ in range(n)]:
        job.result()
    torch.set_num_threads(n)
    return lanes
