"""`weakaudio transfer`: cross-validate a classifier of embeddings over the folds of a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weakaudio import __version__
from weakaudio.audio.io import read_audio
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import ProtocolError
from weakaudio.files import atomic_write, write_table
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validate_networks import ADAPTATIONS, cross_validate_fine_tuned
from weakaudio.transfer.cross_validation import FoldProtocol, FoldScores, cross_validate
from weakaudio.transfer.estimators import EmbeddingTransformer, LogMelStatistics

STATISTICS = "logmel-statistics"  # given as `model`: log-mel statistics instead of a network
SCORES, PREDICTIONS = "scores.json", "predictions.csv"


def transfer(
    manifest: str | Path,
    out: str | Path,
    model: str = DEFAULT_MODEL,
    layer: str = "f1",
    pooling: str = "mean",
    classifier: str = "linear-svm",
    allow_shared_sources: bool = False,
    preset: str | None = None,
    adaptation: str = "nothing",
) -> FoldScores:
    """Embed the clips of a manifest, cross-validate a classifier over its folds, and write the scores.

    A clip that cannot be read ends the run, as scores over fewer clips are not comparable.

    Parameters
    ----------
    manifest
        CSV with the columns `path`, `labels` (one class for each clip), `fold` and, if known, `source`.
    out
        Folder for `scores.json` and `predictions.csv` (path, fold, label, predicted).
    model
        Path or name of a model, or "logmel-statistics" (which has neither layer nor pooling).
    layer, pooling
        See `EmbeddingTransformer`.
    classifier
        A name in `weakaudio.transfer.classifiers.CLASSIFIERS`.
    allow_shared_sources
        See `cross_validate`.
    preset
        A name in `PRESETS` (`weakaudio.transfer.fine_tune`): for each fold, first fine-tune the network on the rest.
    adaptation
        With `preset`: transductive adaptation to the audio of the test fold, a name in `ADAPTATIONS`.

    Raises
    ------
    ManifestError, ProtocolError
        The manifest lacks what the protocol needs.
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
        "adapt": preset,
        "heard": adaptation,
    }
    clips = read_manifest(manifest)
    features = LogMelStatistics() if model == STATISTICS else EmbeddingTransformer(model, layer, pooling)
    if preset is None:
        scores = cross_validate_manifest(clips, features, classifier, allow_shared_sources)
    elif isinstance(features, LogMelStatistics):
        raise ProtocolError(f"{STATISTICS} is not a network and cannot be fine-tuned; name a model")
    else:
        scores = _cross_validate_fine_tuned(clips, features, classifier, allow_shared_sources, preset, adaptation)
    _write_scores(scores, clips, features, Path(out), arguments)
    return scores


def cross_validate_manifest(
    clips: Manifest,
    features: EmbeddingTransformer | LogMelStatistics,
    classifier: str = "linear-svm",
    allow_shared_sources: bool = False,
) -> FoldScores:
    """Fit `features`, compute the vectors of all clips once, and cross-validate a classifier by name on them.

    Raises
    ------
    ProtocolError
        No column `fold`, a clip without exactly one label, or folds that `FoldProtocol` refuses.
    WeakAudioError
        Unknown classifier, model or front end, or a clip that cannot be read.
    """
    estimator, table, y = build_classifier(classifier), clips.table, _classes(clips)
    sources = table.get("source")
    FoldProtocol(y, table["fold"], sources, allow_shared_sources)  # refuses unfit folds before clips are read
    X = features.fit_transform(clips.paths)
    return cross_validate(estimator, X, y, table["fold"], sources, allow_shared_sources)


def _cross_validate_fine_tuned(
    clips: Manifest,
    features: EmbeddingTransformer,
    classifier: str,
    allow_shared_sources: bool,
    preset: str,
    adaptation: str,
) -> FoldScores:
    if adaptation not in ADAPTATIONS:  # before clips are read
        raise ProtocolError(f"adaptation {adaptation!r}: unknown; there are {', '.join(ADAPTATIONS)}")
    table, y = clips.table, _classes(clips)
    sources = list(table["source"]) if "source" in table else None
    FoldProtocol(y, table["fold"], sources, allow_shared_sources)  # refuses unfit folds before clips are read
    features.fit(clips.paths)
    model = load_model(features.model)
    audio = [read_audio(path, model.sample_rate)[0] for path in clips.paths]
    found = cross_validate_fine_tuned(
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
        adaptations=[adaptation],
    )
    return found[adaptation, "embedding"]


def _classes(clips: Manifest) -> list[str]:
    """List the one class of each clip of a manifest with folds."""
    table = clips.table
    if "fold" not in table:
        raise ProtocolError(f"{clips.root}: its manifest has no column 'fold', e.g. 1 to 5")
    for path, labels in zip(table["path"], table["labels"], strict=True):
        if len(labels) != 1:
            raise ProtocolError(f"{clips.root / path}: has the labels {labels}, expected exactly one")
    return [labels[0] for labels in table["labels"]]


def _write_scores(
    scores: FoldScores,
    clips: Manifest,
    features: EmbeddingTransformer | LogMelStatistics,
    out: Path,
    arguments: dict[str, Any],
) -> None:
    table = clips.table
    predictions = table[["path", "fold"]].assign(label=_classes(clips), predicted=scores.predictions)
    write_table(predictions, out / PREDICTIONS)
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
    with atomic_write(out / SCORES) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
