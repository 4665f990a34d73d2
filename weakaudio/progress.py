"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items and show a bar labelled `what`, which disappears at the end or when interrupted."""
    with _bar(MofNCompleteColumn()) as bar:
        yield from bar.track(items, total=total, description=what)


@contextmanager
def hours_done(seconds: float, what: str) -> Iterator[Callable[[float], None]]:
    """Show a bar in hours of audio, `seconds` in total; yields a function to call with the seconds done so far."""
    with _bar(TextColumn("{task.fields[done]:.2f} of {task.fields[hours]:.2f} h")) as bar:
        task = bar.add_task(what, total=seconds, done=0.0, hours=seconds / 3600)

        def show(done: float) -> None:
            bar.update(task, completed=done, done=done / 3600)

        yield show


def _bar(count: ProgressColumn) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
