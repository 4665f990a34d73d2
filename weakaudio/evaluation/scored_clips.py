"""Scores of clips over time with their reference events, in the form that sed_scores_eval takes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sed_scores_eval.base_modules.scores import create_score_dataframe

from weakaudio.audio.geometry import timeline
from weakaudio.data.corpus import Corpus


class ScoredClips(NamedTuple):
    """Segment scores of clips and their reference events.

    Classes are named by their number, "0", "1", ..., since sed_scores_eval reserves some names ("onset",
    "macro_average").
    """

    frames: dict[str, pd.DataFrame]
    """by clip: onset, offset and a column of scores for each class (`score_frames`)"""
    references: dict[str, list[tuple[float, float, str]]]
    """by clip: onset, offset (seconds) and class (`reference_events`)"""
    seconds: dict[str, float]
    """by clip: its length"""

    def classes(self) -> list[str]:
        """Classes with reference events, in order."""
        return sorted({label for events in self.references.values() for *_, label in events}, key=int)

    def inputs(self, classes: Collection[str]) -> dict[str, Any]:
        """Scores and reference events of some classes, as arguments of sed_scores_eval's functions."""
        return {
            "scores": {key: table[["onset", "offset", *classes]] for key, table in self.frames.items()},
            "ground_truth": {key: [e for e in self.references[key] if e[2] in classes] for key in self.frames},
        }


def score_frames(scores: NDArray[np.floating], times: NDArray[np.floating]) -> pd.DataFrame:
    """Scores of a clip as frames that neither overlap nor leave a gap (`timeline`).

    Parameters
    ----------
    scores
        (S, C), of the segments.
    times
        (S, 2) start and end of the segments, in seconds.

    Returns
    -------
    One row a frame: onset, offset (seconds), and the scores of class "0", "1", ...
    """
    values, edges = timeline(scores, times)
    return _Frames(create_score_dataframe(values, edges, [str(n) for n in range(values.shape[1])]))


def reference_events(corpus: Corpus, keys: Collection[str]) -> dict[str, list[tuple[float, float, str]]]:
    """The strong labels of these clips as `ScoredClips.references`: merged, with numbered classes."""
    events = corpus.events()
    events = events[events["path"].isin(keys)]
    events = events.assign(label=[str(n) for n in corpus.label_set.indices(list(events["label"]))])
    return {**{key: [] for key in keys}, **{str(key): merge_events(rows) for key, rows in events.groupby("path")}}


def merge_events(events: pd.DataFrame) -> list[tuple[float, float, str]]:
    """Onset, offset and label of one clip's events; those of a class that touch or overlap are merged."""
    merged: list[tuple[float, float, str]] = []
    for label, rows in events.groupby("label"):
        for onset, offset in sorted(zip(rows["onset"], rows["offset"], strict=True)):
            if merged and merged[-1][2] == label and onset <= merged[-1][1]:
                onset, offset = merged[-1][0], max(merged.pop()[1], offset)
            merged.append((float(onset), float(offset), str(label)))
    return merged


class _Frames(pd.DataFrame):
    """Its array is a copy: that of pandas 3 is read-only, which sed_scores_eval 0.0.4 cannot take."""

    @property
    def _constructor(self) -> type[_Frames]:
        return _Frames

    def to_numpy(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        array: NDArray[Any] = super().to_numpy(*args, **kwargs).copy()
        return array
