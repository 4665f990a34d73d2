"""Downloads that go on where they broke off, and leave nothing in the cache whose content was not checked."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
from filelock import FileLock

from weakaudio.errors import CheckpointError
from weakaudio.pretrained.catalogue import CACHE_VARIABLE, Entry
from weakaudio.pretrained.resume import DownloadError, ResumingDownloader, is_resumable


def download(
    entry: Entry, check: Callable[[Path], object], timeout: float = 30.0, attempts: int = 3, wait: float = 1.0
) -> None:
    """Bring a published file to `entry.path`, from the first of its places that has it.

    What is unfinished stands in a folder beside it, which stays only if the next call can go on from there. Other
    processes that want the same file wait until this one is done.

    Parameters
    ----------
    entry
        A model with `urls`. If its file is there already, nothing is done.
    check
        Called on the whole file before it gets its name; raises CheckpointError if it is not what it should be.
    timeout, attempts, wait
        As for `ResumingDownloader`.

    Raises
    ------
    CheckpointError
        No place has the file, with the reason of each and what to put where by hand; or the cache cannot be
        written.
    """
    path = entry.path
    assert path is not None
    fetch = ResumingDownloader(entry.size, timeout, attempts, wait)
    unfinished = path.with_name(f".{path.name}.download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.is_file():  # another process was first
                return
            try:
                failures = _from_first(entry, path, unfinished, fetch, check)
            except OSError:
                shutil.rmtree(unfinished, ignore_errors=True)  # a full disk
                raise
            finally:
                if not is_resumable(unfinished):
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"{entry.name}: cannot write to {path.parent} ({error.strerror or error}); make it writable and large "
            f"enough, or name another folder in the environment variable {CACHE_VARIABLE}"
        ) from error
    if failures:
        known = f" (its SHA-256 is {entry.sha256})" if entry.sha256 else ""
        raise CheckpointError(
            f"{entry.name}: could not be downloaded: {'; '.join(failures)}. Run it again, or fetch {entry.urls[0]} "
            f"by other means and put it at {path}{known}"
        )


def _from_first(
    entry: Entry, path: Path, unfinished: Path, fetch: ResumingDownloader, check: Callable[[Path], object]
) -> list[str]:
    """Bring the file to `path` and return nothing, or why each place failed."""
    known = f"sha256:{entry.sha256}" if entry.sha256 else None
    failures = []
    for url in entry.urls:
        unfinished.mkdir(exist_ok=True)
        try:
            with _quiet_pooch():
                found = Path(pooch.retrieve(url, known, path.name, unfinished, downloader=fetch))
            check(found)
        except DownloadError as error:
            failures.append(f"{url} {error}")
        except (ValueError, CheckpointError) as error:  # ValueError: pooch found another checksum
            failures.append(f"{url} sent something else ({error})")
            shutil.rmtree(unfinished)
        else:
            os.replace(found, path)
            return []
    return failures


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch from logging each download and advice for programmers; the bar says what is going on."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
