"""`weakaudio transfer`: clips with folds become vectors, a cross-validated classifier and its scores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from weakaudio import __version__
from weakaudio.audio.io import read_audio
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import ProtocolError
from weakaudio.files import write_table
from weakaudio.pretrained import load_model
from weakaudio.transfer.adapted import HEARD, cross_validate_adapted
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import FoldScores, check_split, cross_validate
from weakaudio.transfer.features import EmbeddingTransformer, LogMelStatistics

STATISTICS = "logmel-statistics"  # the name under which `model` means no network at all
SCORES, PREDICTIONS = "scores.json", "predictions.csv"

Features = EmbeddingTransformer | LogMelStatistics


def transfer(
    manifest: str | Path,
    out: str | Path,
    model: str = "untrained-16k",
    layer: str = "f1",
    pooling: str = "mean",
    classifier: str = "linear-svm",
    allow_shared_sources: bool = False,
    adapt: str | None = None,
    heard: str = "nothing",
) -> FoldScores:
    """Embed the clips of a manifest, cross-validate a classifier over its folds, write the scores.

    A clip that cannot be read ends the run: over fewer clips it would be another figure.

    Parameters
    ----------
    manifest
        CSV with the columns `path`, `labels` (one class a clip), `fold` and, if known, `source`.
    out
        Folder for `scores.json` and `predictions.csv`.
    model
        Path or name of a model, or "logmel-statistics" (which has neither layer nor pooling).
    layer, pooling
        As of `EmbeddingTransformer`.
    classifier
        A name from `weakaudio.transfer.classifiers.CLASSIFIERS`.
    allow_shared_sources
        As of `cross_validate`.
    adapt
        A preset: the network is first adapted on the other folds, anew for each fold, and embeds then.
    heard
        With `adapt`: transductive use of a fold's audio, as of `cross_validate_adapted`.

    Raises
    ------
    ManifestError, ProtocolError
        The manifest does not hold what the protocol needs.
    CheckpointError, AudioError
        The model or a clip cannot be read.
    """
    arguments = {
        "manifest": str(manifest),
        "model": model,
        "layer": layer,
        "pooling": pooling,
        "classifier": classifier,
        "allow_shared_sources": allow_shared_sources,
        "adapt": adapt,
        "heard": heard,
    }
    clips = read_manifest(manifest)
    features = LogMelStatistics() if model == STATISTICS else EmbeddingTransformer(model, layer, pooling)
    if adapt is None:
        scores = cross_validate_manifest(clips, features, classifier, allow_shared_sources)
    else:
        if isinstance(features, LogMelStatistics):
            raise ProtocolError(f"{STATISTICS} is no network, so nothing can be adapted; name a model")
        scores = _cross_validate_adapted(clips, features, classifier, allow_shared_sources, adapt, heard)
    write_scores(scores, clips, features, out, arguments)
    return scores


def cross_validate_manifest(
    clips: Manifest, features: Features, classifier: str = "linear-svm", allow_shared_sources: bool = False
) -> FoldScores:
    """Fit `features`, compute the vectors of all clips once, and cross-validate a classifier by name on them.

    Raises
    ------
    ProtocolError
        No column `fold`, a clip without exactly one label, or folds that `check_split` refuses.
    WeakAudioError
        No such classifier, model or front end, or a clip that cannot be read.
    """
    estimator, table, y = build_classifier(classifier), clips.table, _classes(clips)
    sources = table.get("source")
    check_split(y, table["fold"], sources, allow_shared_sources)
    X = features.fit_transform(clips.paths)
    return cross_validate(estimator, X, y, table["fold"], sources, allow_shared_sources)


def _cross_validate_adapted(
    clips: Manifest,
    features: EmbeddingTransformer,
    classifier: str,
    allow_shared_sources: bool,
    preset: str,
    heard: str,
) -> FoldScores:
    if heard not in HEARD:  # before clips are read
        raise ProtocolError(f"heard {heard!r}: unknown; there are {', '.join(HEARD)}")
    table, y = clips.table, _classes(clips)
    sources = list(table["source"]) if "source" in table else None
    check_split(y, table["fold"], sources, allow_shared_sources)
    features.fit(clips.paths)
    model = load_model(features.model)
    audio = [read_audio(path, model.sample_rate)[0] for path in clips.paths]
    found = cross_validate_adapted(
        model,
        audio,
        y,
        table["fold"],
        preset,
        sources=sources,
        allow_shared_sources=allow_shared_sources,
        layer=features.layer,
        pooling=features.pooling,
        classifier=classifier,
        heard=[heard],
    )
    return found[heard, "embedding"]


def _classes(clips: Manifest) -> list[str]:
    """The one class of each clip of a manifest with folds."""
    table = clips.table
    if "fold" not in table:
        raise ProtocolError(f"{clips.root}: its manifest has no column 'fold', e.g. 1 to 5")
    for path, labels in zip(table["path"], table["labels"], strict=True):
        if len(labels) != 1:
            raise ProtocolError(f"{clips.root / path}: has the labels {labels}, one is needed")
    return [labels[0] for labels in table["labels"]]


def write_scores(
    scores: FoldScores, clips: Manifest, features: Features, out: str | Path, arguments: dict[str, Any]
) -> None:
    """Write `predictions.csv` (path, fold, label, predicted) and `scores.json`, beside first, then renamed.

    Parameters
    ----------
    scores, clips, features
        What `cross_validate_manifest` returned and was given.
    out
        Folder; made if it is not there.
    arguments
        What the caller asked for, to be recorded.
    """
    out = Path(out)
    table = clips.table
    label = [labels[0] for labels in table["labels"]]
    columns = {"path": table["path"], "fold": table["fold"], "label": label, "predicted": scores.predictions}
    write_table(pd.DataFrame(columns), out / PREDICTIONS)
    content = {
        "weakaudio": __version__,
        "arguments": arguments,
        "features": {"name": type(features).__name__, **features.get_params(), **features.origin_},
        "n_clips": len(table),
        "n_features": features.n_features_out_,
        "accuracy": {"mean": scores.mean, "std": scores.std, "std_is": "sample standard deviation"},
        "folds": [
            {"fold": fold, "n_clips": int((table["fold"] == fold).sum()), "accuracy": accuracy}
            for fold, accuracy in scores.accuracies.items()
        ],
        "shared_sources": list(scores.shared_sources),
        "classes": scores.classes.tolist(),
        "confusion": scores.confusion.tolist(),
    }
    beside = out / f".{SCORES}.part"
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    os.replace(beside, out / SCORES)
