"""A folder of recordings becomes one table of events; a run that is killed goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from weakaudio.inference.analysis import analyse_groups
from weakaudio.inference.detection import Detector, runs_of
from weakaudio.inference.event_files import check_names, find_format, write_events
from weakaudio.inference.event_page import write_event_page
from weakaudio.inference.excerpts import begin_of, cut_excerpts
from weakaudio.inference.recordings import Recording, find_recordings, printable
from weakaudio.inference.run import Engine, Summary, analyse_recordings, collect_failures, open_journal


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
) -> Summary:
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
        Of `weakaudio.inference.event_files`; None: as the name of `out` ends.
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
    found = find_recordings(source, include, exclude) if isinstance(source, str | Path) else (list(source), [])
    recordings, unseen = found
    check_names([*(own.name for own in recordings), *detector.model.labels], out, format)
    journal = open_journal(detector, out, overwrite)
    try:
        analyse_recordings(detector, recordings, journal, engine)
        done, seconds, failures = collect_failures(journal, recordings, unseen, out, source)
        lengths = {own.name: length for own, length, _ in journal.outcomes(done)}
        tables = []
        for own in done:
            events = detector.events_of(list(runs_of(journal.parts(own.name))), lengths[own.name])
            events.insert(0, "file", own.name)
            tables.append(events)
        table = pd.concat([events for events in tables if len(events)] or tables[:1], ignore_index=True)
        write_events(table, out, format, source if isinstance(source, str | Path) else None)
        if report is not None:
            begins = [begin_of(name) for name in lengths]
            about = pd.DataFrame({"file": list(lengths), "seconds": list(lengths.values()), "begin": begins})
            excerpts = cut_excerpts(detector, table, {own.name: own.path for own in done})
            write_event_page(report, table, about, failures, excerpts, f"Events in {_title(source)}")
        return Summary(out, len(done), seconds, len(table), "events", failures)
    finally:
        journal.close()


def _title(source: str | Path | Sequence[Recording]) -> str:
    return printable(Path(source).resolve().name) if isinstance(source, str | Path) else f"{len(source)} recordings"
