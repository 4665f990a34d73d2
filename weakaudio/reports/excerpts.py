"""Excerpts of events for their HTML report: audio, log-mel and scores of the highest-scoring ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd
import torch

from weakaudio.audio.io import read_audio
from weakaudio.batch.runner import RunSummary
from weakaudio.errors import AudioError
from weakaudio.inference.detector import Detector
from weakaudio.inference.windows import Window
from weakaudio.progress import progress
from weakaudio.reports.event_page import Excerpt, write_event_page

N_EXCERPTS = 150
_CONTEXT = 2.0  # seconds before and after an event
_MAX_SECONDS = 10.0  # length of an excerpt

_CLOCK = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})[_T -]+(\d{2})[:h-]?(\d{2})[:m-]?(\d{2})(?!\d)")


def write_run_page(path: str | Path, detector: Detector, summary: RunSummary, title: str) -> None:
    """Write the report of a `detect_folder` run: a table of its events with excerpts, and a timeline."""
    names, seconds = [recording.name for recording in summary.recordings], list(summary.recordings.values())
    recordings = pd.DataFrame({"file": names, "seconds": seconds, "begin": [begin_of(name) for name in names]})
    paths = {recording.name: recording.path for recording in summary.recordings}
    excerpts = cut_excerpts(detector, summary.events, paths)
    write_event_page(path, summary.events, recordings, summary.failures, excerpts, title)


def choose_events(events: pd.DataFrame, most: int = N_EXCERPTS) -> list[int]:
    """Choose the positions of `most` events: the best of each class, then the second best, and so on."""
    place = events.groupby("label")["score"].rank(method="first", ascending=False)
    order = pd.DataFrame({"place": place, "score": -events["score"]}).reset_index(drop=True)
    return order.sort_values(["place", "score"], kind="stable").index[:most].tolist()


def cut_excerpts(detector: Detector, events: pd.DataFrame, paths: Mapping[str, Path]) -> dict[int, Excerpt]:
    """Cut excerpts of the best events of a table, by their position; files that cannot be read are skipped.

    Scores are computed from the excerpt alone, so near its ends they lack the context of the recording.
    """
    chosen = choose_events(events)
    found = {}
    for n in progress(chosen, len(chosen), f"cutting {len(chosen)} excerpts"):
        event = events.iloc[n]
        start = max(float(event["start"]) - _CONTEXT, 0.0)
        seconds = min(float(event["end"]) + _CONTEXT - start, _MAX_SECONDS)
        try:
            found[n] = _excerpt(detector, paths[event["file"]], str(event["label"]), start, seconds)
        except AudioError:
            continue
    return found


@torch.inference_mode()
def _excerpt(detector: Detector, path: Path, label: str, start: float, seconds: float) -> Excerpt:
    model = detector.model
    audio, rate = read_audio(path, model.sample_rate, start, seconds)
    (scores,) = detector.score([Window(audio)])
    values = scores.probs[:, model.labels.index(label)]
    logmel = model.logmel(torch.from_numpy(audio)[None].to(detector.device))[0][0].cpu().numpy()
    return Excerpt(audio, rate, start, logmel, values, scores.edges + start)


def begin_of(name: str) -> str | None:
    """Parse the start time (ISO 8601) from a recorder's file name, e.g. 20240501_053000.WAV; None if it has none."""
    found = _CLOCK.search(Path(name).name)
    if not found:
        return None
    try:
        return datetime(*map(int, found.groups())).isoformat()  # type: ignore[arg-type]
    except ValueError:  # not a valid date
        return None
