"""A downloader for pooch that goes on where an earlier one broke off."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_PART, _ORIGIN = "part", "part.json"  # what came so far; where from, and the server's mark of that version
_BLOCK = 1 << 16  # bytes; of what breaks off, whole blocks are kept
_BUSY = (408, 425, 429)  # and 5xx: a server that may answer another time


class DownloadError(Exception):
    """A place does not give the file; the message follows the place's name."""


class InterruptedDownloadError(DownloadError):
    """A place may give the file, or the rest of it, another time."""


class ResumingDownloader:
    """A downloader for `pooch.retrieve` that goes on where an earlier one broke off, also one of a killed process.

    It asks for the rest of a file only if the server gave a mark of its version (ETag or Last-Modified) with the
    beginning; if the version has changed, the server sends all of it (RFC 9110, If-Range).

    Parameters
    ----------
    size
        Bytes of the file, None if not known.
    timeout
        Seconds without an answer or a byte after which a connection counts as dead.
    attempts
        How often a server that breaks off, stalls or is busy is asked.
    wait
        Seconds before the second attempt; twice as long before each further one.
    """

    def __init__(self, size: int | None = None, timeout: float = 30.0, attempts: int = 3, wait: float = 1.0) -> None:
        self.size = size
        self.timeout = timeout
        self.attempts = attempts
        self.wait = wait

    def __call__(self, url: str, output_file: str | os.PathLike[str], pooch: object = None) -> None:
        """Download `url` to `output_file`; beside it stands what came so far, for the next call.

        Raises
        ------
        DownloadError
            The server cannot be reached, breaks off, stalls, is busy, or answers with something else than the file.
        """
        part = Path(output_file).with_name(_PART)
        for attempt in range(1, self.attempts + 1):
            try:
                self._receive(url, part)
                break
            except InterruptedDownloadError:
                if attempt == self.attempts:
                    raise
            time.sleep(self.wait * 2 ** (attempt - 1))
        os.replace(part, output_file)

    def _receive(self, url: str, part: Path) -> None:
        mark = _mark_of(part, url)
        have = part.stat().st_size if mark else 0
        headers = {"Accept-Encoding": "identity"}
        if mark and have:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        with (
            _plain_errors(self.timeout),
            requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer,
        ):
            if answer.status_code == 416 or (answer.status_code == 206 and not _continues(answer, have, mark)):
                part.unlink(missing_ok=True)
                raise InterruptedDownloadError("does not go on where it broke off")
            _refuse_other_answers(answer)
            if answer.status_code != 206:
                have = 0
            total = self._total(answer)
            with part.open("ab" if have else "wb") as file, _bar(url, have, total) as advance:
                if not have:
                    origin = {"url": url, "mark": _mark(answer)}
                    part.with_name(_ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
                for block in answer.iter_content(_BLOCK):
                    have += file.write(block)
                    advance(len(block))
                    if total is not None and have > total:
                        break
        if total is not None and have > total:
            part.unlink()
            raise DownloadError(f"sends more than the {total} bytes expected")
        if total is not None and have < total:
            raise InterruptedDownloadError("broke off")

    def _total(self, answer: requests.Response) -> int | None:
        """Bytes of the whole file, None if neither the server nor we know; raises if they do not agree."""
        stated = answer.headers.get("Content-Length", "")
        if answer.status_code == 206:
            stated = answer.headers["Content-Range"].rpartition("/")[2]
        if not stated.isdigit():
            return self.size
        if self.size not in (None, int(stated)):
            raise DownloadError(f"has a file of {stated} bytes, expected {self.size}")
        return int(stated)


def is_resumable(folder: Path) -> bool:
    """Whether a download into this folder broke off where another can go on."""
    part = folder / _PART
    return part.is_file() and part.stat().st_size > 0 and bool(_origin(part).get("mark"))


def _mark_of(part: Path, url: str) -> str | None:
    """The server's mark of the version of which `part` is the beginning; None if all must be sent anew."""
    origin = _origin(part) if part.is_file() else {}
    return origin.get("mark") if origin.get("url") == url else None


def _origin(part: Path) -> dict[str, str]:
    try:
        origin = json.loads(part.with_name(_ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: the process was killed while it wrote
        return {}
    return origin if isinstance(origin, dict) else {}


def _mark(answer: requests.Response) -> str | None:
    """ETag or date of a version, by which the rest of exactly this version can be asked for."""
    tag = answer.headers.get("ETag", "")
    strong = tag if tag.startswith('"') else None
    return strong or answer.headers.get("Last-Modified")


def _continues(answer: requests.Response, have: int, mark: str | None) -> bool:
    """Whether a partial answer is the rest of what we have."""
    stated = answer.headers.get("Content-Range", "")
    return have > 0 and stated.startswith(f"bytes {have}-") and _mark(answer) in (None, mark)


def _refuse_other_answers(answer: requests.Response) -> None:
    status = f"{answer.status_code} {answer.reason}".strip()
    if answer.status_code in _BUSY or answer.status_code >= 500:
        raise InterruptedDownloadError(f"answered {status}")
    if answer.status_code not in (200, 206):
        raise DownloadError(f"answered {status}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("answered with a web page")


@contextmanager
def _plain_errors(timeout: float) -> Iterator[None]:
    """Say in plain words what went wrong between us and a server."""
    try:
        yield
    except requests.exceptions.ChunkedEncodingError as error:
        raise InterruptedDownloadError("broke off") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            raise InterruptedDownloadError(f"sent nothing for {timeout:g} s") from error
        raise InterruptedDownloadError(f"cannot be reached ({_root(error)})") from error
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"cannot be asked ({error})") from error


def _root(error: BaseException) -> BaseException:
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return error


@contextmanager
def _bar(url: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, which goes when the download ends; yields what to call with bytes that came."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    name = TextColumn("{task.description}")
    with Progress(name, *columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=total, completed=have)
        yield lambda n_bytes: bar.advance(task, n_bytes)
