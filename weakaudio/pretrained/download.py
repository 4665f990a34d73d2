"""Resumable downloads of published weights: nothing enters the cache before its content has been checked."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
import requests
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from weakaudio.errors import CheckpointError
from weakaudio.pretrained.catalogue import CACHE_VARIABLE, Entry

_PART, _ORIGIN = "part", "part.json"  # the bytes received so far; their URL and the server's version tag
_BLOCK = 1 << 16  # bytes; an interrupted transfer keeps whole blocks
_TIMEOUT = 30.0  # seconds without a response or a byte, after which a connection counts as dead
_ATTEMPTS = 3  # requests to a server that disconnects, stalls or is busy
_WAIT = 1.0  # seconds before the second attempt; doubled before each further one
_BUSY = (408, 425, 429)  # and 5xx: worth another attempt


class DownloadError(Exception):
    """A server does not provide the file; the message continues a sentence that starts with the URL."""


class InterruptedDownloadError(DownloadError):
    """A transfer that another attempt may complete."""


def download(entry: Entry, check: Callable[[Path], object]) -> None:
    """Download a published file to `entry.path`, from the first of its URLs that provides it.

    An unfinished download is kept in a hidden folder beside the file, if a later call can resume it. Other processes
    that want the same file wait for this one.

    Parameters
    ----------
    entry
        A model with `urls`. If its file is in the cache already, nothing is done.
    check
        Called on the complete file before it is moved into place; raises CheckpointError if the content is wrong.

    Raises
    ------
    CheckpointError
        No URL provides the file (the message gives the reason of each, and how to place the file by hand), or the
        cache cannot be written.
    """
    path = entry.path
    assert path is not None
    unfinished = path.with_name(f".{path.name}.download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.is_file():  # another process was faster
                return
            try:
                failures = _try_urls(entry, path, unfinished, check)
            except OSError:
                shutil.rmtree(unfinished, ignore_errors=True)  # a full disk
                raise
            finally:
                if not _origin(unfinished / _PART).get("mark"):
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


def _try_urls(entry: Entry, path: Path, unfinished: Path, check: Callable[[Path], object]) -> list[str]:
    """Download the file to `path`; returns the failure of each URL if none succeeds, else an empty list."""
    received = unfinished / path.name
    failures = []
    for url in entry.urls:
        unfinished.mkdir(exist_ok=True)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    _receive(url, unfinished / _PART, entry.size)
                    break
                except InterruptedDownloadError:
                    if attempt + 1 == _ATTEMPTS:
                        raise
                time.sleep(_WAIT * 2**attempt)
            os.replace(unfinished / _PART, received)
            found = pooch.file_hash(str(received))
            if entry.sha256 not in (None, found):
                raise CheckpointError(f"its SHA-256 is {found}, expected {entry.sha256}")
            check(received)
        except DownloadError as error:
            failures.append(f"{url} {error}")
        except CheckpointError as error:
            failures.append(f"{url} sent something else ({error})")
            shutil.rmtree(unfinished)
        else:
            os.replace(received, path)
            return []
    return failures


def _receive(url: str, part: Path, size: int | None) -> None:
    """Download `url` to `part`, from where an earlier transfer was interrupted, also that of a killed process.

    This takes a server that tagged the first part with a version (ETag or Last-Modified); a file that has changed
    since is sent from its beginning (RFC 9110, If-Range).
    """
    origin = _origin(part)
    tag = origin.get("mark") if origin.get("url") == url else None
    received = part.stat().st_size if tag else 0
    headers = {"Accept-Encoding": "identity"}
    if tag:
        headers |= {"Range": f"bytes={received}-", "If-Range": tag}
    with _plain_errors(), requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        partial = response.status_code == 206
        if response.status_code == 416 or (partial and not _continues(response, received, tag)):
            part.unlink(missing_ok=True)
            raise InterruptedDownloadError("does not resume the interrupted transfer")
        _check_status(response)
        stated = response.headers.get("Content-Length", "")
        if partial:
            stated = response.headers["Content-Range"].rpartition("/")[2]
        else:
            received = 0
        total = int(stated) if stated.isdigit() else size
        if size not in (None, total):
            raise DownloadError(f"has a file of {stated} bytes, expected {size}")
        with part.open("ab" if partial else "wb") as file, _bar(url, received, total) as advance:
            if not partial:
                facts = {"url": url, "mark": _version_tag(response)}
                part.with_name(_ORIGIN).write_text(json.dumps(facts), encoding="utf-8")
            for block in response.iter_content(_BLOCK):
                received += file.write(block)
                advance(len(block))
                if total is not None and received > total:
                    break
    if total is not None and received > total:
        part.unlink()
        raise DownloadError(f"sends more than the {total} bytes expected")
    if total is not None and received < total:
        raise InterruptedDownloadError("disconnected")


def _origin(part: Path) -> dict[str, str]:
    """URL ("url") and version tag ("mark", if any) of a partly received file; empty if nothing of it is of use."""
    try:
        origin = json.loads(part.with_name(_ORIGIN).read_text(encoding="utf-8"))
        received = part.stat().st_size
    except (OSError, ValueError):  # ValueError: the process was killed while writing it
        return {}
    return origin if received and isinstance(origin, dict) else {}


def _version_tag(response: requests.Response) -> str | None:
    """The strong ETag, else the modification date, which a later request can name in If-Range."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: requests.Response, received: int, tag: str | None) -> bool:
    """Whether a partial response starts where the received part ends, and is of the same version."""
    stated = response.headers.get("Content-Range", "")
    return received > 0 and stated.startswith(f"bytes {received}-") and _version_tag(response) in (None, tag)


def _check_status(response: requests.Response) -> None:
    status = f"{response.status_code} {response.reason}".strip()
    if response.status_code in _BUSY or response.status_code >= 500:
        raise InterruptedDownloadError(f"answered {status}")
    if response.status_code not in (200, 206):
        raise DownloadError(f"answered {status}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("answered with a web page")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Translate the exceptions of requests into `DownloadError` with a short reason."""
    try:
        yield
    except requests.exceptions.ChunkedEncodingError as error:
        raise InterruptedDownloadError("disconnected") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            raise InterruptedDownloadError(f"sent nothing for {_TIMEOUT:g} s") from error
        raise InterruptedDownloadError(f"cannot be reached ({_root(error)})") from error
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"cannot be requested ({error})") from error


def _root(error: BaseException) -> BaseException:
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return error


@contextmanager
def _bar(url: str, received: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A transient progress bar on standard error; yields a function that takes the number of new bytes."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    name = TextColumn("{task.description}")
    with Progress(name, *columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=total, completed=received)
        yield lambda n_bytes: bar.advance(task, n_bytes)
