"""glibc's policy for returning freed memory to the operating system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of glibc's mallopt


def keep_memory() -> None:
    """Make this process keep freed memory in one heap for good; does nothing unless the C library is glibc.

    By default glibc may return the memory of a large tensor and request it again for the next one, depending on the
    history of allocations: a map of 12 MB then costs 3,000 page faults or none, up to a third of a network's run
    time. It also gives each thread a heap whose free memory other threads cannot use. Meant for commands and
    benchmarks; a program that uses this library decides for itself.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # musl has none
            library.mallopt(_ARENA_MAX, 1)
            library.mallopt(_TRIM_THRESHOLD, 2**30)
            library.mallopt(_MMAP_MAX, 0)  # mapped blocks would be returned when freed
