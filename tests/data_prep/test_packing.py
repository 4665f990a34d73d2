"""Packing by several processes, killed at random moments, ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from weakaudio_data_prep.packing import Clip, SoundFile, pack

from weakaudio.data.store import ClipStore, StoreWriter, check_clips
from weakaudio.errors import AudioError, DataPrepError, WriteError

MakeWavs = Callable[..., Path]


def faults(folder: Path) -> list[str]:
    """Keys of clips, and names of shards, that differ from what was written."""
    return [clip.key for clip in check_clips(folder) if clip.fault]


@dataclass(frozen=True)
class Fake:
    """Sound number n: 200 to 299 samples; every 17th is broken, some are slow, one may end its process."""

    n: int
    deadly: bool = False

    def read(self, sample_rate: int) -> NDArray[np.float32]:
        if self.deadly:
            os._exit(1)
        time.sleep(0.01 * (self.n % 5 == 0))
        if self.n % 17 == 3:
            raise AudioError(f"sound {self.n} is broken")
        return np.full(200 + self.n, self.n / 1000, dtype=np.float32)


def clips(count: int) -> list[Clip]:
    return [Clip(f"clip {n}", ["dog"], Fake(n)) for n in range(count)]


def run(folder: Path, workers: int, count: int = 100) -> list[tuple[str, str]]:
    with StoreWriter(folder, 8000, shard_samples=2500) as writer:
        return pack(clips(count), count, writer, workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_store_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    failures = run(tmp_path / "1", 1)
    assert failures == [(f"clip {n}", f"sound {n} is broken") for n in range(3, 100, 17)]
    assert run(tmp_path / "2", 2) == failures
    assert contents(tmp_path / "2") == contents(tmp_path / "1")
    store = ClipStore(tmp_path / "2")
    assert store.keys == [f"clip {n}" for n in range(100) if n % 17 != 3]
    for n, key in enumerate(store.keys):
        number = int(key.split()[1])
        expected = np.full(200 + number, round(number / 1000 * 32768) / 32768, dtype=np.float32)
        np.testing.assert_array_equal(store.audio(n), expected)


def test_files_are_packed_by_two_processes_as_by_one(make_wavs: MakeWavs, tmp_path: Path) -> None:
    root = make_wavs({f"{n}.wav": np.full(50 + n, 0.01 * n, dtype=np.float32) for n in range(10)})
    (root / "3.wav").write_text("no audio")
    jobs = [Clip(f"{n}", [], SoundFile(root / f"{n}.wav")) for n in range(10)]
    failures = []
    for workers in (1, 2):
        with StoreWriter(tmp_path / str(workers), 16000) as writer:
            failures.append(pack(iter(jobs), 10, writer, workers))
    assert failures[0] == failures[1]
    assert [key for key, _ in failures[0]] == ["3"]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_worker_that_dies_is_a_clear_error_and_the_next_run_resumes(tmp_path: Path) -> None:
    jobs = clips(40)
    jobs[30] = Clip("clip 30", ["dog"], Fake(30, deadly=True))
    with StoreWriter(tmp_path, 8000, 1000) as writer, pytest.raises(DataPrepError, match="a worker process died"):
        pack(jobs, 40, writer, 2)
    assert run(tmp_path, 1, 40) == [("clip 3", "sound 3 is broken"), ("clip 20", "sound 20 is broken"),
                                    ("clip 37", "sound 37 is broken")]  # fmt: skip
    assert sorted(ClipStore(tmp_path).keys) == sorted(f"clip {n}" for n in range(40) if n % 17 != 3)


def test_packing_stops_at_a_full_disk_and_resumes_when_there_is_space(small_disk: Path, tmp_path: Path) -> None:
    run(tmp_path / "roomy", 1, 300)
    with pytest.raises(WriteError, match="No space left"):
        run(small_disk / "store", 2, 300)
    kept = ClipStore(small_disk / "store")
    assert 0 < len(kept) < 250
    assert faults(kept.folder) == []
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run(small_disk / "store", 2, 300)
    assert contents(small_disk / "store") == contents(tmp_path / "roomy")


def test_no_worker_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, 8000) as writer, pytest.raises(DataPrepError, match="workers: 0"):
        pack([], 0, writer, 0)


def test_workers_end_when_their_run_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]\n"
        "import test_packing\n"
        f"if __name__ == '__main__': test_packing.run(Path({str(tmp_path)!r}), 2, 100_000)\n"
    )
    main = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("shard-*")):
        assert main.poll() is None
        time.sleep(0.05)
    main.send_signal(signal.SIGKILL)
    main.wait()
    for _ in range(6000):
        try:
            os.killpg(main.pid, 0)  # is any process of its session left?
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(main.pid, signal.SIGKILL)
    pytest.fail("worker processes outlived their run")
