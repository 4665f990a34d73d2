"""Cross-validation of adapted networks: nothing about a fold is known when its network is made, but its audio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from weakaudio.data.sampling import bucket
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Audio, Embedder
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, stack
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import FoldScores, Protocol
from weakaudio.transfer.fine_tune import FineTuneConfig, Preset, adapt
from weakaudio.transfer.transductive import minimise_entropy, reestimate_norms

# What may be done with the audio of a fold before it is scored.
HEARD: dict[str, Callable[[Model, Sequence[Audio], str], Model]] = {
    "nothing": lambda model, clips, device: model,
    "norms": lambda model, clips, device: reestimate_norms(model, clips, device=device),
    "entropy": lambda model, clips, device: minimise_entropy(model, clips, device=device),
}


def cross_validate_adapted(
    model: Model,
    clips: Sequence[Audio],
    y: ArrayLike,
    folds: ArrayLike,
    preset: str | Preset = "I",
    practice: FineTuneConfig | None = None,
    sources: Sequence[str] | None = None,
    allow_shared_sources: bool = False,
    layer: str = "f1",
    pooling: str = "max",
    classifier: str = "linear-svm",
    heard: Sequence[str] = ("nothing",),
    device: str = "cpu",
) -> dict[tuple[str, str], FoldScores]:
    """Adapt a network on all folds but one, and so for each; score its embeddings and its own head.

    Parameters
    ----------
    model
        The network that is adapted anew for each fold.
    clips
        n recordings (N,) at its `sample_rate`.
    y, folds, sources, allow_shared_sources
        As of `cross_validate`.
    preset, practice, device
        As of `adapt`.
    layer, pooling, classifier
        Of the adapted network's embeddings, and what is trained on those of the other folds, as the paper does.
    heard
        Transductive uses of the fold's audio, names of `HEARD`, each of the same adapted network; its classes are
        never known.

    Returns
    -------
    Scores by what was heard and "embedding" (and classifier), and by what was heard and "head" (the adapted network's
    likeliest class).

    Raises
    ------
    ProtocolError
        As `cross_validate` and `adapt`, or an unknown name in `heard`.
    """
    unknown = [use for use in heard if use not in HEARD]
    if unknown:
        raise ProtocolError(f"heard {unknown[0]!r}: unknown; there are {', '.join(HEARD)}")
    protocol = Protocol(y, folds, sources, allow_shared_sources)
    predicted: dict[tuple[str, str], dict[Any, NDArray[Any]]] = {}
    for fold in protocol:
        classes = np.unique(fold.y)
        targets = (fold.y[:, None] == classes).astype(np.float32)
        train, test = [clips[n] for n in fold.train], [clips[n] for n in fold.test]
        own = None if sources is None else [sources[n] for n in fold.train]
        adapted = adapt(model, train, targets, [str(name) for name in classes], preset, practice, own, device)
        for use in heard:
            fitted = HEARD[use](adapted, test, device)
            embedder = Embedder(fitted, layer, pooling, device)
            X, unseen = (np.stack([found.clip for found in embedder.embed_clips(part)]) for part in (train, test))
            judged = build_classifier(classifier).fit(X, fold.y).predict(unseen)
            predicted.setdefault((use, "embedding"), {})[fold.name] = judged
            likeliest = classes[clip_probs(embedder.model, test, device).argmax(1)]
            predicted.setdefault((use, "head"), {})[fold.name] = likeliest
    return {name: protocol.score(by_fold) for name, by_fold in predicted.items()}


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
