"""Transductive transfer: the clips to be judged are at hand while a system is made, their classes are not."""

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

from weakaudio.data.sampling import bucket
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Audio
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, stack
from weakaudio.transfer.classifiers import logistic
from weakaudio.transfer.fine_tune import has_statistics

_UNKNOWN = -1  # the class of a clip that is to be judged, as scikit-learn has it
_EDGE = 1e-7


def reestimate_norms(model: Model, clips: Sequence[Audio], batch_seconds: float = 80.0, device: str = "cpu") -> Model:
    """A copy of a model whose batch normalisations have means and variances of these clips (AdaBN, arXiv 1603.04779).

    Statistics are averaged over batches, each of which counts alike; weights stay as they are.

    Parameters
    ----------
    clips
        Recordings (N,) at the model's `sample_rate`, of any class.
    batch_seconds
        Most audio in a batch.
    device
        E.g. "cpu" or "cuda".

    Raises
    ------
    ProtocolError
        No clips, or one that is too short; or a network without batch normalisation.
    """
    adapted = copy.deepcopy(model)
    norms = _norms(adapted)
    batches = [
        [clips[n] for n in batch]
        for batch in bucket([len(clip) for clip in clips], int(batch_seconds * model.sample_rate))
    ]
    batches = [batch for batch in batches if has_statistics(model, batch)]
    if not batches:
        raise ProtocolError("no clips to take statistics of, or a single one of one segment")
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
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
    clips: Sequence[Audio],
    epochs: int = 3,
    learning_rate: float = 1e-3,
    batch_seconds: float = 80.0,
    seed: int = 0,
    device: str = "cpu",
) -> Model:
    """A copy of a model that is surer of these clips: scales and shifts of its batch normalisations are trained to
    lower the entropy of its class probabilities (after TENT, arXiv 2006.10726; binary entropies, as several classes
    may be in a clip).

    The model should know the classes already (`adapt`). Arguments as of `reestimate_norms`.

    Raises
    ------
    ProtocolError
        No clips, or a network without batch normalisation.
    """
    if not clips:
        raise ProtocolError("no clips to be sure of")
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
            probs = adapted(*stack([clips[n] for n in batch], place)).clip_probs.clamp(_EDGE, 1 - _EDGE)
            entropy = -(probs * probs.log() + (1 - probs) * (1 - probs).log()).sum(1).mean()
            optimizer.zero_grad()
            entropy.backward()
            optimizer.step()
    return adapted.requires_grad_(True).cpu().eval()


def spread_labels(X: ArrayLike, y: ArrayLike, unseen: ArrayLike, n_neighbors: int = 10) -> NDArray[Any]:
    """Classes of unlabelled embeddings (m, D), spread from labelled ones (n, D) over nearest neighbours of both
    (scikit-learn's LabelSpreading), after standardisation.

    Raises
    ------
    ProtocolError
        Widths that differ, or clips that no chain of neighbours leads to from a labelled one.
    """
    estimator = LabelSpreading(kernel="knn", n_neighbors=n_neighbors, alpha=0.9, max_iter=1000, tol=1e-9)
    with np.errstate(invalid="ignore"):
        predicted = _fit_on_both(estimator, X, y, unseen)
    lost = int((~(estimator.label_distributions_.sum(1) > 0)).sum())  # scikit-learn has 0 or NaN there
    if lost:
        raise ProtocolError(f"{lost} clips are reached from no labelled one: give more than {n_neighbors} neighbours")
    return predicted


def train_self(X: ArrayLike, y: ArrayLike, unseen: ArrayLike, threshold: float = 0.8) -> NDArray[Any]:
    """Classes of unlabelled embeddings (m, D) by a logistic regression that takes those it is surest of, above
    `threshold`, for labelled and trains anew (scikit-learn's SelfTrainingClassifier)."""
    return _fit_on_both(SelfTrainingClassifier(logistic(), threshold=threshold), X, y, unseen)


def _fit_on_both(estimator: Any, X: ArrayLike, y: ArrayLike, unseen: ArrayLike) -> NDArray[Any]:
    labelled, others = np.asarray(X), np.asarray(unseen)
    if labelled.ndim != 2 or others.ndim != 2 or labelled.shape[1] != others.shape[1]:
        raise ProtocolError(f"embeddings of shapes {labelled.shape} and {others.shape}: expected (n, D) and (m, D)")
    classes, numbers = np.unique(np.asarray(y), return_inverse=True)
    both = StandardScaler().fit_transform(np.concatenate([labelled, others]))
    known = np.concatenate([numbers, np.full(len(others), _UNKNOWN)])
    estimator.fit(both, known)
    predicted: NDArray[Any] = classes[estimator.predict(both[len(labelled) :])]
    return predicted


def _norms(model: Model) -> list[nn.BatchNorm2d]:
    norms = [layer for layer in model.network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        raise ProtocolError("the network has no batch normalisation: it was fused, or never had one")
    return norms
