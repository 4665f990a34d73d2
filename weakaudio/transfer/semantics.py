"""What classes mean to a network: which are near each other, and which of its own events they lean on.

Numbers only, as arrays and tables; `weakaudio.reports.html` draws them.
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
from weakaudio.transfer.cross_validation import FoldScores

_PERPLEXITY = 30.0  # about how many neighbours count: within the 5 to 50 of van der Maaten and Hinton, 2008


def class_embeddings(X: ArrayLike, y: ArrayLike) -> pd.DataFrame:
    """The mean embedding of each class.

    First each feature is brought to mean 0 and standard deviation 1 over the clips, with every class weighing the
    same, then each clip to length 1: otherwise what all clips share, and features of large values, would make all
    classes look alike.

    Parameters
    ----------
    X
        (n, D) clip embeddings.
    y
        (n,) one class a clip.

    Returns
    -------
    (C, D), indexed by class name, sorted; features that are the same for all clips are left out.

    Raises
    ------
    ProtocolError
        Fewer than two classes, a clip without class, lengths or widths that differ, NaN, or embeddings that are
        the same for all clips.
    """
    features, classes = _checked(X, y)
    normalised = pd.DataFrame(_normalised(features, _weights(classes)))
    return normalised.groupby(classes).mean().rename_axis("class")


def class_similarities(embeddings: pd.DataFrame) -> pd.DataFrame:
    """(C, C) cosines between the rows of `class_embeddings`, in [-1, 1].

    As the embeddings are centred, 0 means: no nearer than classes are on average.
    """
    units = _units(embeddings.to_numpy(dtype=np.float64))
    cosines = np.clip(units @ units.T, -1.0, 1.0)
    return pd.DataFrame(cosines, index=embeddings.index, columns=embeddings.index.to_list())


def class_tree(similarities: pd.DataFrame) -> NDArray[np.float64]:
    """Classes joined into a tree, the nearest first: average linkage of 1 - cosine.

    Leaves are ordered so that neighbours are as near as the tree allows (Bar-Joseph et al., 2001).

    Returns
    -------
    (C - 1, 4) as scipy's `linkage`; `scipy.cluster.hierarchy.leaves_list` gives the order of the leaves.
    """
    cosines = similarities.to_numpy(dtype=np.float64)
    distances = np.clip(1.0 - (cosines + cosines.T) / 2, 0.0, None)
    np.fill_diagonal(distances, 0.0)
    tree: NDArray[np.float64] = linkage(squareform(distances), "average", optimal_ordering=True)
    return tree


def nearest_classes(similarities: pd.DataFrame) -> pd.DataFrame:
    """For each class the one most like it: columns `class`, `nearest`, `similarity`; the most alike first."""
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
    """(n, 2) places of clips on a plane, near ones together: t-SNE of embeddings.

    They are normalised as by `class_embeddings`, with every clip weighing the same. Who is beside whom means
    something; distances across the map, its axes and its densities do not. It starts from principal components;
    equal seeds give equal maps on one machine.

    Parameters
    ----------
    X
        (n, D) clip embeddings, n > 3 and D > 1.
    seed
        Of the few random numbers in it.

    Raises
    ------
    ProtocolError
        Too few clips or features, widths that differ, NaN, or embeddings that are the same for all clips.
    """
    features = _finite(X, "X")
    if len(features) < 4 or features.shape[1] < 2:
        raise ProtocolError(f"X of shape {features.shape}: a map needs four or more clips and two or more features")
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    normalised = _normalised(features, np.full(len(features), 1 / len(features)))
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(normalised)
    return np.asarray(places, dtype=np.float32)


def event_importance(probs: ArrayLike, y: ArrayLike, events: Sequence[str], most: int = 3) -> pd.DataFrame:
    """Which of the network's own events each target class leans on: the scene-to-event table.

    The rule is ours; arXiv 1711.01369 shows such relations without saying how they were found. A target class
    leans on the events whose probability stands highest above their mean, in standard deviations:
    `effect = (mean in the class - mean) / deviation`, where mean and deviation are taken over all clips with
    every class weighing the same. It takes no training and treats each event alone; the weights of a linear
    classifier, the other way to read a table, are shared out among events that occur together, and change with
    its regularisation. The greatest effect possible is sqrt(C - 1): an event that occurs always in the class and
    never elsewhere. An effect says nothing of the height of a probability (the table gives it, too), and chance
    alone brings one of about sqrt(2 ln(E) / n) to the top of E events, n clips a class.

    Parameters
    ----------
    probs
        (n, E) clip probabilities of the network's own events, best as it gives them (`Output.clip_probs`): a
        network that scores a clip by its mean embedding is less sure of each segment, and names odder events.
    y
        (n,) the target class of each clip.
    events
        Names of the E events.
    most
        Events listed for each class.

    Returns
    -------
    Rows by class and rank: `class`, `rank` (from 1), `event`, `effect`, `in_class` and `over_classes` (mean
    probabilities).

    Raises
    ------
    ProtocolError
        As of `class_embeddings`; or another number of names than of columns, or `most` below 1.
    """
    scores, classes = _checked(probs, y, "probs")
    if len(events) != scores.shape[1]:
        raise ProtocolError(
            f"probs has {scores.shape[1]} columns and there are {len(events)} names of events: give the model's "
            "own labels, in their order"
        )
    if most < 1:
        raise ProtocolError(f"most is {most}: list one or more events for each class")
    means = pd.DataFrame(scores).groupby(classes).mean()  # (C, E)
    centre, deviation = _moments(scores, _weights(classes))
    effects = (means.to_numpy() - centre) / np.where(deviation > 0, deviation, 1.0)
    rows = [
        {
            "class": name,
            "rank": rank,
            "event": events[event],
            "effect": own[event],
            "in_class": mean[event],
            "over_classes": centre[event],
        }
        for name, own, mean in zip(means.index, effects, means.to_numpy(), strict=True)
        for rank, event in enumerate(np.argsort(-own, kind="stable")[:most].tolist(), 1)
    ]
    return pd.DataFrame(rows)


def confused_pairs(scores: FoldScores) -> pd.DataFrame:
    """Which classes a classifier took for which: `class`, `taken_for`, `clips`, `part` of the class's clips.

    The most frequent first, and only what happened.
    """
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
    """(n,) weights of clips, with a sum of 1, under which every class weighs the same."""
    clips = pd.Series(classes)
    return 1 / (clips.nunique() * clips.groupby(clips).transform("size").to_numpy(dtype=np.float64))


def _moments(
    features: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each feature; a deviation that is only rounding is 0."""
    mean = weights @ features
    deviation = np.sqrt(weights @ (features - mean) ** 2)
    return mean, np.where(deviation > 1e-9 * np.abs(features).max(axis=0), deviation, 0.0)


def _normalised(features: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features standardised over the clips, then clips of length 1; features that never vary are left out."""
    mean, deviation = _moments(features, weights)
    varies = deviation > 0
    if not varies.any():
        raise ProtocolError("the embeddings are the same for all clips: nothing tells classes apart; check the model")
    return _units((features[:, varies] - mean[varies]) / deviation[varies])


def _units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)


def _checked(X: ArrayLike, y: ArrayLike, name: str = "X") -> tuple[NDArray[np.float64], NDArray[Any]]:
    features = _finite(X, name)
    try:
        classes = pd.Series(y)
        n_classes = classes.nunique()
    except (TypeError, ValueError) as error:  # lists of classes, or a table
        raise ProtocolError(f"y: expected one class for each clip ({error})") from error
    if len(classes) != len(features):
        raise ProtocolError(f"{name} has {len(features)} rows, y {len(classes)}: they must describe the same clips")
    if classes.isna().any():
        row = int(classes.isna().to_numpy().argmax())
        raise ProtocolError(
            f"y: no class for {classes.isna().sum()} clips, the first in row {row}: name or drop them"
        )
    if n_classes < 2:
        raise ProtocolError(f"at least two classes are needed, got {classes.unique().tolist()}")
    return features, classes.to_numpy()


def _finite(X: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        features = np.asarray(X, dtype=np.float64)
    except ValueError as error:
        raise ProtocolError(f"{name}: its rows are not numbers of one width; take all clips by one model") from error
    if features.ndim != 2 or not features.size:
        raise ProtocolError(f"{name} of shape {features.shape}: expected (clips, features)")
    if not np.isfinite(features).all():
        row = int((~np.isfinite(features)).any(axis=1).argmax())
        raise ProtocolError(f"{name} holds NaN or infinite values, first in row {row}: mend or drop that clip")
    return features
