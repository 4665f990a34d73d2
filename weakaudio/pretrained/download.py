"""Resumable downloads of published weights: nothing enters the cache before its content has been checked."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
_BUSY = (408, 425, 429)  # and 5xx: worth another attempt


class DownloadError(Exception):
    """A server does not provide the file; the message continues a sentence that starts with the URL."""


class InterruptedDownloadError(DownloadError):
    """A transfer that another attempt may complete."""


def download(
    entry: Entry, check: Callable[[Path], object], timeout: float = 30.0, attempts: int = 3, wait: float = 1.0
) -> None:
    """Download a published file to `entry.path`, from the first of its URLs that provides it.

    An unfinished download is kept in a hidden folder beside the file, if a later call can resume it. Other processes
    that want the same file wait for this one.

    Parameters
    ----------
    entry
        A model with `urls`. If its file is in the cache already, nothing is done.
    check
        Called on the complete file before it is moved into place; raises CheckpointError if the content is wrong.
    timeout
        Seconds without a response or a byte after which a connection counts as dead.
    attempts
        Requests to a server that disconnects, stalls or is busy.
    wait
        Seconds before the second attempt; doubled before each further one.

    Raises
    ------
    CheckpointError
        No URL provides the file (the message gives the reason of each, and how to place the file by hand), or the
        cache cannot be written.
    """
    path = entry.path
    assert path is not None
    transfer = _Transfer(entry.size, timeout, attempts, wait)
    unfinished = path.with_name(f".{path.name}.download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.is_file():  # another process was faster
                return
            try:
                failures = _try_urls(entry, path, unfinished, transfer, check)
            except OSError:
                shutil.rmtree(unfinished, ignore_errors=True)  # a full disk
                raise
            finally:
                if not _is_resumable(unfinished):
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


def _try_urls(
    entry: Entry, path: Path, unfinished: Path, transfer: _Transfer, check: Callable[[Path], object]
) -> list[str]:
    """Download the file to `path`; returns the failure of each URL if none succeeds, else an empty list."""
    received = unfinished / path.name
    failures = []
    for url in entry.urls:
        unfinished.mkdir(exist_ok=True)
        try:
            transfer.fetch(url, received)
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


@dataclass(frozen=True)
class _Transfer:
    """HTTP transfers that resume where an earlier one was interrupted, also that of a killed process.

    This takes a server that tagged the first part with a version (ETag or Last-Modified); a file that has changed
    since is sent from its beginning (RFC 9110, If-Range).
    """

    size: int | None
    timeout: float
    attempts: int
    wait: float

    def fetch(self, url: str, path: Path) -> None:
        """Download `url` to `path`; an interrupted transfer leaves its part beside it, and raises DownloadError."""
        part = path.with_name(_PART)
        for attempt in range(1, self.attempts + 1):
            try:
                self._receive(url, part)
                break
            except InterruptedDownloadError:
                if attempt == self.attempts:
                    raise
            time.sleep(self.wait * 2 ** (attempt - 1))
        os.replace(part, path)

    def _receive(self, url: str, part: Path) -> None:
        tag = _tag_of_part(part, url)
        received = part.stat().st_size if tag else 0
        headers = {"Accept-Encoding": "identity"}
        if tag and received:
            headers |= {"Range": f"bytes={received}-", "If-Range": tag}
        with (
            _plain_errors(self.timeout),
            requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response,
        ):
            if response.status_code == 416 or (
                response.status_code == 206 and not _continues(response, received, tag)
            ):
                part.unlink(missing_ok=True)
                raise InterruptedDownloadError("does not resume the interrupted transfer")
            _check_status(response)
            if response.status_code != 206:
                received = 0
            total = self._total(response)
            with part.open("ab" if received else "wb") as file, _bar(url, received, total) as advance:
                if not received:
                    origin = {"url": url, "mark": _version_tag(response)}
                    part.with_name(_ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
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

    def _total(self, response: requests.Response) -> int | None:
        """Size of the complete file in bytes, None if unknown; raises if the server disagrees with `size`."""
        stated = response.headers.get("Content-Length", "")
        if response.status_code == 206:
            stated = response.headers["Content-Range"].rpartition("/")[2]
        if not stated.isdigit():
            return self.size
        if self.size not in (None, int(stated)):
            raise DownloadError(f"has a file of {stated} bytes, expected {self.size}")
        return int(stated)


def _is_resumable(folder: Path) -> bool:
    part = folder / _PART
    return part.is_file() and part.stat().st_size > 0 and bool(_origin(part).get("mark"))


def _tag_of_part(part: Path, url: str) -> str | None:
    """The version tag of a partly received file; None if the transfer must start from the beginning."""
    origin = _origin(part) if part.is_file() else {}
    return origin.get("mark") if origin.get("url") == url else None


def _origin(part: Path) -> dict[str, str]:
    try:
        origin = json.loads(part.with_name(_ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: the process was killed while writing it
        return {}
    return origin if isinstance(origin, dict) else {}


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
def _plain_errors(timeout: float) -> Iterator[None]:
    """Translate the exceptions of requests into `DownloadError` with a short reason."""
    try:
        yield
    except requests.exceptions.ChunkedEncodingError as error:
        raise InterruptedDownloadError("disconnected") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            raise InterruptedDownloadError(f"sent nothing for {timeout:g} s") from error
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
