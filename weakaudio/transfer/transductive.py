"""Transductive transfer: the test clips are available during adaptation, their classes are not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from torch import nn

from weakaudio.audio import Waveform
from weakaudio.data.sampling import bucket
from weakaudio.errors import ProtocolError
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, stack
from weakaudio.transfer.classifiers import logistic
from weakaudio.transfer.fine_tune import has_statistics

_UNLABELLED = -1  # scikit-learn's class of unlabelled samples
_EPSILON = 1e-7  # keeps logarithms finite


def reestimate_norms(
    model: Model, clips: Sequence[Waveform], batch_seconds: float = 80.0, device: str = "cpu"
) -> Model:
    """Copy a model and re-estimate its batch-norm statistics on these clips (AdaBN, arXiv 1603.04779).

    Statistics are averaged over batches with equal weights; the network's weights do not change.

    Parameters
    ----------
    clips
        Recordings (N,) at the model's `sample_rate`.
    batch_seconds
        Maximum audio in a batch, seconds.
    device
        Torch device, e.g. "cpu" or "cuda".

    Raises
    ------
    ProtocolError
        No clips, or a single one of one segment; or the network has no batch normalisation.
    """
    adapted = copy.deepcopy(model)
    norms = _norms(adapted)
    batches = [
        [clips[n] for n in batch]
        for batch in bucket([len(clip) for clip in clips], int(batch_seconds * model.sample_rate))
    ]
    batches = [batch for batch in batches if has_statistics(model, batch)]
    if not batches:
        raise ProtocolError("no clips to estimate statistics from, or a single one of one segment")
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average over batches
        norm.train()
    place = find_device(device)
    adapted.to(place)
    with torch.no_grad():
        for batch in batches:
            adapted(*stack(batch, place))
    for norm, before in zip(norms, _norms(model), strict=True):
        norm.momentum = before.momentum
    return adapted.cpu().eval()


def minimise_entropy(
    model: Model,
    clips: Sequence[Waveform],
    epochs: int = 3,
    learning_rate: float = 1e-3,
    batch_seconds: float = 80.0,
    seed: int = 0,
    device: str = "cpu",
) -> Model:
    """Copy a model and train its batch-norm scales and shifts to minimise the entropy of its clip probabilities.

    After TENT, arXiv 2006.10726, with binary entropies, as a clip may hold several classes. The model must already be
    fine-tuned on the classes. For `clips`, `batch_seconds` and `device` see `reestimate_norms`.

    Parameters
    ----------
    epochs
        Passes over the clips.
    learning_rate
        Rate of Adam.
    seed
        Seeds the order of the batches.

    Raises
    ------
    ProtocolError
        No clips, or the network has no batch normalisation.
    """
    if not clips:
        raise ProtocolError("no clips to minimise the entropy of")
    place = find_device(device)
    adapted = copy.deepcopy(model).to(place).eval()
    adapted.requires_grad_(False)
    trained = [
        parameter for norm in _norms(adapted) for parameter in (norm.weight, norm.bias) if parameter is not None
    ]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in bucket([len(clip) for clip in clips], int(batch_seconds * model.sample_rate), rng):
            probs = adapted(*stack([clips[n] for n in batch], place)).clip_probs.clamp(_EPSILON, 1 - _EPSILON)
            entropy = -(probs * probs.log() + (1 - probs) * (1 - probs).log()).sum(1).mean()
            optimizer.zero_grad()
            entropy.backward()
            optimizer.step()
    return adapted.requires_grad_(True).cpu().eval()


def spread_labels(X: ArrayLike, y: ArrayLike, unseen: ArrayLike, n_neighbors: int = 10) -> NDArray[Any]:
    """Predict classes (m,) of unlabelled embeddings by label spreading over a nearest-neighbour graph.

    scikit-learn's LabelSpreading, after standardisation over both sets.

    Parameters
    ----------
    X, y
        Labelled embeddings (n, D) and their classes (n,).
    unseen
        (m, D) unlabelled embeddings.
    n_neighbors
        Edges of each node of the graph.

    Raises
    ------
    ProtocolError
        Widths differ, or an unlabelled clip is not connected to any labelled one.
    """
    estimator = LabelSpreading(kernel="knn", n_neighbors=n_neighbors, alpha=0.9, max_iter=1000, tol=1e-9)
    with np.errstate(invalid="ignore"):
        predicted = _fit_on_both(estimator, X, y, unseen)
    lost = int((~(estimator.label_distributions_.sum(1) > 0)).sum())  # scikit-learn leaves 0 or NaN there
    if lost:
        raise ProtocolError(f"{lost} clips are not connected to a labelled one; use n_neighbors > {n_neighbors}")
    return predicted


def self_train(X: ArrayLike, y: ArrayLike, unseen: ArrayLike, threshold: float = 0.8) -> NDArray[Any]:
    """Predict classes (m,) of unlabelled embeddings by self-training (scikit-learn's SelfTrainingClassifier).

    A logistic regression adds its own predictions of probability above `threshold` to its training set and is
    refitted, at most ten times. For the other arguments see `spread_labels`.
    """
    return _fit_on_both(SelfTrainingClassifier(logistic(), threshold=threshold), X, y, unseen)


def _fit_on_both(estimator: Any, X: ArrayLike, y: ArrayLike, unseen: ArrayLike) -> NDArray[Any]:
    labelled, others = np.asarray(X), np.asarray(unseen)
    if labelled.ndim != 2 or others.ndim != 2 or labelled.shape[1] != others.shape[1]:
        raise ProtocolError(f"embeddings of shapes {labelled.shape} and {others.shape}: expected (n, D) and (m, D)")
    classes, numbers = np.unique(np.asarray(y), return_inverse=True)
    both = StandardScaler().fit_transform(np.concatenate([labelled, others]))
    known = np.concatenate([numbers, np.full(len(others), _UNLABELLED)])
    estimator.fit(both, known)
    predicted: NDArray[Any] = classes[estimator.predict(both[len(labelled) :])]
    return predicted


def _norms(model: Model) -> list[nn.BatchNorm2d]:
    norms = [layer for layer in model.network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        raise ProtocolError("the network has no batch normalisation: it was fused, or has none")
    return norms
