"""Cross-validation of adapted networks: nothing about a fold is known when its network is made, but its audio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from weakaudio.data.sampling import bucket
from weakaudio.inference.embedding import Audio, Embedder, find_device, stack
from weakaudio.networks.model import Model
from weakaudio.transfer.adapt import Practice, Preset, adapt
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.folds import FoldScores, Protocol
from weakaudio.transfer.transductive import minimise_entropy, reestimate_norms

# What may be done with the audio of a fold before it is scored: nothing, `reestimate_norms`, `minimise_entropy`.
HEARD = ("nothing", "norms", "entropy")


def cross_validate_adapted(
    model: Model,
    clips: Sequence[Audio],
    y: ArrayLike,
    folds: ArrayLike,
    preset: str | Preset = "I",
    practice: Practice | None = None,
    sources: Sequence[str] | None = None,
    allow_shared_sources: bool = False,
    layer: str = "f1",
    pooling: str = "max",
    classifier: str = "linear-svm",
    heard: str = "nothing",
    device: str = "cpu",
) -> dict[str, FoldScores]:
    """Adapt a network on all folds but one, and so for each; score its embeddings and its own head.

    Parameters
    ----------
    model
        The network that is adapted anew for each fold.
    clips
        n recordings (N,) at its `sample_rate`.
    y, folds, sources, allow_shared_sources
        As of `cross_validate_folds`.
    preset, practice, device
        As of `adapt`.
    layer, pooling, classifier
        Of the adapted network's embeddings, and what is trained on those of the other folds, as the paper does.
    heard
        Transductive use of the fold's audio, a name of `HEARD`; its classes are never known.

    Returns
    -------
    Scores by "embedding" (and classifier), and by "head" (the adapted network's likeliest class).

    Raises
    ------
    ProtocolError
        As `cross_validate_folds` and `adapt`.
    """
    protocol = Protocol(y, folds, sources, allow_shared_sources)
    by_embedding, by_head = {}, {}
    for fold in protocol:
        classes = np.unique(fold.y)
        targets = (fold.y[:, None] == classes).astype(np.float32)
        train, test = [clips[n] for n in fold.train], [clips[n] for n in fold.test]
        own = None if sources is None else [sources[n] for n in fold.train]
        adapted = adapt(model, train, targets, [str(name) for name in classes], preset, practice, own, device)
        if heard == "norms":
            adapted = reestimate_norms(adapted, test, device=device)
        elif heard == "entropy":
            adapted = minimise_entropy(adapted, test, device=device)
        embedder = Embedder(adapted, layer, pooling, device)
        X, unseen = (np.stack([found.clip for found in embedder.embed_clips(part)]) for part in (train, test))
        by_embedding[fold.name] = build_classifier(classifier).fit(X, fold.y).predict(unseen)
        by_head[fold.name] = classes[clip_probs(embedder.model, test, device).argmax(1)]
    return {"embedding": protocol.score(by_embedding), "head": protocol.score(by_head)}


@torch.inference_mode()
def clip_probs(
    model: Model, clips: Sequence[Audio], device: str = "cpu", batch_seconds: float = 20.0
) -> NDArray[np.float32]:
    """(n, C) clip probabilities of recordings (N,) at the model's `sample_rate`."""
    place = find_device(device)
    found = np.empty((len(clips), len(model.labels)), dtype=np.float32)
    for batch in bucket([len(clip) for clip in clips], int(batch_seconds * model.sample_rate)):
        found[batch] = model(*stack([clips[n] for n in batch], place)).clip_probs.cpu().numpy()
    return found
