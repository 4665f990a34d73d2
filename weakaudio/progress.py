"""How far long work is, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass items on and show a bar with `what` before it; it goes when the work is done or interrupted."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=what)


@contextmanager
def hours_done(seconds: float, what: str) -> Iterator[Callable[[float], None]]:
    """Show a bar of hours of audio, of `seconds` in all; call what it gives with the seconds done so far."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]:.2f} of {task.fields[hours]:.2f} h"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=seconds, done=0.0, hours=seconds / 3600)

        def show(done: float) -> None:
            bar.update(task, completed=done, done=done / 3600)

        yield show
