"""A folder of recordings becomes one table of events; a run that is killed goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from weakaudio.batch.recordings import Recording, find_recordings
from weakaudio.batch.run import (
    Engine,
    Failures,
    RunSummary,
    analyse_recordings,
    check_writable,
    collect_failures,
    open_journal,
)
from weakaudio.batch.runner import analyse_groups
from weakaudio.files import printable
from weakaudio.formats.events import check_output, find_format, write_events
from weakaudio.inference.detector import Detector, runs_of
from weakaudio.inference.postprocess import Run, event_table


def detect_folder(
    detector: Detector,
    source: str | Path | Sequence[Recording],
    out: str | Path,
    format: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    engine: Engine = analyse_groups,
    report: str | Path | None = None,
) -> RunSummary:
    """Detect in all audio below a folder, sorted by path, and write one table of events; or in a single recording.

    Recordings that cannot be read are left out and listed, with the reason, in failures.csv beside `out`. What is
    found is kept in `out`.journal as it is found: a run that was killed goes on, and a later one does what is new or
    has changed. The journal may be deleted.

    Parameters
    ----------
    detector
        Decides model, thresholds and lengths.
    source
        Searched with all folders below it; or the path of one recording; or recordings.
    out
        One row an event: file (relative to the folder), start, end (seconds), label, score; sorted by file, then
        by start.
    format
        Of `weakaudio.formats.events`; None: as the name of `out` ends.
    include, exclude
        As for `find_recordings`.
    overwrite
        Begin anew where `out` is of a run with another model or other settings.
    engine
        What analyses the recordings: here, or on a cluster.
    report
        HTML page to write, on which events are sorted, filtered, seen and heard.

    Raises
    ------
    AudioError
        No audio below the folder, or none that can be read.
    StoreError
        `out` is of another run.
    WeakAudioError
        `out` has no known format, or cannot be written.
    """
    out = Path(out)
    find_format(out, format)
    recordings, unseen = find_recordings(source, include, exclude)
    folder = source if isinstance(source, str | Path) else None
    check_output([own.name for own in recordings], detector.model.labels, out, format, folder)
    if report is not None:
        check_writable(Path(report))
    journal = open_journal(detector, source, out, overwrite)
    try:
        analyse_recordings(detector, recordings, journal, engine)
        done, failures = collect_failures(journal, recordings, unseen, out, source)
        events: list[Run] = []
        files: list[str] = []
        for own, seconds in done.items():
            here = detector.join_runs(list(runs_of(journal.parts(own.name))), seconds)
            events += here
            files += [own.name] * len(here)
        table = event_table(events, detector.model.labels)
        table.insert(0, "file", pd.Series(files, dtype=str))
        write_events(table, out, format, folder)
        if report is not None:
            _write_report(Path(report), detector, table, done, failures, _title(source))
        return RunSummary(out, len(done), sum(done.values()), len(table), "events", failures)
    finally:
        journal.close()


def _write_report(
    path: Path, detector: Detector, table: pd.DataFrame, done: dict[Recording, float], failures: Failures, title: str
) -> None:
    from weakaudio.reports.event_page import write_event_page  # it loads matplotlib
    from weakaudio.reports.excerpts import begin_of, cut_excerpts

    about = pd.DataFrame(
        {
            "file": [own.name for own in done],
            "seconds": list(done.values()),
            "begin": [begin_of(own.name) for own in done],
        }
    )
    excerpts = cut_excerpts(detector, table, {own.name: own.path for own in done})
    write_event_page(path, table, about, failures, excerpts, f"Events in {title}")


def _title(source: str | Path | Sequence[Recording]) -> str:
    return printable(Path(source).resolve().name) if isinstance(source, str | Path) else f"{len(source)} recordings"
