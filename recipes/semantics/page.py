"""What the classes mean to a model, as tables, figures and a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list

from weakaudio import __version__
from weakaudio.reports import class_figures
from weakaudio.reports import html as report
from weakaudio.transfer.cross_validation import FoldScores

_MOST = 15  # rows of a table on the page; the whole is in its CSV
_SPOKEN = {"taken_for": "taken for", "in_class": "in class", "over_classes": "over classes"}


@dataclass
class Meaning:
    """What was measured; tables as of `weakaudio.transfer.semantics`."""

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
        """Classes as the tree has them."""
        return [str(self.similarities.index[n]) for n in leaves_list(self.tree)]

    def tables(self) -> dict[str, pd.DataFrame]:
        """What becomes CSV, by name."""
        return {
            "map": self.clips.assign(super_category=[self.groups[name] for name in self.clips["class"]]),
            "similarities": self.similarities.loc[self.order, self.order].reset_index(),
            "nearest": self.nearest,
            "events": self.events,
            "confused": self.confused,
        }

    def chance_within(self) -> float:
        """How often another class, drawn blindly, is of the own super-category."""
        sizes = pd.Series(self.groups).value_counts()
        return float((sizes * (sizes - 1)).sum() / (len(self.groups) * (len(self.groups) - 1)))

    def nearest_within(self) -> float:
        """The part of classes whose nearest is of the own super-category."""
        return float(np.mean([self._alike(*pair) for pair in self.nearest[["class", "nearest"]].to_numpy()]))

    def confused_within(self) -> float:
        """The part of wrong answers that are of the right super-category."""
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


def build(meaning: Meaning, origin: str) -> str:
    """The page as HTML; `origin` says by which command and model."""
    drawn = figures(meaning)
    first = meaning.events[meaning.events["rank"] == 1].drop(columns="rank")
    pairs = pd.Series([frozenset(pair) for pair in meaning.nearest[["class", "nearest"]].to_numpy()])
    nearest = meaning.nearest[~pairs.duplicated()][:_MOST]
    return report.page(
        "What ESC-50 means to a model",
        [
            report.Section("In short", [_INTRODUCTION, _numbers(meaning)]),
            report.Section("A map of the clips", [report.Picture(drawn["map"], _MAP)]),
            report.Section(
                "Which classes are alike",
                [report.Picture(drawn["tree"], _TREE), report.Table(nearest, _NEAREST)],
            ),
            report.Section(
                "Which events a class leans on",
                [
                    _leaning(meaning),
                    report.Picture(drawn["events"], _BARS),
                    report.Table(first.rename(columns=_SPOKEN), _FIRST),
                ],
            ),
            report.Section(
                "Which classes are taken for which",
                [
                    report.Picture(drawn["confusion"], _CONFUSION),
                    report.Table(meaning.confused[:_MOST].rename(columns=_SPOKEN), _PAIRS),
                ],
            ),
            report.Section("How it was made", [f"weakaudio {__version__}; {origin}."]),
        ],
    )


def _numbers(meaning: Meaning) -> report.KeyNumbers:
    chance = f"chance {meaning.chance_within():.0%}"
    return report.KeyNumbers(
        [
            (f"{meaning.scores.mean:.1%}", "accuracy over the folds"),
            (f"{meaning.nearest_within():.0%}", f"of classes have their nearest in their super-category ({chance})"),
            (f"{meaning.confused_within():.0%}", f"of wrong answers are in the right super-category ({chance})"),
        ]
    )


def _leaning(meaning: Meaning) -> str:
    n_classes = len(meaning.similarities)
    fewest = meaning.clips["class"].value_counts().min()
    return (
        "The model names events of its own. For each class, those are listed whose probability is highest above its "
        "mean, counted in standard deviations over all clips. An event that occurs always in one class and never "
        f"elsewhere would reach {np.sqrt(n_classes - 1):.1f}; chance alone brings about "
        f"{np.sqrt(2 * np.log(meaning.n_events) / fewest):.1f} to the top of {meaning.n_events} events. A short bar "
        "and odd names say that the model knows no sound of this kind, or does not recognise it."
    )


_INTRODUCTION = (
    "A model listened to the 2,000 clips of ESC-50 as it is. This page shows how it arranges their 50 classes: by "
    "its embeddings (the mean over segments), by the events that it was trained to name, and by the mistakes of a "
    "linear SVM on its embeddings over the five official folds. Nothing here was told of super-categories."
)
_MAP = (
    "t-SNE of the embeddings, a mark a clip, coloured by super-category; a class's name stands at the middle of its "
    "clips, moved a little where names would overlap. Only who is beside whom means something."
)
_TREE = (
    "Classes joined by average linkage, the nearest first, and the cosines of their mean embeddings. Red: more alike "
    "than classes are on average; blue: less. The diagonal is 1 and its shade is that of the end of the scale."
)
_NEAREST = "The classes most alike: each class's nearest other class and their cosine; pairs once."
_BARS = "The strongest effect of each class; beside it the three events it leans on, the strongest first."
_FIRST = "The first event of each class with its mean probability in the class and over all classes."
_CONFUSION = (
    "True and predicted classes over all five folds, in the order of the tree above, so that mistakes between like "
    "classes are near the diagonal. Shades grow with the square root: single mistakes are visible."
)
_PAIRS = "The most frequent mistakes; part: of the clips of the class."
