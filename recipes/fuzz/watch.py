"""Reading in other processes, which may crash or hang: they are watched, and replaced."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from recipes.fuzz.mutations import Input, make_input

Check = Callable[[str, Path, Path, tuple[str, ...]], str]

FAULTS = ("crash", "hang", "exception", "wrong")


class WrongError(Exception):
    """Read without an error, and not what was written, or nothing that could have been."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to make its inputs and read them."""

    seeds: dict[str, list[str]]
    """paths by kind, relative to `folder`"""
    folder: Path
    """with the seeds"""
    seed: int
    check: Check
    """of `recipes.fuzz.checks`; reads one input"""
    patience: float = 10.0
    """seconds after which a worker without an answer hangs"""
    headroom: int = 2**30
    """bytes of address space that reading may take beside what a worker has when it is ready (Linux)"""

    def contents(self) -> dict[str, bytes]:
        """The seeds, by path."""
        return {path: (self.folder / path).read_bytes() for paths in self.seeds.values() for path in paths}


@dataclass(frozen=True)
class Answer:
    """What became of an input."""

    number: int
    outcome: str
    """"refused", "read", or one of `FAULTS`"""
    seconds: float
    report: str = ""
    """of a fault: the traceback, or what the worker said last"""


def watch(job: Job, inputs: int, scratch: Path, workers: int = 1) -> Iterator[Answer]:
    """Have inputs 0 .. `inputs` - 1 read, each once; answers come as they are ready.

    Parameters
    ----------
    scratch
        A folder for the workers' copies of the seeds.

    Raises
    ------
    RuntimeError
        A worker dies before its first input.
    """
    numbers = iter(range(inputs))
    crew = [_Worker(job, scratch / str(n)) for n in range(min(workers, inputs))]
    try:
        while crew:
            wait([worker.connection for worker in crew], timeout=0.2)
            for worker in list(crew):
                answer = worker.answer()
                if answer is not None:
                    yield answer
                if worker.idle and not worker.take(next(numbers, None)):
                    crew.remove(worker)
                    worker.stop()
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """A process that reads inputs one after the other, seen from outside."""

    def __init__(self, job: Job, scratch: Path) -> None:
        self.job, self.scratch, self.log = job, scratch, scratch.with_suffix(".log")
        self._number: int | None = None
        self._start()

    @property
    def idle(self) -> bool:
        return self._ready and self._number is None

    def take(self, number: int | None) -> bool:
        """Begin with an input; False if there is none."""
        if number is not None:
            self._number, self._since = number, time.monotonic()
            self.connection.send(number)
        return number is not None

    def answer(self) -> Answer | None:
        """What there is to tell, if anything; after a crash or a hang a fresh process has taken over."""
        try:
            if self.connection.poll():
                answer: Answer | None = self.connection.recv()
                self._ready, self._number = True, None
                return answer
        except (EOFError, ConnectionResetError):
            return self._lost("crash")
        if self._number is not None and time.monotonic() - self._since > self.job.patience:
            return self._lost("hang")
        return None

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _start(self) -> None:
        self._ready, self._since = False, 0.0
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.job.folder, self.scratch)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.connection: Connection = ours
        self._process = context.Process(target=_serve, args=(self.job, self.scratch, self.log, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def _lost(self, outcome: str) -> Answer:
        number, seconds, self._number = self._number, time.monotonic() - self._since, None
        if outcome == "hang":
            os.kill(self._process.pid or 0, signal.SIGABRT)  # so that faulthandler says where
            self._process.join(2)
        self.stop()
        code = self._process.exitcode
        said = self.log.read_text(errors="replace")[-5000:]
        if number is None:
            raise RuntimeError(f"a worker died before its first input (exit code {code}): {said}")
        self._start()
        return Answer(number, outcome, seconds, f"exit code {code}\n{said}")


def _serve(job: Job, scratch: Path, log: Path, connection: Connection) -> None:
    """The work of a process: read whole seeds, say that it is ready, then answer for each number that comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who watches ends us
    output = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    contents = job.contents()
    for kind, paths in job.seeds.items():
        for path in paths:
            outcome = job.check(kind, scratch / path, job.folder / path, ())
            if outcome != "read":
                raise RuntimeError(f"{path}: {outcome}, and is whole")
    _limit_memory(job.headroom)
    connection.send(None)
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        os.ftruncate(output, 0)
        made = make_input(job.seeds, contents, number, job.seed)
        (scratch / made.path).write_bytes(made.content)
        connection.send(_read(job, scratch, number, made))
        (scratch / made.path).write_bytes(contents[made.path])


def _read(job: Job, scratch: Path, number: int, made: Input) -> Answer:
    start = time.monotonic()
    report = ""
    try:
        outcome = job.check(made.kind, scratch / made.path, job.folder / made.path, made.changes)
    except Exception as error:
        outcome = "wrong" if isinstance(error, WrongError) else "exception"
        report = traceback.format_exc()
    return Answer(number, outcome, time.monotonic() - start, report)


def _limit_memory(headroom: int) -> None:
    """Let the process grow by `headroom` bytes of address space and no more, where the system can tell its size."""
    sizes = Path("/proc/self/statm")
    if sizes.is_file():
        limit = int(sizes.read_text().split()[0]) * resource.getpagesize() + headroom
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
