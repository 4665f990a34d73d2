"""Memory of this process that the C library gives back to the system, and when."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of glibc's mallopt


def keep_memory() -> None:
    """Let this process keep the memory that large tensors leave, in one heap, where the C library is glibc; for good.

    By its defaults glibc gives it back to the system and asks for it anew, or does not, by what was freed before. A
    map of 12 MB then costs 3,000 page faults or none, up to a third of a network's time; and each thread has a heap
    of its own, of which others cannot use what is free. It is for commands and for measurements; whether a program
    that uses this library does so is its own affair.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # musl has none
            library.mallopt(_ARENA_MAX, 1)
            library.mallopt(_TRIM_THRESHOLD, 2**30)
            library.mallopt(_MMAP_MAX, 0)  # what is mapped by itself is always given back
