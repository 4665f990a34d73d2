"""Damaged files of every kind: none may crash the library, hang it, exhaust memory, or be read as if intact.

`WEAKAUDIO_FUZZ=1500 pytest tests -k damaged` tries so many files of each kind in place of 20, other ones each time.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import damage as damages
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intact_files import find_intact, write_intact

PER_KIND = int(os.environ.get("WEAKAUDIO_FUZZ", "20"))
_PATIENCE = 60.0  # seconds after which reading one file counts as hanging: the tracebacks are printed, and tests end
_HEADROOM = 2**30  # bytes of address space that reading may take: no number in a header decides what is allocated

Outcome = Literal["refused", "read"]
Check = Callable[[Path, Path, tuple[str, ...]], Outcome]
"""Reads a damaged file, given the intact one that it was made from and the names of the changes (`damage`).

It returns "refused" if the damage was reported, else "read"; an `AssertionError` says that the file was read as
something else than was written, and any other error but a reported one is a fault of the library.
"""


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    write_intact(folder)
    return folder


@pytest.fixture(scope="session")
def scratch(intact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which one file after the other is damaged."""
    return Path(shutil.copytree(intact, tmp_path_factory.mktemp("scratch") / "files"))


@contextmanager
def limits() -> Iterator[None]:
    """Bound the time and (Linux) the memory of a block."""
    before, sizes = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if sizes.is_file():
        used = int(sizes.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, before[1]))
    faulthandler.dump_traceback_later(_PATIENCE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)


def read_damaged(kind: str, check: Check, intact: Path, scratch: Path) -> None:
    """Check that intact files of a kind are read, then damage them one by one in `scratch`, and check each."""
    paths = find_intact(intact)
    contents = {path: (intact / path).read_bytes() for others in paths.values() for path in others}
    alike = [contents[path] for path in paths[kind]]
    assert alike, kind
    for path in paths[kind]:  # modules are imported and caches filled before limits count
        assert check(scratch / path, intact / path, ()) == "read", path

    @given(st.sampled_from(paths[kind]), st.booleans(), st.integers(0, 2**32 - 1))
    @settings(
        max_examples=PER_KIND,
        derandomize="WEAKAUDIO_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    def read(path: str, of_its_kind: bool, seed: int) -> None:
        donors = alike if of_its_kind else list(contents.values())
        rng = np.random.default_rng(seed)
        content, changes = damages.damage(Path(path).suffix, contents[path], donors, rng)
        if content in contents.values():
            return
        (scratch / path).write_bytes(content)
        try:
            with limits():
                check(scratch / path, intact / path, changes)
        finally:
            (scratch / path).write_bytes(contents[path])

    read()


def expect(right: bool, what: str) -> None:
    assert right, what
