"""Downloads from a faulty server: the complete file arrives, or the cache stays clean."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from weights_server import WeightsServer

from weakaudio.errors import CheckpointError
from weakaudio.pretrained import download as transfers
from weakaudio.pretrained.catalogue import Entry
from weakaudio.pretrained.download import download

CONTENT = np.random.default_rng(0).bytes(4 * 65536)  # halves of it are whole blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = f"bytes={len(CONTENT) // 2}-"

Get = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with WeightsServer(CONTENT) as running:
        yield running


@pytest.fixture
def mirror() -> Iterator[WeightsServer]:
    with WeightsServer(CONTENT) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAKAUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def entry(*urls: str, sha256: str | None = SHA256, size: int | None = None) -> Entry:
    return Entry("some-model", "for tests", "MIT", 16000, "own", 3, urls=urls, sha256=sha256, size=size)


def no_page(path: Path) -> None:
    if path.read_bytes().startswith(b"<!doctype"):
        raise CheckpointError(f"{path}: not weights")


@pytest.fixture
def get(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Get:
    monkeypatch.setattr(transfers, "_WAIT", 0.0)

    def run(*urls: str, attempts: int = 3, timeout: float = 60.0, **facts: object) -> Path:
        wanted = entry(*urls, **facts)  # type: ignore[arg-type]
        monkeypatch.setattr(transfers, "_TIMEOUT", timeout)
        monkeypatch.setattr(transfers, "_ATTEMPTS", attempts)
        download(wanted, no_page)
        assert wanted.path is not None
        return wanted.path

    return run


def left_in(folder: Path) -> list[str]:
    """All files below a folder except locks, which stay."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.relative_to(folder).as_posix() for path in files)


def test_a_file_arrives_complete_and_leaves_no_other(
    get: Get, server: WeightsServer, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = get(server.url, size=len(CONTENT))
    assert path == cache / "weights.bin"
    assert path.read_bytes() == CONTENT
    assert left_in(cache) == ["weights.bin"]
    assert path.stat().st_mode & 0o044 == 0o044 & ~_umask()  # others may read it, where the user lets them
    assert capfd.readouterr() == ("", "")  # the progress bar is for terminals
    get(server.url)
    assert len(server.requests) == 1  # a cached file is not requested again


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("fault", ["truncate", "stall"])
@pytest.mark.parametrize("sha256", [SHA256, None])
def test_an_interrupted_transfer_resumes_with_the_rest_only(
    get: Get, server: WeightsServer, cache: Path, fault: str, sha256: str | None
) -> None:
    server.faults = [fault]
    assert get(server.url, timeout=2.0 if fault == "stall" else 60.0, sha256=sha256).read_bytes() == CONTENT
    assert server.asked("Range") == [None, HALF]
    assert server.asked("If-Range") == [None, '"v1"']
    assert server.sent == [len(CONTENT) // 2, len(CONTENT) // 2]
    assert left_in(cache) == ["weights.bin"]


def test_the_next_call_resumes_after_a_failure(get: Get, server: WeightsServer, cache: Path) -> None:
    server.faults = ["truncate", "truncate"]
    with pytest.raises(CheckpointError, match=r"weights\.bin disconnected"):
        get(server.url, attempts=2)
    assert not (cache / "weights.bin").exists()
    assert get(server.url).read_bytes() == CONTENT
    assert server.asked("Range") == [None, HALF, "bytes=196608-"]
    assert left_in(cache) == ["weights.bin"]


def test_the_download_of_a_killed_process_resumes(
    get: Get, server: WeightsServer, cache: Path, tmp_path: Path
) -> None:
    server.faults = ["stall"]
    code = (
        "import sys\n"
        "from weakaudio.pretrained.catalogue import Entry\n"
        "from weakaudio.pretrained.download import download\n"
        "download(Entry('m', '', '', 1, '', 1, urls=(sys.argv[1],)), print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url])
    part = cache / ".weights.bin.download" / "part"
    deadline = time.monotonic() + 600
    while not (part.is_file() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    have = part.stat().st_size
    assert get(server.url).read_bytes() == CONTENT
    assert server.asked("Range") == [None, f"bytes={have}-"]
    assert left_in(cache) == ["weights.bin"]


def test_a_server_without_ranges_sends_the_file_again(get: Get, server: WeightsServer, cache: Path) -> None:
    server.ranges, server.faults = False, ["truncate"]
    assert get(server.url).read_bytes() == CONTENT
    assert server.sent[1] == len(CONTENT)
    assert left_in(cache) == ["weights.bin"]


def test_without_a_version_tag_nothing_is_resumed_or_kept(get: Get, server: WeightsServer, cache: Path) -> None:
    server.mark, server.faults = {"ETag": 'W/"weak"'}, ["truncate", "truncate"]
    with pytest.raises(CheckpointError, match="disconnected"):
        get(server.url, attempts=2)
    assert server.asked("Range") == [None, None]
    assert left_in(cache) == []


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_has_changed_is_downloaded_again(get: Get, server: WeightsServer, heeds: bool) -> None:
    server.faults, server.heeds_if_range = ["truncate"], heeds
    with pytest.raises(CheckpointError):
        get(server.url, attempts=1, sha256=None)
    server.content, server.mark = CONTENT[::-1], {"ETag": '"v2"'}
    assert get(server.url, sha256=None).read_bytes() == CONTENT[::-1]


def test_a_wrong_range_is_not_appended(get: Get, server: WeightsServer) -> None:
    server.faults = ["truncate", "shifted"]
    assert get(server.url, sha256=None).read_bytes() == CONTENT
    assert server.asked("Range") == [None, HALF, None]


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more"])
def test_a_part_as_long_as_the_file_is_downloaded_again(
    get: Get, server: WeightsServer, cache: Path, kept: bytes
) -> None:
    unfinished = cache / ".weights.bin.download"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_bytes(kept)
    (unfinished / "part.json").write_text(json.dumps({"url": server.url, "mark": '"v1"'}))
    assert get(server.url).read_bytes() == CONTENT
    assert left_in(cache) == ["weights.bin"]


@pytest.mark.parametrize("origin", ["", "{", json.dumps({"url": "http://other.invalid/a", "mark": '"v1"'})])
def test_a_part_of_unknown_origin_is_not_resumed(get: Get, server: WeightsServer, cache: Path, origin: str) -> None:
    unfinished = cache / ".weights.bin.download"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_bytes(b"something else")
    (unfinished / "part.json").write_text(origin)
    assert get(server.url, sha256=None).read_bytes() == CONTENT
    assert server.asked("Range") == [None]


def test_a_silent_server_times_out(get: Get, server: WeightsServer, cache: Path) -> None:
    server.faults = ["nothing", "nothing"]
    with pytest.raises(CheckpointError, match=r"sent nothing for 0\.2 s"):
        get(server.url, timeout=0.2, attempts=2)
    assert len(server.requests) == 2
    assert left_in(cache) == []


def test_redirects_are_followed_also_on_resumption(get: Get, server: WeightsServer) -> None:
    server.faults = ["redirect", "truncate", "redirect"]
    assert get(server.url).read_bytes() == CONTENT
    assert [path.split("/")[1] for path, _ in server.requests] == ["release", "elsewhere"] * 2
    assert server.asked("Range")[3] == HALF


def test_circular_redirects_end(get: Get, server: WeightsServer, cache: Path) -> None:
    server.faults = ["circle"]
    with pytest.raises(CheckpointError, match="redirects"):
        get(server.url)
    assert left_in(cache) == []


@pytest.mark.parametrize("resumed", [False, True])
def test_a_file_with_a_wrong_checksum_is_deleted(get: Get, server: WeightsServer, cache: Path, resumed: bool) -> None:
    server.faults = ["truncate", "lie"] if resumed else ["lie"]
    with pytest.raises(CheckpointError, match=rf"its SHA-256 is \w+, expected {SHA256}"):
        get(server.url)
    assert left_in(cache) == []
    assert get(server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["html", "disguised", "404", "403", "lie"])
def test_the_next_mirror_is_tried_at_once(
    get: Get, server: WeightsServer, mirror: WeightsServer, cache: Path, fault: str
) -> None:
    server.faults = [fault]
    assert get(server.url, mirror.url).read_bytes() == CONTENT
    assert (len(server.requests), len(mirror.requests)) == (1, 1)
    assert left_in(cache) == ["weights.bin"]


def test_a_mirror_sends_the_complete_file_after_another_server_s_failure(
    get: Get, server: WeightsServer, mirror: WeightsServer
) -> None:
    server.faults = ["truncate", "503", "503"]
    assert get(server.url, mirror.url, sha256=None).read_bytes() == CONTENT
    assert mirror.asked("Range") == [None]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("html", "answered with a web page"),
        ("disguised", "sent something else .*not weights"),
        ("404", "answered 404 Not Found"),
        ("403", "answered 403 Forbidden"),
    ],
)
def test_another_content_is_refused_also_without_a_checksum(
    get: Get, server: WeightsServer, cache: Path, fault: str, said: str
) -> None:
    server.faults = [fault]
    with pytest.raises(CheckpointError, match=said) as caught:
        get(server.url, sha256=None)
    assert len(str(caught.value).splitlines()) == 1
    assert len(server.requests) == 1
    assert left_in(cache) == []


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_a_busy_server_is_tried_again(get: Get, server: WeightsServer, status: str) -> None:
    server.faults = [status, status]
    assert get(server.url).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_an_error(get: Get, server: WeightsServer, cache: Path) -> None:
    server.faults = ["500"] * 3
    with pytest.raises(CheckpointError, match="answered 500 Internal Server Error"):
        get(server.url)
    assert left_in(cache) == []


def test_another_size_is_refused_before_the_transfer(get: Get, server: WeightsServer, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="has a file of 262144 bytes, expected 262145"):
        get(server.url, size=262145)
    assert left_in(cache) == []


def test_an_endless_response_is_aborted(get: Get, server: WeightsServer, cache: Path) -> None:
    server.faults = ["endless"]
    with pytest.raises(CheckpointError, match="sends more than the 262144 bytes expected"):
        get(server.url, size=262144)
    assert left_in(cache) == []


def test_offline_error_names_the_url_and_the_place_for_the_file(get: Get, cache: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.bin"  # no server listens
        with pytest.raises(CheckpointError, match=r"cannot be reached .*refused") as caught:
            get(url, url.replace("weights", "mirror"))
    assert f"fetch {url} by other means and put it at {cache / 'weights.bin'} (its SHA-256 is {SHA256})" in str(
        caught.value
    )
    assert len(str(caught.value).splitlines()) == 1
    assert left_in(cache) == []


def test_an_unwritable_cache_is_named(
    get: Get, server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEAKAUDIO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match=r"cannot write to .*file/cache.*WEAKAUDIO_CACHE"):
        get(server.url)
    assert server.requests == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_named(get: Get, server: WeightsServer, cache: Path) -> None:
    cache.mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match=r"Permission denied.*WEAKAUDIO_CACHE"):
        get(server.url)


def test_a_full_disk_is_an_error_and_is_freed(
    get: Get, server: WeightsServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAKAUDIO_CACHE", str(small_disk))
    with pytest.raises(CheckpointError, match=r"No space left on device.*WEAKAUDIO_CACHE"):
        get(server.url)
    assert left_in(small_disk) == []


def test_concurrent_calls_download_once(get: Get, server: WeightsServer, cache: Path) -> None:
    server.faults = ["truncate"]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(server.url), range(4)))
    assert [path.read_bytes() for path in paths] == [CONTENT] * 4
    assert len(server.requests) == 2
    assert left_in(cache) == ["weights.bin"]
