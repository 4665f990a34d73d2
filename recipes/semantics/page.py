"""The meaning of classes to a model as tables, figures and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list

from weakaudio import __version__
from weakaudio.reports import class_figures
from weakaudio.reports import html as report
from weakaudio.transfer.cross_validation import FoldScores

_MOST = 15  # rows of a table on the page; all are in its CSV
_HEADERS = {"taken_for": "taken for", "in_class": "in class", "over_classes": "over classes"}


@dataclass
class Meaning:
    """Results; tables as of `weakaudio.transfer.semantics`."""

    clips: pd.DataFrame
    """`path`, `class`, and `x` and `y`, its place on the map"""
    groups: dict[str, str]
    """the super-category of each class"""
    similarities: pd.DataFrame
    tree: NDArray[np.float64]
    nearest: pd.DataFrame
    events: pd.DataFrame
    n_events: int
    """of the model"""
    scores: FoldScores
    confused: pd.DataFrame

    @property
    def order(self) -> list[str]:
        """Classes in the order of the tree."""
        return [str(self.similarities.index[n]) for n in leaves_list(self.tree)]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables that become CSV files, by name."""
        return {
            "map": self.clips.assign(super_category=[self.groups[name] for name in self.clips["class"]]),
            "similarities": self.similarities.loc[self.order, self.order].reset_index(),
            "nearest": self.nearest,
            "events": self.events,
            "confused": self.confused,
        }

    def chance_within(self) -> float:
        """Probability that another class, drawn at random, is in the same super-category."""
        sizes = pd.Series(self.groups).value_counts()
        return float((sizes * (sizes - 1)).sum() / (len(self.groups) * (len(self.groups) - 1)))

    def nearest_within(self) -> float:
        """Fraction of classes whose nearest class is in the same super-category."""
        return float(np.mean([self._alike(*pair) for pair in self.nearest[["class", "nearest"]].to_numpy()]))

    def confused_within(self) -> float:
        """Fraction of wrong answers that are in the right super-category."""
        alike = [self._alike(*pair) for pair in self.confused[["class", "taken_for"]].to_numpy()]
        return float(np.average(alike, weights=self.confused["clips"])) if alike else float("nan")

    def _alike(self, first: str, second: str) -> bool:
        return self.groups[first] == self.groups[second]


def figures(meaning: Meaning) -> dict[str, Figure]:
    """All figures, by name."""
    places = meaning.clips[["x", "y"]].to_numpy()
    names = [str(name) for name in meaning.scores.classes]
    order = [names.index(name) for name in meaning.order]
    return {
        "map": class_figures.class_map(places, meaning.clips["class"].tolist(), meaning.groups),
        "tree": class_figures.class_tree(meaning.similarities, meaning.tree, meaning.groups),
        "events": class_figures.event_bars(meaning.events, meaning.groups),
        "confusion": class_figures.confusion_matrix(meaning.scores.confusion[np.ix_(order, order)], meaning.order),
    }


def build(meaning: Meaning, drawn: Mapping[str, Figure], origin: str) -> str:
    """The page as HTML, with the figures of `figures`; `origin` names command and model."""
    first = meaning.events[meaning.events["rank"] == 1].drop(columns="rank").rename(columns=_HEADERS)
    pairs = pd.Series([frozenset(pair) for pair in meaning.nearest[["class", "nearest"]].to_numpy()])
    nearest = report.Table(meaning.nearest[~pairs.duplicated()][:_MOST], _NEAREST)
    confused = report.Table(meaning.confused[:_MOST].rename(columns=_HEADERS), _PAIRS)
    events = [_events(meaning), report.Picture(drawn["events"], _BARS), report.Table(first, _FIRST)]
    sections: dict[str, list[Any]] = {
        "In short": [_INTRODUCTION, _numbers(meaning)],
        "A map of the clips": [report.Picture(drawn["map"], _MAP)],
        "Which classes are similar": [report.Picture(drawn["tree"], _TREE), nearest],
        "Which events characterise a class": events,
        "Which classes are confused": [report.Picture(drawn["confusion"], _CONFUSION), confused],
        "How it was made": [f"weakaudio {__version__}; {origin}."],
    }
    return report.page("What ESC-50 means to a model", [report.Section(*one) for one in sections.items()])


def _numbers(meaning: Meaning) -> report.KeyNumbers:
    chance = f"in their super-category (chance {meaning.chance_within():.0%})"
    numbers = [(f"{meaning.scores.mean:.1%}", "accuracy over the folds")]
    numbers.append((f"{meaning.nearest_within():.0%}", f"of classes have their nearest class {chance}"))
    return report.KeyNumbers([*numbers, (f"{meaning.confused_within():.0%}", f"of wrong answers are {chance}")])


def _events(meaning: Meaning) -> str:
    n_classes = len(meaning.similarities)
    fewest = meaning.clips["class"].value_counts().min()
    return (
        "The model has event classes of its own. For each class of ESC-50, the events are listed whose probability "
        "is highest above its mean, in standard deviations over all clips. An event that always occurs in one class "
        f"and never elsewhere would reach {np.sqrt(n_classes - 1):.1f}; chance alone gives the highest of "
        f"{meaning.n_events} events about {np.sqrt(2 * np.log(meaning.n_events) / fewest):.1f}. A short bar and odd "
        "names show that the model has no class of this kind, or does not recognise it."
    )


_INTRODUCTION = (
    "A model was run on the 2,000 clips of ESC-50 without being trained on them. This page shows how it arranges "
    "their 50 classes: by its embeddings (the mean over segments), by the events that it was trained on, and by the "
    "errors of a linear SVM on its embeddings over the five official folds. Super-categories were not used."
)
_MAP = (
    "t-SNE of the embeddings, a mark per clip, coloured by super-category; a class's name stands at the middle of "
    "its clips, moved a little where names would overlap. Only neighbourhoods are meaningful."
)
_TREE = (
    "Classes joined by average linkage, and the cosine similarities of their mean embeddings. Red: more similar than "
    "classes are on average; blue: less. The diagonal is 1, shown in the shade of the end of the scale."
)
_NEAREST = "The most similar classes: each class's nearest other class and their cosine similarity; pairs once."
_BARS = "The strongest effect of each class, and its three most characteristic events."
_FIRST = "The first event of each class with its mean probability in the class and over all classes."
_CONFUSION = (
    "True and predicted classes over all five folds, in the order of the tree above, so that errors between "
    "similar classes are near the diagonal. Shades grow with the square root: single errors are visible."
)
_PAIRS = "The most frequent errors; part: fraction of the clips of the class."
