"""Class semantics in a network: which classes are similar, and which sound events characterise each of them.

Arrays and tables only; `weakaudio.reports.class_figures` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.manifold import TSNE

from weakaudio.errors import ProtocolError
from weakaudio.transfer.cross_validation import FoldScores, check_column, check_finite

_PERPLEXITY = 30.0  # roughly the number of neighbours: van der Maaten and Hinton (2008) suggest 5 to 50


def class_embeddings(X: ArrayLike, y: ArrayLike) -> pd.DataFrame:
    """Mean embedding of each class, after normalisation.

    Features are standardised over the clips, weighted so that all classes count equally; then each clip is scaled to
    unit length. Otherwise the component that all clips share, and features of large values, would make all classes
    look alike.

    Parameters
    ----------
    X
        (n, D) clip embeddings.
    y
        (n,) class of each clip.

    Returns
    -------
    (C, D), indexed by class name, sorted; features that are constant over the clips are left out.

    Raises
    ------
    ProtocolError
        Fewer than two classes, a clip without class, lengths that differ, NaN, or embeddings that are equal for all
        clips.
    """
    features, classes = _checked(X, y)
    normalised = pd.DataFrame(_normalised(features, _weights(classes)))
    return normalised.groupby(classes).mean().rename_axis("class")


def class_similarities(embeddings: pd.DataFrame) -> pd.DataFrame:
    """Compute the (C, C) cosine similarities between the rows of `class_embeddings`, in [-1, 1].

    The embeddings are centred, so 0 means as similar as classes are on average.
    """
    units = _units(embeddings.to_numpy(dtype=np.float64))
    cosines = np.clip(units @ units.T, -1.0, 1.0)
    return pd.DataFrame(cosines, index=embeddings.index, columns=embeddings.index.to_list())


def class_tree(similarities: pd.DataFrame) -> NDArray[np.float64]:
    """Cluster classes hierarchically: average linkage of the distance 1 - cosine.

    Leaves are in optimal order (Bar-Joseph et al., 2001).

    Returns
    -------
    (C - 1, 4) linkage matrix of scipy; `scipy.cluster.hierarchy.leaves_list` gives the order of the leaves.
    """
    cosines = similarities.to_numpy(dtype=np.float64)
    distances = np.clip(1.0 - (cosines + cosines.T) / 2, 0.0, None)
    np.fill_diagonal(distances, 0.0)
    tree: NDArray[np.float64] = linkage(squareform(distances), "average", optimal_ordering=True)
    return tree


def nearest_classes(similarities: pd.DataFrame) -> pd.DataFrame:
    """Find the most similar other class of each: columns `class`, `nearest`, `similarity`, by falling similarity."""
    others = similarities.to_numpy(dtype=np.float64, copy=True)
    np.fill_diagonal(others, -np.inf)
    nearest = others.argmax(axis=1)
    table = pd.DataFrame(
        {
            "class": similarities.index,
            "nearest": similarities.index[nearest],
            "similarity": others.max(axis=1),
        }
    )
    return table.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)


def clip_map(X: ArrayLike, seed: int = 0) -> NDArray[np.float32]:
    """Project clips onto a plane, (n, 2), by t-SNE of their embeddings.

    Embeddings are normalised as in `class_embeddings`, with equal weights for all clips. Only neighbourhoods are
    meaningful; distances across the map, its axes and its densities are not. The layout is initialised with principal
    components; equal seeds give equal maps on one machine.

    Parameters
    ----------
    X
        (n, D) clip embeddings, n > 3 and D > 1.
    seed
        Seeds t-SNE.

    Raises
    ------
    ProtocolError
        Too few clips or features, NaN, or embeddings that are equal for all clips.
    """
    features = _features(X, "X")
    if len(features) < 4 or features.shape[1] < 2:
        raise ProtocolError(f"X of shape {features.shape}: a map needs at least four clips and two features")
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    normalised = _normalised(features, np.full(len(features), 1 / len(features)))
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(normalised)
    return np.asarray(places, dtype=np.float32)


def event_importance(probs: ArrayLike, y: ArrayLike, events: Sequence[str], most: int = 3) -> pd.DataFrame:
    """Rank the network's events by how strongly each characterises a target class: the scene-to-event table.

    The effect of an event is its mean probability in the class, standardised over all clips (all classes weighted
    equally): `effect = (mean in the class - mean) / standard deviation`. This definition is this project's own; arXiv
    1711.01369 shows such relations without saying how they were found. It needs no training and treats each event
    separately, whereas the weights of a linear classifier are spread over correlated events and depend on its
    regularisation. The maximum is sqrt(C - 1): an event with probability 1 in the class and 0 elsewhere. An effect is
    independent of the level of the probabilities, which the table lists as well; by chance, the top one of E events
    reaches about sqrt(2 ln(E) / n) with n clips in each class.

    Parameters
    ----------
    probs
        (n, E) clip probabilities of the network's events, preferably `Output.clip_probs`: of networks that score a
        clip by its mean embedding, segment probabilities are less reliable.
    y
        (n,) target class of each clip.
    events
        E event names.
    most
        Number of events listed for each class.

    Returns
    -------
    One row for each class and rank: `class`, `rank` (from 1), `event`, `effect`, `in_class` and `over_classes` (mean
    probabilities).

    Raises
    ------
    ProtocolError
        See `class_embeddings`; or the number of names is not that of the columns, or `most` is below 1.
    """
    scores, classes = _checked(probs, y, "probs")
    if len(events) != scores.shape[1]:
        raise ProtocolError(
            f"probs has {scores.shape[1]} columns, but there are {len(events)} event names: give the labels of the "
            "model, in their order"
        )
    if most < 1:
        raise ProtocolError(f"most {most}: expected 1 or more events for each class")
    means = pd.DataFrame(scores).groupby(classes).mean()  # (C, E)
    centre, deviation = _moments(scores, _weights(classes))
    effects = (means.to_numpy() - centre) / np.where(deviation > 0, deviation, 1.0)
    rows = [
        {
            "class": name,
            "rank": rank,
            "event": events[event],
            "effect": effect[event],
            "in_class": mean[event],
            "over_classes": centre[event],
        }
        for name, effect, mean in zip(means.index, effects, means.to_numpy(), strict=True)
        for rank, event in enumerate(np.argsort(-effect, kind="stable")[:most].tolist(), 1)
    ]
    return pd.DataFrame(rows)


def confused_pairs(scores: FoldScores) -> pd.DataFrame:
    """List confusions, most frequent first: `class`, `taken_for`, `clips`, `part` (of the class's clips)."""
    wrong = scores.confusion - np.diag(np.diag(scores.confusion))
    true, taken = np.nonzero(wrong)
    clips = wrong[true, taken]
    table = pd.DataFrame(
        {
            "class": scores.classes[true],
            "taken_for": scores.classes[taken],
            "clips": clips,
            "part": clips / scores.confusion.sum(axis=1)[true],
        }
    )
    return table.sort_values("clips", ascending=False, kind="stable", ignore_index=True)


def _weights(classes: NDArray[Any]) -> NDArray[np.float64]:
    """Weights of the clips (n,), of sum 1, that give all classes equal weight."""
    _, number, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    return 1 / (len(sizes) * sizes[number])


def _moments(
    features: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean and standard deviation of each feature; deviations within rounding error become 0."""
    mean = weights @ features
    deviation = np.sqrt(weights @ (features - mean) ** 2)
    return mean, np.where(deviation > 1e-9 * np.abs(features).max(axis=0), deviation, 0.0)


def _normalised(features: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardise the features, drop constant ones, and scale clips to unit length."""
    mean, deviation = _moments(features, weights)
    varies = deviation > 0
    if not varies.any():
        raise ProtocolError("the embeddings are equal for all clips, so they separate no classes; check the model")
    return _units((features[:, varies] - mean[varies]) / deviation[varies])


def _units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows to unit length; rows of zeros stay zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)


def _checked(X: ArrayLike, y: ArrayLike, name: str = "X") -> tuple[NDArray[np.float64], NDArray[Any]]:
    features, classes = _features(X, name), check_column(y, "y")
    if len(classes) != len(features):
        raise ProtocolError(f"{name} has {len(features)} rows, y {len(classes)}: they must describe the same clips")
    if len(np.unique(classes)) < 2:
        raise ProtocolError(f"at least two classes are needed, got {np.unique(classes).tolist()}")
    return features, classes


def _features(X: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        features = np.asarray(X, dtype=np.float64)
    except ValueError as error:
        raise ProtocolError(
            f"{name}: its rows are not numbers of equal length; embed all clips with one model"
        ) from error
    if features.ndim != 2 or not features.size:
        raise ProtocolError(f"{name} of shape {features.shape}: expected (clips, features)")
    check_finite(features, name)
    return features
