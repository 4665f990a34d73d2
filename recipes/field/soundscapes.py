"""Detection in soundscapes of real events by the shipped model with a head for their classes, thresholds from
validation only.

    python -m recipes.field.soundscapes --corpus runs/soundscapes/corpus
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from recipes.command import command
from recipes.results import Row
from weakaudio.audio import Waveform
from weakaudio.audio.io import resample
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.events import evaluate_events, f1_at_best_thresholds
from weakaudio.evaluation.psds import psds_scores
from weakaudio.evaluation.scored_clips import ScoredClips, reference_events, score_frames
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.progress import progress

_C = 0.03  # of the logistic regression; chosen by the validation clips' mAP among 0.01, 0.03, 0.1 and 0.3


def clips_of(corpus: Corpus, split: str, sample_rate: int) -> Iterator[tuple[str, Waveform]]:
    """Paths and clips of a split, resampled."""
    positions = corpus.select({"split": split})
    for n in progress(positions, len(positions), f"reading {len(positions)} clips"):
        yield corpus.store.keys[n], resample(corpus.store.audio(n), corpus.store.sample_rate, sample_rate)


def train_head(model: Model, X: NDArray[np.floating], targets: NDArray[np.integer], labels: list[str]) -> Model:
    """A copy of a model for other classes, each by logistic regression on the mean embeddings (n, D) of clips.

    `targets` are the weak labels (n, C). The network must have a head of one layer, and score a clip by its mean
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
    """Scores over time of the clips of a split, with their truth."""
    embedder, frames, seconds = Embedder(model, "f2"), {}, {}
    for key, clip in clips_of(corpus, split, model.sample_rate):
        (found,) = embedder.embed_clips([clip])
        frames[key], seconds[key] = score_frames(found.segments, found.times), len(clip) / model.sample_rate
    return ScoredClips(frames, reference_events(corpus, frames.keys()), seconds)


def detected(detector: Detector, corpus: Corpus, split: str) -> pd.DataFrame:
    """Events that `weakaudio detect` gives for the clips of a split."""
    rate = detector.model.sample_rate
    clips = clips_of(corpus, split, rate)
    return pd.concat([detector.detect_array(x, rate).events.assign(file=key) for key, x in clips], ignore_index=True)


@command("field")
def main(
    corpus: Annotated[Path, "soundscapes, as recipes/soundscapes makes them"],
    model: Annotated[str, "whose embeddings are used, by name or path"] = DEFAULT_MODEL,
    work: Annotated[Path, "folder for the model with the new head"] = Path("runs/field"),
) -> Iterator[Row]:
    """Measure detection in soundscapes of real events."""
    sounds, start = Corpus(corpus), load_model(model)
    embedder, positions = Embedder(start), sounds.select({"split": "train"})
    X = np.stack([embedder.embed_clips([clip])[0].clip for _, clip in clips_of(sounds, "train", start.sample_rate)])
    trained = train_head(start, X, sounds.targets(positions), list(sounds.label_set.names))
    save_model(trained, work / "soundscapes.safetensors")

    val, test = (strong_clips(trained, sounds, split) for split in ("val", "test"))
    f1, psds = f1_at_best_thresholds(val, test), psds_scores(test)
    assert f1 is not None
    assert psds is not None
    segment, event, table = f1
    best = zip(table.index.tolist(), table["event_threshold"].tolist(), strict=True)
    thresholds = {trained.labels[n]: min(value, 1.0) for n, value in best}
    found = detected(Detector(trained, thresholds), sounds, "test")
    truth = sounds.events().rename(columns={"path": "file", "onset": "start", "offset": "end"})
    truth = truth[truth["file"].isin(test.frames)].assign(score=1.0)
    again = evaluate_events(found, truth, test.seconds, labels=list(thresholds))
    row = {"what": "soundscapes", "system": f"{model}, head by logistic regression"}
    row["data"] = (
        f"{len(test.frames)} test clips of {len(trained.labels)} classes; head from {len(positions)} weakly labelled "
        f"clips, thresholds from {len(val.frames)} others"
    )
    figures = {
        "PSDS 1": psds[0].scenario1,
        "PSDS 2": psds[0].scenario2,
        "segment F1 (macro)": segment.macro.f1,
        "event F1 (macro)": event.macro.f1,
        "event F1 (micro)": event.micro.f1,
        "event F1 (micro) of `Detector`'s events": again.event.micro.f1,
    }
    yield from ({**row, "metric": metric, "value": value} for metric, value in figures.items())


if __name__ == "__main__":
    raise SystemExit(main())
