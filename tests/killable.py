"""Processes that a test starts and kills, forked from a server that has done the imports."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["weakaudio.training.fit", "weakaudio.batch.detect", "weakaudio.batch.embed"])


class Killable:
    """A process that runs `function(tell, *arguments)`; what it passes to `tell` is received here.

    The function belongs to a module, and may change whatever it likes there and elsewhere.
    """

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        self._receiver, sender = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_run, args=(function, sender, torch.get_num_threads(), arguments))
        self.process.start()
        sender.close()

    def receive(self) -> Any:
        """What the process tells next; EOFError if it has ended."""
        return self._receiver.recv()

    def kill(self) -> int | None:
        """Exit code, after SIGKILL; that of the process itself if it was over."""
        self.process.kill()
        return self.wait()

    def wait(self) -> int | None:
        """Exit code, once it has ended."""
        self.process.join()
        self._receiver.close()
        return self.process.exitcode


def wait_to_be_killed() -> None:
    time.sleep(3600)
    raise AssertionError(f"nobody killed process {os.getpid()}")


def _run(function: Callable[..., object], sender: Connection, threads: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    function(sender.send, *arguments)
