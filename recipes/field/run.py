"""A day's work in the field, measured: a recording of many hours, and a folder with broken files whose run is killed.

python -m recipes.field.run --data ../shared/data              both
python -m recipes.field.run --data ../shared/data --hours 1    a shorter recording (a WAV of 10 hours is 7 GB)
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile as sf
from rich.console import Console

from recipes.field.broken import KINDS, plant
from recipes.results import ROOT, Row, record
from weakaudio.audio.io import find_audio, read_audio
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.progress import progress

_RATE = 48000
_PIECE = 10.0  # seconds
_RATIO_HOURS = 1.0  # of audio that is there as one recording and as short files
# A small process between, as the memory of the process that starts another counts for that one, too.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
_MAIN = "from weakaudio.cli import main; main()"


class Finished(NamedTuple):
    """What a process took."""

    seconds: float
    megabytes: float
    """of memory, at most (maximum resident set size)"""
    code: int


def run_weakaudio(*arguments: object) -> Finished:
    """Run the command line in a process of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", _MAIN, *map(str, arguments)]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *command], stdout=subprocess.PIPE, check=False)
    return Finished(time.perf_counter() - begun, int(done.stdout) / 1024, done.returncode)


# ---- a long recording --------------------------------------------------------------------------------------


def measure_long(data: Path, work: Path, hours: float, n_turns: int = 3) -> Iterator[Row]:
    """Detection in one recording of many hours, and in the same audio as one file of an hour and as short files."""
    folder = work / "long"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "short").mkdir(parents=True)
    sounds = [read_audio(path, _RATE)[0] for path in find_audio(data / "backgrounds")]
    rng = np.random.default_rng(0)
    pieces = round(_RATIO_HOURS * 3600 / _PIECE)
    with sf.SoundFile(folder / "hour.wav", "w", _RATE, 2, "PCM_16", format="RF64") as hour:
        for n, piece in enumerate(_pieces(sounds, rng, pieces)):
            hour.write(piece)
            sf.write(folder / "short" / f"{n:05d}.wav", piece, _RATE, "PCM_16")
    seconds = _RATIO_HOURS * 3600
    facts = {
        "what": "long recording",
        "data": f"{_RATE / 1000:g} kHz, stereo, 16 bit, mixed ambiences; detect to CSV",
    }
    for name, source in {"one file": "hour.wav", "files of 10 s": "short"}.items():
        taken = []
        for turn in range(n_turns):
            done = run_weakaudio("detect", folder / source, "-o", folder / f"{source}-{turn}.csv")
            assert done.code == 0
            taken.append(done)
        system = f"{_RATIO_HOURS:g} h as {name}"
        speeds = [seconds / one.seconds for one in taken]
        yield {
            **facts,
            "system": system,
            "metric": "times real time",
            "value": float(np.median(speeds)),
            "n": n_turns,
        }
        yield {**facts, "system": system, "metric": "peak memory (MB)", "value": max(one.megabytes for one in taken)}
    shutil.rmtree(folder / "short")

    path = folder / "long.wav"
    with sf.SoundFile(path, "w", _RATE, 2, "PCM_16", format="RF64") as file:
        total = round(hours * 3600 / _PIECE)
        for piece in progress(_pieces(sounds, rng, total), total, f"writing {hours:g} h"):
            file.write(piece)
    done = run_weakaudio("detect", path, "-o", folder / "long.csv")
    assert done.code == 0
    system = f"{hours:g} h as one file"
    yield {**facts, "system": system, "metric": "times real time", "value": hours * 3600 / done.seconds}
    yield {**facts, "system": system, "metric": "peak memory (MB)", "value": done.megabytes}
    path.unlink()
    (folder / "hour.wav").unlink()


def _pieces(sounds: list[np.ndarray], rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """(N, 2) stereo: another pair of ambiences every ten seconds."""
    n = round(_PIECE * _RATE)
    for _ in range(count):
        sides = []
        for _ in range(2):
            sound = sounds[rng.integers(len(sounds))]
            first = int(rng.integers(max(len(sound) - n, 0) + 1))
            sides.append(np.resize(sound[first : first + n], n) * 10 ** rng.uniform(-1, 0))
        yield np.stack(sides, 1)


# ---- broken files and kills --------------------------------------------------------------------------------


def measure_broken(data: Path, work: Path, n_broken: int = 40, n_kills: int = 10) -> Iterator[Row]:
    """Real clips with broken files among them, embedded by runs that are killed, against one that is not."""
    folder = work / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for path in find_audio(data / "esc50-16k"):
        (clips / path.name).symlink_to(path.resolve())
    n_clips = len(list(clips.iterdir()))
    planted = plant(clips, n_broken)

    start = run_weakaudio("embed", next(clips.glob("*.ogg")), "-o", folder / "one" / "e.h5").seconds
    whole = run_weakaudio("embed", clips, "-o", folder / "whole" / "e.h5")
    assert whole.code == 3, whole
    step = max(whole.seconds - start, 0) / (n_kills + 2)  # so that the work is not done before the last kill
    rng = np.random.default_rng(0)
    killed = 0
    while killed < n_kills:
        arguments = ["embed", str(clips), "-o", str(folder / "killed" / "e.h5")]
        process = subprocess.Popen([sys.executable, "-c", _MAIN, *arguments], stdout=subprocess.DEVNULL)
        try:
            process.wait(start + step * rng.uniform(0, 2))
            break  # it came to its end before all kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    run_weakaudio("embed", clips, "-o", folder / "killed" / "e.h5")

    runs = [folder / name for name in ("whole", "killed")]
    same = len({(run / "failures.csv").read_bytes() for run in runs}) == 1
    tables = [read_embeddings(run / "e.h5") for run in runs]
    same_rows = tables[0].paths == tables[1].paths and np.array_equal(tables[0].embeddings, tables[1].embeddings)
    listed = pd.read_csv(folder / "whole" / "failures.csv")
    reasons = dict(zip(listed["path"], listed["reason"], strict=True))
    right = sum(said in reasons.get(name, "") for name, said in planted.items())
    facts = {
        "what": "broken files",
        "system": "weakaudio embed",
        "data": f"ESC-50, {n_clips} clips, and {n_broken} broken files of {len(KINDS)} kinds",
    }
    yield {**facts, "metric": "rows", "value": len(tables[0].paths)}
    yield {**facts, "metric": "failures listed", "value": len(reasons)}
    yield {**facts, "metric": "with their true reason", "value": right}
    yield {**facts, "metric": "kills (SIGKILL)", "value": killed}
    yield {**facts, "metric": "same rows and failures after the kills", "value": float(same and same_rows)}


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.field.run", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder that holds backgrounds/ and esc50-16k/")
    parser.add_argument("--hours", type=float, default=10.0, help="of the long recording")
    parser.add_argument("--part", choices=["long", "broken"], action="append", help="only this one")
    parser.add_argument("--work", type=Path, default=Path("runs/field"))
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.field.run", *(sys.argv[1:] if args is None else args)])
    parts = given.part or ["broken", "long"]
    if "broken" in parts:
        _keep(measure_broken(given.data, given.work), command, root)
    if "long" in parts:
        _keep(measure_long(given.data, given.work, given.hours), command, root)


def _keep(rows: Iterator[Row], command: str, root: Path) -> None:
    for row in rows:
        record("field", [{**row, "command": command}], root)
        Console().print(f"{row['what']}, {row['system']}, {row['metric']}: {row['value']:.4g}")


if __name__ == "__main__":
    main()
