from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pandas as pd
import pytest

from weakaudio.errors import StoreError, WriteError
from weakaudio.files import FolderLock, atomic_write, printable, write_table


def test_a_file_appears_complete_and_its_folder_is_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_write(path) as part:
        part.write_text("first")
        assert not path.exists()
    with atomic_write(path) as part:
        part.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_previous_content_and_removes_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail(error: BaseException) -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            raise error

    for error in (ValueError("of the caller"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(error)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/a.txt", "folder"])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(WriteError, match=f"{name}: cannot be written"), atomic_write(tmp_path / name) as part:
        part.write_text("text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_table_on_a_full_disk_is_an_error_and_the_previous_table_stays(small_disk: Path) -> None:
    path = small_disk / "table.csv"
    write_table(pd.DataFrame({"path": ["a.wav"], "labels": ["dog"]}), path)
    before = path.read_bytes()
    with pytest.raises(WriteError, match=r"table\.csv: cannot be written \(No space left"):
        write_table(pd.DataFrame({"path": [f"{n}.wav" for n in range(50000)], "labels": "dog"}), path)
    assert path.read_bytes() == before
    assert list(small_disk.iterdir()) == [path]


def _write_often(path: Path, text: str) -> None:
    for _ in range(200):
        with atomic_write(path, unique=True) as part:
            part.write_text(text)


def test_processes_may_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "shared.txt"
    texts = [digit * 5000 for digit in "12"]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_file_names_that_are_not_utf8_become_printable() -> None:
    assert printable(os.fsdecode(b"\xe9.wav")).encode().isascii()
    assert printable("ü/ß.wav") == "ü/ß.wav"


def test_a_folder_is_locked_until_release(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    lock = FolderLock(folder)
    with pytest.raises(StoreError, match="a: another run writes to it"):
        FolderLock(folder)
    lock.release()
    FolderLock(folder).release()


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/run: cannot be written"):
        FolderLock(tmp_path / "file" / "run")
