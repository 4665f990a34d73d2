"""A folder of recordings becomes one table of events: scores are kept on disk, and events are made from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from weakaudio.batch.checkpoint import Arrays, RunCheckpoint
from weakaudio.batch.recordings import Recording, find_recordings
from weakaudio.batch.runner import (
    AnalyseGroups,
    RunSummary,
    analyse_groups,
    analyse_recordings,
    collect_outcomes,
    open_checkpoint,
)
from weakaudio.formats.events import check_output, find_format, write_events
from weakaudio.inference.detector import Detector
from weakaudio.inference.postprocess import SCORE_LEVELS, Scores
from weakaudio.inference.windows import Window

_SCORE_FLOOR = 0.01  # classes that stay below it throughout a window are not kept


class ScoreAnalysis:
    """Turns windows into class scores, compact: 16 bits a score, and only classes that reach the score floor.

    Parameters
    ----------
    detector
        Its scores are kept. The floor is 0.01 or, for thresholds below that, 0.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector, self.model, self.context = detector, detector.model, detector.context
        lowest = float(detector.post_processing.low_thresholds.min())
        self.settings: dict[str, Any] = {
            "job": "detect",
            **detector.score_settings,
            "score_floor": _SCORE_FLOOR if lowest >= _SCORE_FLOOR else 0.0,
        }

    def analyse(self, windows: Sequence[Window]) -> list[Arrays]:
        return [self._pack(scores) for scores in self.detector.score(windows)]

    def _pack(self, scores: Scores) -> Arrays:
        classes = np.flatnonzero((scores.probs >= self.settings["score_floor"]).any(0))
        values = np.rint(scores.probs[:, classes] * SCORE_LEVELS).astype(np.uint16)
        return {"edges": scores.edges, "values": values, "classes": classes.astype(np.int32)}

    def unpack(self, parts: Iterator[Arrays]) -> Iterator[Scores]:
        """The scores of a recording from what was kept of its windows; 0 for classes below the floor."""
        for part in parts:
            values = np.zeros((len(part["values"]), len(self.model.labels)), np.float32)
            values[:, part["classes"]] = (part["values"] / SCORE_LEVELS).astype(np.float32)
            yield Scores(values, part["edges"])


def detect_folder(
    detector: Detector,
    source: str | Path | Sequence[Recording],
    out: str | Path,
    format: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    engine: AnalyseGroups = analyse_groups,
) -> RunSummary:
    """Detect events in all audio below a folder, sorted by path, and write one table; or in a single recording.

    Recordings that cannot be read are listed, with the reason, in failures.csv beside `out`. Scores are kept in
    `out`.journal as they are found: a killed run resumes, a later one analyses what is new or has changed, and other
    thresholds, lengths or formats need no analysis. The folder may be moved in between. The journal may be deleted.

    Parameters
    ----------
    detector
        Model, thresholds and lengths.
    source
        A folder, searched with all folders below it; the path of one recording; or a list of recordings.
    out
        Table with one row an event: file (relative to the folder), start, end (seconds), label, score; sorted by
        file, then by start.
    format
        A format of `weakaudio.formats.events`; None: by the suffix of `out`.
    include, exclude
        As for `find_recordings`.
    overwrite
        Start again if `out` was made with another model or other score settings.
    engine
        Analyses the recordings: on this machine, or on a cluster (`weakaudio.batch.ray`).

    Raises
    ------
    AudioError
        No audio below the folder, or none that can be read.
    StoreError
        `out` was made with other settings, or from another folder.
    WeakAudioError
        The format of `out` is unknown, or it cannot be written.
    """
    out = Path(out)
    find_format(out, format)
    recordings, unreadable = find_recordings(source, include, exclude)
    folder = source if isinstance(source, str | Path) else None
    check_output([own.name for own in recordings], detector.model.labels, out, format, folder)
    analysis = ScoreAnalysis(detector)
    with open_checkpoint(analysis, source, out, overwrite) as checkpoint:
        analysis.settings = checkpoint.settings  # an earlier run may have kept scores above a lower floor
        analyse_recordings(analysis, recordings, checkpoint, engine)
        done, failures = collect_outcomes(checkpoint, recordings, unreadable, out, source)
        table = _events(analysis, checkpoint, done)
    write_events(table, out, format, folder)
    return RunSummary(out, done, len(table), "events", failures, table)


def _events(analysis: ScoreAnalysis, checkpoint: RunCheckpoint, done: dict[Recording, float]) -> pd.DataFrame:
    """The table of events of all recordings, from their kept scores."""
    tables = []
    for own, seconds in done.items():
        table = analysis.detector.events(analysis.unpack(checkpoint.parts(own.name)), seconds)
        table.insert(0, "file", pd.Series([own.name] * len(table), dtype=str))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
