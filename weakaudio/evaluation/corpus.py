"""Evaluation of a model on a corpus: against weak labels and, where the corpus has them, strong labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from weakaudio.data.corpus import EVENTS, Corpus
from weakaudio.data.datamodule import ClipDataset, clip_loader
from weakaudio.errors import LabelError, ProtocolError
from weakaudio.evaluation.events import EventMetrics, f1_at_best_thresholds, save_metrics
from weakaudio.evaluation.psds import PSDS, psds_scores
from weakaudio.evaluation.scored_clips import ScoredClips, reference_events, score_frames
from weakaudio.evaluation.tagging import TaggingMetrics, per_class_metrics, tagging_metrics
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`."""

    clip: TaggingMetrics
    segment: EventMetrics | None
    """segment-based, segments of 1 s; None without strong labels or clips that choose thresholds"""
    event: EventMetrics | None
    """event-based, with collars of 0.2 s, and 20 % of the length at the offset; None as `segment`"""
    psds: PSDS | None
    """polyphonic sound detection scores; None where the clips have no strong labels"""
    per_class: pd.DataFrame
    """class, the columns of `per_class_metrics` and, where measured, threshold, precision, recall and f1 of segments
    and of events (`segment_f1`, `event_f1`, ...), psds1 and psds2 (the two scenarios); NaN where not defined"""
    facts: dict[str, Any]
    """checksum of the model, name of the corpus, and which clips"""
    audio_seconds: float
    """total length of the clips measured"""
    seconds: float
    """wall-clock time to read and score them; not saved, so that equal evaluations write equal files"""

    def save(self, folder: str | Path) -> None:
        """Write `metrics.json` and `per_class.csv` (`save_metrics`)."""
        f1 = {
            what: one and {"micro": one.micro.f1, "macro": one.macro.f1, "n_classes": one.n_classes}
            for what, one in (("segment", self.segment), ("event", self.event))
        }
        content = {**self.facts, "audio_seconds": self.audio_seconds, "clip": self.clip, **f1, "psds": self.psds}
        save_metrics(folder, content, self.per_class)


def evaluate(
    model: Model | str | Path,
    corpus: Corpus | str | Path,
    where: Mapping[str, object] = {"split": "test"},
    thresholds_from: Mapping[str, object] | None = {"split": "val"},
    batch_seconds: float = 160.0,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Measure a model on clips of a corpus.

    Parameters
    ----------
    model
        A model, its path or its name; left in evaluation mode, on `device`.
    corpus
        A prepared corpus or its folder, at the model's sample rate and with the model's classes in the same order.
        Where it has `events.csv`, localisation is measured as well: PSDS and, with thresholds, F1.
    where
        Column values that select the clips to measure.
    thresholds_from
        Column values that select the clips on which the threshold of each class is chosen (best F1); None measures
        no F1.
    batch_seconds
        Most audio in a batch.
    device
        None: where the model is.

    Raises
    ------
    LabelError
        The corpus has other classes than the model, or the same in another order.
    ProtocolError
        Another sample rate, clips in both `where` and `thresholds_from`, or nothing to measure.
    """
    model = model if isinstance(model, Model) else load_model(model)
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
    _check(model, corpus)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device).eval()
    strong = (corpus.root / EVENTS).is_file()
    if not strong:
        thresholds_from = None
    if thresholds_from is not None:
        shared = set(corpus.select(where)) & set(corpus.select(thresholds_from))
        if shared:
            raise ProtocolError(
                f"{corpus.root}: {len(shared)} clips are in {dict(where)} and in {dict(thresholds_from)}: "
                "thresholds would be judged by the clips that chose them; choose them on others, or pass "
                "thresholds_from=None to measure no F1"
            )
    began = time.perf_counter()
    test = _score(model, corpus, where, batch_seconds, device, strong)
    seconds = time.perf_counter() - began

    per_class = per_class_metrics(test.targets, test.scores)
    per_class.insert(0, "class", model.labels)
    segment = event = psds = None
    if thresholds_from is not None:
        val = _score(model, corpus, thresholds_from, batch_seconds, device, strong)
        f1 = f1_at_best_thresholds(val.clips, test.clips)
        if f1 is None:
            raise ProtocolError(
                f"{corpus.root}: no class has events both in the clips measured and in those that choose "
                "thresholds; pass thresholds_from=None to measure no F1"
            )
        segment, event, table = f1
        per_class = per_class.join(table)
    if strong and (found := psds_scores(test.clips)) is not None:
        psds, table = found
        per_class = per_class.join(table)
    return Evaluation(
        clip=tagging_metrics(test.targets, test.scores),
        segment=segment,
        event=event,
        psds=psds,
        per_class=per_class,
        facts={
            "model": model_checksum(model),
            "corpus": corpus.root.name,
            "where": dict(where),
            "thresholds_from": None if thresholds_from is None else dict(thresholds_from),
        },
        audio_seconds=test.audio_seconds,
        seconds=seconds,
    )


class _Scored(NamedTuple):
    targets: NDArray[np.float32]
    """(clips, C)"""
    scores: NDArray[np.float32]
    """(clips, C)"""
    audio_seconds: float
    clips: ScoredClips
    """empty unless `strong`"""


def _check(model: Model, corpus: Corpus) -> None:
    ours, theirs = model.labels, corpus.label_set.names
    if ours != theirs:
        n = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        detail = "" if n is None else f", class {n} is {ours[n]!r} in the model and {theirs[n]!r} in the corpus"
        raise LabelError(
            f"{corpus.root}: its {len(theirs)} classes are not the model's {len(ours)} in order{detail}; "
            "train or fine-tune a model on the classes of this corpus"
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
    strong: bool,
) -> _Scored:
    """Score clips and, with `strong`, keep segment scores and reference events."""
    dataset = ClipDataset(corpus, dict(where))
    scores = np.zeros((len(dataset), len(model.labels)), dtype=np.float32)
    keys = [corpus.store.keys[n] for n in dataset.positions]
    seconds = (dataset.n_samples / model.sample_rate).tolist()
    frames: dict[str, pd.DataFrame] = {}
    for batch in clip_loader(dataset, batch_seconds):
        output = model(batch.waveform.to(device), batch.lengths.to(device))
        scores[batch.clips] = output.clip_probs.cpu()
        if not strong:
            continue
        probs, mask = output.segment_logits.float().sigmoid().cpu().numpy(), output.score_mask.cpu().numpy()
        for n, clip, inside in zip(batch.clips.tolist(), probs, mask, strict=True):
            frames[keys[n]] = score_frames(clip[inside], model.score_times(int(dataset.n_samples[n])))
    references = reference_events(corpus, keys) if strong else {}
    clips = ScoredClips(frames, references, dict(zip(keys, seconds, strict=True)))
    return _Scored(dataset.targets.astype(np.float32), scores, sum(seconds), clips)
