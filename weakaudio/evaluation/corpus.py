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

from weakaudio.data.corpus import EVENTS, Corpus
from weakaudio.data.datamodule import ClipDataset, clip_loader
from weakaudio.errors import LabelError, ProtocolError
from weakaudio.evaluation.localisation import (
    F1,
    PSDS,
    StrongClips,
    f1_scores,
    psds_scores,
    score_frames,
    strong_truth,
)
from weakaudio.evaluation.tagging import TaggingMetrics, per_class_metrics, tagging_metrics
from weakaudio.files import write_table
from weakaudio.networks.model import Model
from weakaudio.pretrained import model_checksum

METRICS, PER_CLASS = "metrics.json", "per_class.csv"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    clip: TaggingMetrics
    segment: F1 | None
    """segment-based F1, segments of 1 s; None without strong truth or clips that choose thresholds"""
    event: F1 | None
    """event-based F1, with collars of 0.2 s and 20 % of the length at the offset; None as `segment`"""
    psds: PSDS | None
    """polyphonic sound detection scores; None where no event of the clips is known"""
    per_class: pd.DataFrame
    """class, the columns of `per_class_metrics` and, where measured, threshold, f1, precision and recall of
    segments and of events, psds1 and psds2 (of the two scenarios); NaN where not defined"""
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
            "psds": self.psds and self.psds._asdict(),
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
        `events.csv`, localisation is measured as well: PSDS and, with thresholds, F1.
    where
        Column values that select the clips to measure.
    thresholds_from
        Those of the clips on which each class's threshold is chosen (best F1); None measures no F1.
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
    test = _score(model, corpus, where, batch_seconds, device, segments=strong)
    seconds = time.perf_counter() - began

    per_class = per_class_metrics(test.targets, test.scores)
    per_class.insert(0, "class", model.labels)
    segment = event = psds = None
    if strong:
        heard = _strong(corpus, test)
        if thresholds_from is not None:
            val = _score(model, corpus, thresholds_from, batch_seconds, device, segments=True)
            f1 = f1_scores(_strong(corpus, val), heard)
            if f1 is None:
                raise ProtocolError(
                    f"{corpus.root}: no class has events both in the clips measured and in those that choose "
                    "thresholds; pass thresholds_from=None to measure no F1"
                )
            segment, event, table = f1
            per_class = per_class.join(table)
        if (found := psds_scores(heard)) is not None:
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
            "thresholds_from": dict(thresholds_from) if thresholds_from is not None else None,
        },
        audio_seconds=sum(test.seconds.values()),
        seconds=seconds,
    )


class _Scored(NamedTuple):
    targets: NDArray[np.float32]
    """(clips, C)"""
    scores: NDArray[np.float32]
    """(clips, C)"""
    seconds: dict[str, float]
    """of each clip, by its key"""
    frames: dict[str, pd.DataFrame]
    """of each clip (`score_frames`); or none"""


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
    frames: dict[str, pd.DataFrame] = {}
    for batch in clip_loader(dataset, batch_seconds):
        output = model(batch.waveform.to(device), batch.lengths.to(device))
        scores[batch.clips] = output.clip_probs.cpu()
        if not segments:
            continue
        probs, mask = output.segment_logits.float().sigmoid().cpu().numpy(), output.mask.cpu().numpy()
        for n, own, inside in zip(batch.clips.tolist(), probs, mask, strict=True):
            frames[keys[n]] = score_frames(own[inside], model.segment_times(int(dataset.n_samples[n])))
    lengths = (dataset.n_samples / model.sample_rate).tolist()
    return _Scored(dataset.targets.astype(np.float32), scores, dict(zip(keys, lengths, strict=True)), frames)


def _strong(corpus: Corpus, scored: _Scored) -> StrongClips:
    return StrongClips(scored.frames, strong_truth(corpus, scored.frames.keys()), scored.seconds)


def _finite(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
