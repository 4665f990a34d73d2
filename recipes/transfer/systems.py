"""The lines of the tables: references, frozen networks, and networks fine-tuned fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.command import run_name
from recipes.transfer.corpora import Corpus
from weakaudio.audio import Waveform
from weakaudio.audio.io import read_audio
from weakaudio.data.manifest import Manifest
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.model import Model
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.command import cross_validate_manifest
from weakaudio.transfer.cross_validate_networks import ADAPTATIONS, cross_validate_fine_tuned
from weakaudio.transfer.cross_validation import FoldProtocol, FoldScores, cross_validate
from weakaudio.transfer.estimators import EmbeddingTransformer, LogMelStatistics
from weakaudio.transfer.fine_tune import FineTuneConfig
from weakaudio.transfer.transductive import self_train, spread_labels

Found = Iterator[tuple[str, FoldScores]]


def spread(X: NDArray[Any], y: NDArray[Any], unseen: NDArray[Any]) -> NDArray[Any]:
    """Classes spread over 10 neighbours, or over twice as many, and so on, until every clip is reached."""
    n_neighbors = 10
    while True:
        try:
            return spread_labels(X, y, unseen, n_neighbors)
        except ProtocolError:
            if n_neighbors > len(X):
                raise
            n_neighbors *= 2


JUDGES: dict[str, Callable[[Any, Any, Any], NDArray[Any]]] = {
    "label spreading": spread,
    "self-training": self_train,
}
_EDGE = 1e-7  # probabilities nearer to 0 or 1 have no finite logit


def references(corpus: Corpus, manifest: Manifest) -> Found:
    """What any trained network has to beat."""
    statistics = LogMelStatistics(corpus.front_end)
    scores = cross_validate_manifest(manifest, statistics, "rbf-svm", allow_shared_sources=True)
    yield f"log-mel statistics ({corpus.front_end}), RBF SVM", scores
    for name in corpus.untrained:
        features = EmbeddingTransformer(name)
        yield f"N_S {name}, F1 mean", cross_validate_manifest(manifest, features, allow_shared_sources=True)


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, and the clips of a corpus at its rate."""

    name: str
    """in the table"""
    model: Model
    clips: list[Waveform]
    facts: dict[str, Any]
    """y, folds and sources, as `cross_validate` takes them"""

    @classmethod
    def open(cls, model: str, manifest: Manifest) -> Subject:
        """Load a model by its name or path, and read the clips."""
        opened, table = load_model(model), manifest.table
        sources = list(table["source"]) if "source" in table else None
        facts = {"y": [labels[0] for labels in table["labels"]], "folds": table["fold"], "sources": sources}
        clips = [read_audio(path, opened.sample_rate)[0] for path in manifest.paths]
        return cls(run_name(model), opened, clips, {**facts, "allow_shared_sources": True})


def frozen(subject: Subject) -> Found:
    """Embeddings of the network as it is, under a linear SVM and under transductive classifiers."""
    found = Embedder(subject.model, "f1+f2", "mean+max").embed_clips(subject.clips)
    wide, n = np.stack([one.clip for one in found]), subject.model.network.n_features
    mean, top = np.hsplit(wide, 2)
    probs = np.clip(mean[:, n:], _EDGE, 1 - _EDGE)
    features = {
        "F1 mean": mean[:, :n],
        "F1 max": top[:, :n],
        "F2 mean": mean[:, n:],
        "F2 max": top[:, n:],
        "F1 mean and logits": np.hstack([mean[:, :n], np.log(probs / (1 - probs))]),
    }
    for name, X in features.items():
        yield f"{subject.name}, {name}", cross_validate(build_classifier("linear-svm"), X, **subject.facts)
    protocol = FoldProtocol(**subject.facts)
    for judge, predict in JUDGES.items():
        predicted = {fold.name: predict(mean[fold.train, :n], fold.y, mean[fold.test, :n]) for fold in protocol}
        yield f"{subject.name}, F1 mean, {judge} (transductive)", protocol.score(predicted)


def fine_tuned(subject: Subject, presets: Sequence[str], config: FineTuneConfig) -> Found:
    """The network fine-tuned on the other folds: its embedding under a linear SVM, as in the paper, and its own head.

    With preset II, which trains all layers, also transductive uses of the fold's audio.
    """
    for preset in presets:
        uses = list(ADAPTATIONS) if preset == "II" else ["nothing"]
        scores = cross_validate_fine_tuned(
            subject.model, subject.clips, preset=preset, config=config, adaptations=uses, **subject.facts
        )
        for use in uses:
            how = f"{subject.name}, fine-tuned ({preset})" + ("" if use == "nothing" else f", {use} (transductive)")
            yield f"{how}, F1 max", scores[use, "embedding"]
            yield f"{how}, own head", scores[use, "head"]
