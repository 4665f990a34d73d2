"""A long recording, and a folder with broken files whose run is killed: what the command line needs and survives.

python -m recipes.field.run --data ../shared/data              both
python -m recipes.field.run --data ../shared/data --hours 1    a shorter recording (a WAV of 10 hours is 7 GB)
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import soundfile as sf
from numpy.typing import NDArray

from recipes.command import command
from recipes.field.broken import KINDS, plant
from recipes.results import Row
from weakaudio.audio.io import find_audio, read_audio
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.progress import progress

_RATE = 48000
_BLOCK = 10.0  # seconds
_RATIO_HOURS = 1.0  # of audio that is there as one recording and as short files
# A small process in between, as the memory of the process that starts another counts for that one, too.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
_WEAKAUDIO = [sys.executable, "-m", "weakaudio.cli"]


class Finished(NamedTuple):
    """A finished process."""

    seconds: float
    megabytes: float
    """peak memory (maximum resident set size)"""
    code: int


def run_weakaudio(*arguments: object, expected: Sequence[int] = (0,)) -> Finished:
    """Run the command line in its own process."""
    start = time.perf_counter()
    words = [sys.executable, "-c", _MEASURED, *_WEAKAUDIO, *map(str, arguments)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    finished = Finished(time.perf_counter() - start, int(done.stdout) / 1024, done.returncode)
    assert finished.code in expected, finished
    return finished


def measure_long(data: Path, work: Path, hours: float, n_turns: int = 3) -> Iterator[Row]:
    """Detection in one recording of many hours, and in the same audio as one file of an hour and as short files."""
    folder = work / "long"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "short").mkdir(parents=True)
    sounds, rng = [read_audio(path, _RATE)[0] for path in find_audio(data / "backgrounds")], np.random.default_rng(0)
    with sf.SoundFile(folder / "hour.wav", "w", _RATE, 2, "PCM_16", format="RF64") as hour:
        for n, block in enumerate(_blocks(sounds, rng, round(_RATIO_HOURS * 3600 / _BLOCK))):
            hour.write(block)
            sf.write(folder / "short" / f"{n:05d}.wav", block, _RATE, "PCM_16")
    total = round(hours * 3600 / _BLOCK)
    with sf.SoundFile(folder / "long.wav", "w", _RATE, 2, "PCM_16", format="RF64") as file:
        for block in progress(_blocks(sounds, rng, total), total, f"writing {hours:g} h"):
            file.write(block)
    about = f"{_RATE / 1000:g} kHz, stereo, 16 bit, mixed ambiences; detect to CSV"
    runs = [
        (f"{_RATIO_HOURS:g} h as one file", "hour.wav", _RATIO_HOURS, n_turns),
        (f"{_RATIO_HOURS:g} h as files of 10 s", "short", _RATIO_HOURS, n_turns),
        (f"{hours:g} h as one file", "long.wav", hours, 1),
    ]
    for system, source, length, turns in runs:
        taken = [run_weakaudio("detect", folder / source, "-o", folder / f"{source}-{n}.csv") for n in range(turns)]
        row = {"what": "long recording", "system": system, "data": about, "n": turns}
        speed = float(np.median([3600 * length / one.seconds for one in taken]))
        yield {**row, "metric": "times real time", "value": speed}
        yield {**row, "metric": "peak memory (MB)", "value": max(one.megabytes for one in taken), "n": 1}
    shutil.rmtree(folder / "short")
    for name in ("hour.wav", "long.wav"):
        (folder / name).unlink()


def _blocks(sounds: list[NDArray[Any]], rng: np.random.Generator, count: int) -> Iterator[NDArray[Any]]:
    """Stereo audio (N, 2): another pair of ambiences every ten seconds."""
    n = round(_BLOCK * _RATE)
    for _ in range(count):
        sides = []
        for _ in range(2):
            sound = sounds[rng.integers(len(sounds))]
            first = int(rng.integers(max(len(sound) - n, 0) + 1))
            sides.append(np.resize(sound[first : first + n], n) * 10 ** rng.uniform(-1, 0))
        yield np.stack(sides, 1)


def measure_broken(data: Path, work: Path, n_broken: int = 40, n_kills: int = 10) -> Iterator[Row]:
    """Real clips with broken files among them, embedded by runs that are killed, against one that is not."""
    folder = work / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for path in find_audio(data / "esc50-16k"):
        (clips / path.name).symlink_to(path.resolve())
    n_clips = len(list(clips.iterdir()))
    start = run_weakaudio("embed", min(clips.iterdir()), "-o", folder / "one" / "e.h5").seconds
    planted = plant(clips, n_broken)
    whole = run_weakaudio("embed", clips, "-o", folder / "whole" / "e.h5", expected=(3,))
    step = max(whole.seconds - start, 0) / (n_kills + 2)  # so that the work is not done before the last kill
    rng, killed = np.random.default_rng(0), 0
    arguments = ["embed", str(clips), "-o", str(folder / "killed" / "e.h5")]
    while killed < n_kills:
        process = subprocess.Popen([*_WEAKAUDIO, *arguments], stdout=subprocess.DEVNULL)
        try:
            process.wait(start + step * rng.uniform(0, 2))
            break  # it ended before all kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    run_weakaudio(*arguments, expected=(0, 3))

    runs = [folder / name for name in ("whole", "killed")]
    same = len({(run / "failures.csv").read_bytes() for run in runs}) == 1
    one, other = (read_embeddings(run / "e.h5") for run in runs)
    same &= one.paths == other.paths and np.array_equal(one.embeddings, other.embeddings)
    listed = pd.read_csv(folder / "whole" / "failures.csv")
    reasons = dict(zip(listed["path"], listed["reason"], strict=True))
    row = {"what": "broken files", "system": "weakaudio embed"}
    row["data"] = f"ESC-50, {n_clips} clips, and {n_broken} broken files of {len(KINDS)} kinds"
    right = sum(expected in reasons.get(name, "") for name, expected in planted.items())
    found = {"rows": len(one.paths), "failures listed": len(reasons), "with the right reason": right}
    found |= {"kills (SIGKILL)": killed, "same rows and failures after the kills": int(same)}
    yield from ({**row, "metric": metric, "value": value} for metric, value in found.items())


@command("field")
def main(
    data: Annotated[Path, "folder that holds backgrounds/ and esc50-16k/"],
    hours: Annotated[float, "length of the long recording"] = 10.0,
    part: Annotated[Sequence[Literal["long", "broken"]], "only this one"] = ("broken", "long"),
    work: Annotated[Path, "folder for recordings and results"] = Path("runs/field"),
) -> Iterator[Row]:
    """Measure the command line on a long recording and on broken files."""
    if "broken" in part:
        yield from measure_broken(data, work)
    if "long" in part:
        yield from measure_long(data, work, hours)


if __name__ == "__main__":
    raise SystemExit(main())
