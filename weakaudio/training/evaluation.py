"""How good a model is on a corpus: against weak labels and, where it is known, against the strong truth."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sed_scores_eval import collar_based, segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from weakaudio.data.corpus import EVENTS, Corpus
from weakaudio.data.dataset import ClipDataset, clip_loader
from weakaudio.data.manifest import write_table
from weakaudio.errors import LabelError, ProtocolError
from weakaudio.networks.model import Model
from weakaudio.pretrained import model_checksum
from weakaudio.training.metrics import TaggingMetrics, per_class_metrics, tagging_metrics

METRICS, PER_CLASS = "metrics.json", "per_class.csv"

SEGMENT_SECONDS = 1.0  # of segment-based F1, as in the DCASE challenges
COLLAR = 0.2  # of event-based F1, for the onset; for the offset at least this, or
COLLAR_RATE = 0.2  # this part of the event's length

_DECIMALS = 6  # of times in seconds: floating point may not tell apart what is one sample


class F1(NamedTuple):
    """Agreement with the strong truth, at a threshold for each class that was chosen on other clips."""

    micro: float
    """from the counts of all classes together, in [0, 1]"""
    macro: float
    """mean over classes, in [0, 1]"""
    n_classes: int
    """classes measured: with events both in the clips measured and in those that chose the thresholds"""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    clip: TaggingMetrics
    segment: F1 | None
    """segment-based F1, segments of 1 s; None where the strong truth is not known"""
    event: F1 | None
    """event-based F1, with collars of 0.2 s and 20 % of the length at the offset"""
    per_class: pd.DataFrame
    """class, ap, auc, positives (clips) and, with strong truth, threshold, f1, precision and recall of
    segments and of events; NaN where not defined"""
    facts: dict[str, Any]
    """what was evaluated on what: checksum of the model, corpus, and which clips"""
    audio_seconds: float
    """of the clips measured"""
    seconds: float
    """of wall clock to read and score them; not saved, so that equal evaluations write equal files"""

    def save(self, folder: str | Path) -> None:
        """Write `metrics.json` and `per_class.csv`, beside first and then renamed into place."""
        folder = Path(folder)
        write_table(self.per_class, folder / PER_CLASS)
        content = {
            **self.facts,
            "audio_seconds": self.audio_seconds,
            "clip": self.clip._asdict(),
            "segment": self.segment and self.segment._asdict(),
            "event": self.event and self.event._asdict(),
        }
        beside = folder / f".{METRICS}.part"
        beside.write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, folder / METRICS)


def evaluate(
    model: Model,
    corpus: Corpus,
    where: Mapping[str, object] = {"split": "test"},
    thresholds_from: Mapping[str, object] | None = {"split": "val"},
    batch_seconds: float = 160.0,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Measure a model on clips of a corpus.

    Parameters
    ----------
    model
        Comes back in evaluation mode, on `device`.
    corpus
        Prepared at the model's sample rate, with the model's classes in the model's order. Where it has
        `events.csv`, localisation is measured as well.
    where
        Column values that select the clips to measure.
    thresholds_from
        Those of the clips on which each class's threshold is chosen (best F1); None measures no localisation.
    batch_seconds
        Most audio in a batch.
    device
        None leaves the model where it is.

    Raises
    ------
    LabelError
        The corpus has other classes than the model, or the same in another order.
    ProtocolError
        Another sample rate, clips in both `where` and `thresholds_from`, or nothing to measure.
    """
    _check(model, corpus)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device).eval()
    known = thresholds_from is not None and (corpus.root / EVENTS).is_file()
    if known:
        assert thresholds_from is not None
        shared = set(corpus.select(where)) & set(corpus.select(thresholds_from))
        if shared:
            raise ProtocolError(
                f"{corpus.root}: {len(shared)} clips are in {dict(where)} and in {dict(thresholds_from)}: "
                "thresholds would be judged by the clips that chose them; choose them on others, or pass "
                "thresholds_from=None to measure clips only"
            )
    began = time.perf_counter()
    test = _score(model, corpus, where, batch_seconds, device, segments=known)
    seconds = time.perf_counter() - began

    per_class = per_class_metrics(test.targets, test.scores)
    per_class.insert(0, "class", model.labels)
    segment = event = None
    if known:
        assert thresholds_from is not None
        val = _score(model, corpus, thresholds_from, batch_seconds, device, segments=True)
        segment, event, table = _localisation(corpus, len(model.labels), val, test)
        per_class = per_class.join(table)
    return Evaluation(
        clip=tagging_metrics(test.targets, test.scores),
        segment=segment,
        event=event,
        per_class=per_class,
        facts={
            "model": model_checksum(model),
            "corpus": corpus.root.name,
            "where": dict(where),
            "thresholds_from": dict(thresholds_from) if known and thresholds_from else None,
        },
        audio_seconds=sum(test.seconds.values()),
        seconds=seconds,
    )


def timeline(
    scores: NDArray[np.floating], times: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of overlapping segments become scores of pieces that follow each other.

    Time is cut wherever a segment starts or ends, and a piece's score is the mean over the segments that
    cover it. The mean, not the maximum: of the two segments over a piece beside an event only one holds the
    event, so the mean is lower there than inside the event, while the maximum would make each event longer by
    a hop at both ends.

    Parameters
    ----------
    scores
        (S, C) probabilities of the segments.
    times
        (S, 2) start and end of each, in seconds, without a gap between them (as `Model.segment_times`).

    Returns
    -------
    pieces, edges
        (P, C) scores, and (P + 1,) seconds: piece p lasts from edges[p] to edges[p + 1].
    """
    times = np.round(times, _DECIMALS)
    edges = np.unique(times)
    middles = (edges[:-1] + edges[1:]) / 2
    covers = (times[:, 0] <= middles[:, None]) & (middles[:, None] < times[:, 1])  # (P, S)
    return covers @ np.asarray(scores, dtype=np.float64) / covers.sum(1, keepdims=True), edges


def merge_events(events: pd.DataFrame) -> list[tuple[float, float, str]]:
    """Onset, offset and label of one clip's events, those of a class that touch or overlap made one."""
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


class _Scored(NamedTuple):
    targets: NDArray[np.float32]
    """(clips, C)"""
    scores: NDArray[np.float32]
    """(clips, C)"""
    seconds: dict[str, float]
    """of each clip, by its key"""
    frames: dict[str, pd.DataFrame]
    """of each clip: onset, offset, scores of class "0", "1", ... as sed_scores_eval takes them; or none"""


def _check(model: Model, corpus: Corpus) -> None:
    ours, theirs = model.labels, corpus.label_set.names
    if ours != theirs:
        n = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        detail = "" if n is None else f", class {n} is {ours[n]!r} in the model and {theirs[n]!r} in the corpus"
        raise LabelError(
            f"{corpus.root}: its {len(theirs)} classes are not the model's {len(ours)} in order{detail}; "
            "train or adapt a model to the classes of this corpus"
        )
    if corpus.store.sample_rate != model.sample_rate:
        raise ProtocolError(
            f"{corpus.root}: clips at {corpus.store.sample_rate} Hz, the model's front end takes "
            f"{model.sample_rate} Hz; prepare the corpus at that rate"
        )


@torch.inference_mode()
def _score(
    model: Model,
    corpus: Corpus,
    where: Mapping[str, object],
    batch_seconds: float,
    device: torch.device,
    segments: bool,
) -> _Scored:
    dataset = ClipDataset(corpus, dict(where))
    scores = np.zeros((len(dataset), len(model.labels)), dtype=np.float32)
    keys = [corpus.store.keys[n] for n in dataset.positions]
    classes = _names(range(len(model.labels)))
    frames: dict[str, pd.DataFrame] = {}
    for batch in clip_loader(dataset, batch_seconds):
        output = model(batch.waveform.to(device), batch.lengths.to(device))
        scores[batch.clips] = output.clip_probs.cpu()
        if not segments:
            continue
        probs, mask = output.segment_logits.float().sigmoid().cpu().numpy(), output.mask.cpu().numpy()
        for n, own, inside in zip(batch.clips.tolist(), probs, mask, strict=True):
            pieces, edges = timeline(own[inside], model.segment_times(int(dataset.n_samples[n])))
            frames[keys[n]] = _Frames(create_score_dataframe(pieces, edges, classes))
    lengths = (dataset.n_samples / model.sample_rate).tolist()
    return _Scored(dataset.targets, scores, dict(zip(keys, lengths, strict=True)), frames)


def _localisation(corpus: Corpus, n_classes: int, val: _Scored, test: _Scored) -> tuple[F1, F1, pd.DataFrame]:
    """Segment-based and event-based F1 by sed_scores_eval, and its part of the table of classes."""
    events = corpus.events()
    events = events[events["path"].isin(val.frames.keys() | test.frames.keys())]
    # Names by number: to sed_scores_eval some names have a meaning of their own ("onset", "macro_average").
    events = events.assign(label=_names(corpus.label_set.indices(list(events["label"]))))
    truth = {str(key): merge_events(rows) for key, rows in events.groupby("path")}
    present = [{event[2] for key in part.frames for event in truth.get(key, [])} for part in (val, test)]
    classes = [name for name in _names(range(n_classes)) if name in present[0] & present[1]]
    if not classes:
        raise ProtocolError(
            f"{corpus.root}: no class has events both in the clips measured and in those that choose "
            "thresholds; pass thresholds_from=None to measure clips only"
        )

    def measured(part: _Scored) -> dict[str, Any]:
        return {
            "scores": {key: table[["onset", "offset", *classes]] for key, table in part.frames.items()},
            "ground_truth": {key: [e for e in truth.get(key, []) if e[2] in classes] for key in part.frames},
        }

    segments: dict[str, Any] = {"segment_length": SEGMENT_SECONDS}
    segment, segment_table = _f1(
        segment_based,
        {**measured(val), **segments, "audio_durations": val.seconds},
        {**measured(test), **segments, "audio_durations": test.seconds},
    )
    collars = {"onset_collar": COLLAR, "offset_collar": COLLAR, "offset_collar_rate": COLLAR_RATE}
    event, event_table = _f1(collar_based, {**measured(val), **collars}, {**measured(test), **collars})
    table = segment_table.add_prefix("segment_").join(event_table.add_prefix("event_"))
    return segment, event, table


def _f1(measure: Any, val: dict[str, Any], test: dict[str, Any]) -> tuple[F1, pd.DataFrame]:
    """F1 on `test` at the thresholds best on `val`, and the figures of each class, indexed by its number."""
    _, _, _, best, _ = measure.best_fscore(**val)
    # Where it is best to detect everything, the threshold is minus infinity; 0 does the same.
    thresholds = {name: max(float(threshold), 0.0) for name, threshold in best.items()}
    f1, precision, recall, _ = measure.fscore(threshold=thresholds, **test)
    columns = {"threshold": thresholds, "f1": f1, "precision": precision, "recall": recall}
    table = pd.DataFrame({title: [values[n] for n in thresholds] for title, values in columns.items()})
    table.index = pd.Index([int(name) for name in thresholds])
    return F1(float(f1["micro_average"]), float(f1["macro_average"]), len(thresholds)), table


def _names(indices: Any) -> list[str]:
    return [str(n) for n in indices]


def _finite(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
