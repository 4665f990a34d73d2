"""Cross-validation of fine-tuned networks: for each fold, a network is fine-tuned on the other folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from weakaudio.audio import Waveform
from weakaudio.data.sampling import bucket
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, stack
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import FoldProtocol, FoldScores
from weakaudio.transfer.fine_tune import FineTuneConfig, Preset, fine_tune
from weakaudio.transfer.transductive import minimise_entropy, reestimate_norms

# Adaptations to the unlabelled audio of the test fold, by the name that `weakaudio transfer --heard` takes.
ADAPTATIONS: dict[str, Callable[[Model, Sequence[Waveform], str], Model]] = {
    "nothing": lambda model, clips, device: model,
    "norms": lambda model, clips, device: reestimate_norms(model, clips, device=device),
    "entropy": lambda model, clips, device: minimise_entropy(model, clips, device=device),
}


def cross_validate_fine_tuned(
    model: Model,
    clips: Sequence[Waveform],
    y: ArrayLike,
    folds: ArrayLike,
    preset: str | Preset = "I",
    config: FineTuneConfig | None = None,
    sources: Sequence[str] | None = None,
    allow_shared_sources: bool = False,
    layer: str = "f1",
    pooling: str = "max",
    classifier: str = "linear-svm",
    adaptations: Sequence[str] = ("nothing",),
    device: str = "cpu",
) -> dict[tuple[str, str], FoldScores]:
    """Fine-tune a network on all folds but one, for each fold, and score its embeddings and its own classifier.

    Parameters
    ----------
    model
        Network that each fold starts from.
    clips
        n recordings (N,) at its `sample_rate`.
    y, folds, sources, allow_shared_sources
        See `cross_validate`.
    preset, config, device
        See `fine_tune`.
    layer, pooling, classifier
        Embedding of the fine-tuned network, and the classifier trained on it with the other folds, as in arXiv
        1711.01369.
    adaptations
        Names in `ADAPTATIONS`: transductive adaptations to the audio of the test fold, without its classes. Each
        starts from the same fine-tuned network.

    Returns
    -------
    Scores by adaptation and "embedding" (with the classifier) or "head" (most probable class of the network).

    Raises
    ------
    ProtocolError
        See `cross_validate` and `fine_tune`; or an unknown adaptation.
    """
    unknown = [name for name in adaptations if name not in ADAPTATIONS]
    if unknown:
        raise ProtocolError(f"adaptation {unknown[0]!r}: unknown; there are {', '.join(ADAPTATIONS)}")
    protocol = FoldProtocol(y, folds, sources, allow_shared_sources)
    predicted: dict[tuple[str, str], dict[Any, NDArray[Any]]] = {}
    for fold in protocol:
        classes = np.unique(fold.y)
        targets = (fold.y[:, None] == classes).astype(np.float32)
        train, test = [clips[n] for n in fold.train], [clips[n] for n in fold.test]
        recordings = None if sources is None else [sources[n] for n in fold.train]
        tuned = fine_tune(model, train, targets, [str(name) for name in classes], preset, config, recordings, device)
        for name in adaptations:
            adapted = ADAPTATIONS[name](tuned, test, device)
            embedder = Embedder(adapted, layer, pooling, device)
            X, unseen = (np.stack([found.clip for found in embedder.embed_clips(part)]) for part in (train, test))
            by_classifier = build_classifier(classifier).fit(X, fold.y).predict(unseen)
            predicted.setdefault((name, "embedding"), {})[fold.name] = by_classifier
            by_head = classes[clip_probs(embedder.model, test, device).argmax(1)]
            predicted.setdefault((name, "head"), {})[fold.name] = by_head
    return {name: protocol.score(by_fold) for name, by_fold in predicted.items()}


@torch.inference_mode()
def clip_probs(
    model: Model, clips: Sequence[Waveform], device: str = "cpu", batch_seconds: float = 20.0
) -> NDArray[np.float32]:
    """Compute the clip probabilities (n, C) of n recordings (N,) at the model's `sample_rate`."""
    place = find_device(device)
    found = np.empty((len(clips), len(model.labels)), dtype=np.float32)
    for batch in bucket([len(clip) for clip in clips], int(batch_seconds * model.sample_rate)):
        found[batch] = model(*stack([clips[n] for n in batch], place)).clip_probs.cpu().numpy()
    return found
