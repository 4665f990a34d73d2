"""A run over many recordings: resumed where it was, and whole at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weakaudio.batch.checkpoint import Outcome, RunCheckpoint
from weakaudio.batch.recordings import FAILURES, Recording, check_failures, write_failures
from weakaudio.batch.runner import Analysis, Task, analyse_groups, group_tasks
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.files import printable
from weakaudio.inference.windows import WINDOW_SECONDS
from weakaudio.progress import hours_done

Failures = list[tuple[str, str]]
Engine = Callable[[Analysis, Sequence[Sequence[Task]]], Iterator[list[Outcome]]]


@dataclass
class RunSummary:
    """What a run over recordings did."""

    out: Path
    n_files: int
    seconds: float
    """of audio in them"""
    n_rows: int
    what: str
    """that the rows are"""
    failures: Failures = field(default_factory=list)
    """path and reason of each recording that was left out"""

    def __str__(self) -> str:
        text = f"{self.n_rows} {self.what}, {self.n_files} files, {self.seconds / 3600:.2f} h -> {self.out}"
        left_out = f"; {len(self.failures)} left out, see {self.out.parent / FAILURES}"
        return text + (left_out if self.failures else "")


def journal_path(out: Path) -> Path:
    """Where what a run has found so far is kept, beside its output."""
    return out.with_name(f"{out.name}.journal")


def open_journal(
    analysis: Analysis, source: str | Path | Sequence[Recording], out: Path, overwrite: bool
) -> RunCheckpoint:
    """The journal of an output.

    Raises
    ------
    StoreError
        The output is there and not by a run over this source with these settings, and is not to be overwritten.
    WeakAudioError
        It cannot be written there.
    """
    path = journal_path(out)
    if out.exists() and not path.exists() and not overwrite:
        raise StoreError(f"{out}: is there already, of an unknown run; give another output, or --overwrite")
    check_writable(out)
    check_failures(out)
    # Recorders on one schedule give files of the same name, size and time: the folder tells them apart.
    where = printable(str(Path(source).resolve())) if isinstance(source, str | Path) else "a list"
    return RunCheckpoint(path, {**analysis.settings, "window_seconds": WINDOW_SECONDS, "source": where}, overwrite)


def check_writable(path: Path) -> None:
    """Find out before the work, not after it.

    Raises
    ------
    WeakAudioError
        No file can be written there.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise WeakAudioError(f"{path}: cannot be written ({error.strerror or error})") from error


def analyse_recordings(
    analysis: Analysis, recordings: Sequence[Recording], journal: RunCheckpoint, engine: Engine = analyse_groups
) -> None:
    """Bring a journal up to date: what is missing or has changed is analysed, and what is gone is forgotten."""
    journal.forget(list(recordings))
    done = journal.finished()
    groups = group_tasks(
        recordings, {one.name: journal.n_parts(one.name) for one in recordings if one.name not in done}
    )
    seconds = {task.recording.name: task.seconds for group in groups for task in group}
    heard = dict.fromkeys(seconds, 0.0)
    total = 0.0
    with hours_done(sum(seconds.values()), f"{len(seconds)} of {len(recordings)} files") as show:
        for outcomes in engine(analysis, groups):
            journal.add(outcomes)
            for outcome in outcomes:
                name = outcome.recording.name
                before, heard[name] = heard[name], seconds[name] if outcome.finished else outcome.seconds
                total += heard[name] - before
            show(total)


def collect_failures(
    journal: RunCheckpoint, recordings: Sequence[Recording], others: Failures, out: Path, source: object
) -> tuple[dict[Recording, float], Failures]:
    """The recordings that are done with their lengths in seconds, and the failures, which are listed beside `out`.

    Raises
    ------
    AudioError
        Nothing could be read.
    """
    outcomes = list(journal.outcomes(list(recordings)))
    failures = sorted([*others, *((own.name, reason) for own, _, reason in outcomes if reason is not None)])
    write_failures(failures, out)
    done = {own: seconds for own, seconds, reason in outcomes if reason is None}
    if not done:
        raise AudioError(f"{source}: none of its {len(recordings)} files can be read; see {out.parent / FAILURES}")
    return done, failures
