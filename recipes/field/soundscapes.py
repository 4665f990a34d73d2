"""Detection in soundscapes of real events by the shipped model with a head for their classes, thresholds from
validation only.

python -m recipes.field.soundscapes --corpus runs/soundscapes/corpus
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from recipes.results import ROOT, Row, record
from weakaudio.audio.io import resample
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.events import evaluate_events, f1_at_best_thresholds
from weakaudio.evaluation.psds import psds_scores
from weakaudio.evaluation.scored_clips import ScoredClips, reference_events, score_frames
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import Audio, Embedder
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, save_model
from weakaudio.progress import progress

_C = 0.03  # of the logistic regression; chosen on the validation clips' mAP among 0.01, 0.03, 0.1 and 0.3


def clips_of(corpus: Corpus, positions: Sequence[int], sample_rate: int) -> Iterator[Audio]:
    """Clips of a corpus at another rate."""
    for n in progress(positions, len(positions), f"reading {len(positions)} clips"):
        yield resample(corpus.store.audio(n), corpus.store.sample_rate, sample_rate)


def train_head(model: Model, X: NDArray[np.floating], targets: NDArray[np.integer], labels: list[str]) -> Model:
    """A copy of a model for other classes, each by logistic regression on the (n, D) mean embeddings of clips.

    `targets` are the (n, C) weak labels. The network must have a head of one layer, and score a clip by its mean
    embedding.
    """
    scaler = StandardScaler().fit(X)
    classifier = OneVsRestClassifier(LogisticRegression(C=_C, max_iter=1000)).fit(scaler.transform(X), targets)
    weight = np.stack([one.coef_[0] for one in classifier.estimators_]) / scaler.scale_
    bias = np.array([one.intercept_[0] for one in classifier.estimators_]) - weight @ scaler.mean_
    network = copy.deepcopy(model.network)
    network.reset_classifier(len(labels))
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(weight))
        network.classifier.bias.copy_(torch.from_numpy(bias))
    return Model(network, model.front_end, labels, model.metadata).eval()


def strong_clips(model: Model, corpus: Corpus, split: str) -> ScoredClips:
    """Scores of the clips of a split over time, beside their truth."""
    embedder = Embedder(model, "f2")
    positions = corpus.select({"split": split})
    frames, seconds = {}, {}
    for n, clip in zip(positions, clips_of(corpus, positions, model.sample_rate), strict=True):
        (found,) = embedder.embed_clips([clip])
        key = corpus.store.keys[n]
        frames[key], seconds[key] = score_frames(found.segments, found.times), len(clip) / model.sample_rate
    return ScoredClips(frames, reference_events(corpus, frames.keys()), seconds)


def detected(detector: Detector, corpus: Corpus, split: str) -> pd.DataFrame:
    """The table of events that `weakaudio detect` gives for the clips of a split."""
    positions = corpus.select({"split": split})
    tables = []
    for n, clip in zip(positions, clips_of(corpus, positions, detector.model.sample_rate), strict=True):
        events = detector.detect_array(clip, detector.model.sample_rate).events
        tables.append(events.assign(file=corpus.store.keys[n]))
    return pd.concat(tables, ignore_index=True)


def measure(corpus: Corpus, name: str, work: Path) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    began = load_model(name)
    positions = corpus.select({"split": "train"})
    embedder = Embedder(began)
    X = np.stack([embedder.embed_clips([clip])[0].clip for clip in clips_of(corpus, positions, began.sample_rate)])
    model = train_head(began, X, corpus.targets(positions), list(corpus.label_set.names))
    work.mkdir(parents=True, exist_ok=True)
    save_model(model, work / "soundscapes.safetensors")

    val, test = (strong_clips(model, corpus, split) for split in ("val", "test"))
    f1, psds = f1_at_best_thresholds(val, test), psds_scores(test)
    assert f1 is not None
    assert psds is not None
    segment, event, table = f1
    n_classes = len(model.labels)
    facts = {
        "what": "soundscapes",
        "system": f"{name}, head by logistic regression",
        "data": f"{len(test.frames)} test clips of {n_classes} classes; head from {len(positions)} weakly labelled "
        f"clips, thresholds from {len(val.frames)} others",
    }
    yield {**facts, "metric": "PSDS 1", "value": psds[0].scenario1}
    yield {**facts, "metric": "PSDS 2", "value": psds[0].scenario2}
    yield {**facts, "metric": "segment F1 (macro)", "value": segment.macro.f1}
    yield {**facts, "metric": "event F1 (macro)", "value": event.macro.f1}
    yield {**facts, "metric": "event F1 (micro)", "value": event.micro.f1}

    best = zip(table.index.tolist(), table["event_threshold"].tolist(), strict=True)
    thresholds = {model.labels[n]: min(value, 1.0) for n, value in best}
    found = detected(Detector(model, thresholds), corpus, "test")
    truth = corpus.events().rename(columns={"path": "file", "onset": "start", "offset": "end"})
    truth = truth[truth["file"].isin(test.frames)].assign(score=1.0)
    again = evaluate_events(found, truth, test.seconds, labels=list(thresholds))
    yield {**facts, "metric": "event F1 (micro) of `Detector`'s events", "value": again.event.micro.f1}


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.field.soundscapes", description=__doc__)
    parser.add_argument("--corpus", required=True, type=Path, help="soundscapes, as recipes/soundscapes makes them")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--work", type=Path, default=Path("runs/field"))
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.field.soundscapes", *(sys.argv[1:] if args is None else args)])
    for row in measure(Corpus(given.corpus), given.model, given.work):
        record("field", [{**row, "command": command}], root)
        Console().print(f"{row['system']}, {row['metric']}: {row['value']:.3f}")


if __name__ == "__main__":
    main()
