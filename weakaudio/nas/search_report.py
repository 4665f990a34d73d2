"""The page of a search: Pareto front, ancestry of the winner, best networks, course of the search.

A self-contained HTML file.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from weakaudio.data.manifest import read_table
from weakaudio.errors import WeakAudioError
from weakaudio.nas.evolution import ancestry, best, pareto_front
from weakaudio.nas.search_space import STAGES, changes, describe_stage
from weakaudio.nas.stores import Evaluation
from weakaudio.reports.figures import COLOURS, INK, QUIET, STYLE, WIDTH, legend
from weakaudio.reports.html import KeyNumbers, Picture, Section, Table, page

_BEST = 10  # networks in the table
_REASONS = 10  # of failures in their table
_FEWEST = 3  # networks for a rank correlation

Block = str | Picture | Table | KeyNumbers


def search_page(
    settings: Mapping[str, Any], evaluations: Sequence[Evaluation], full: Mapping[int, float] | None = None
) -> str:
    """Make an HTML document of a search.

    Parameters
    ----------
    settings, evaluations
        From `read_log`.
    full
        Scores after full training, by the number of the evaluation; lower is better.

    Raises
    ------
    WeakAudioError
        No network has a score yet, or `full` names one without a score.
    """
    winner, budget = best(evaluations), float(settings["budget"])
    sections = [
        Section("Result", _result(winner, budget, evaluations)),
        Section("Pareto front", [Picture(pareto_figure(evaluations, budget), "All scored networks and the front.")]),
        Section("Ancestry of the winner", _ancestry(ancestry(evaluations, winner.number))),
        Section(f"The best {min(_BEST, len(_ranked(evaluations)))}", [_best_table(evaluations)]),
        Section(
            "Course of the search",
            [Picture(course_figure(evaluations, int(settings["population"])), "Scores in the order of the search.")],
        ),
    ]
    if full is not None:
        sections.append(Section("Proxy and full training", _agreement(evaluations, full)))
    failed = [evaluation for evaluation in evaluations if evaluation.error is not None]
    if failed:
        sections.append(Section("Failures", [_failures(failed)]))
    sections.append(Section("Settings", [_settings(settings)]))
    return page("Search for a network", sections)


def pareto_figure(evaluations: Sequence[Evaluation], budget: float) -> Figure:
    """Draw score against latency of every scored network, the Pareto front and the budget in seconds."""
    scored = _ranked(evaluations)
    front, winner = pareto_front(evaluations), best(evaluations)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        others = axes.scatter(*_points(scored), s=22, color=QUIET, alpha=0.55, linewidths=0, label="network")
        (line,) = axes.plot(*_points(front), "o-", color=COLOURS[0], markersize=5, label="Pareto front")
        line.set_drawstyle("steps-post")
        star = axes.scatter(
            *_points([winner]), s=190, marker="*", color=COLOURS[1], edgecolors=INK, zorder=4, label="winner"
        )
        limit = axes.axvline(1000 * budget, color=INK, linewidth=1.2, linestyle="--", label="budget")
        axes.set(xlabel="latency (ms)", ylabel="score, lower is better")
        axes.margins(0.06)
        legend(figure, [others, line, star, limit])
    return figure


def course_figure(evaluations: Sequence[Evaluation], population: int) -> Figure:
    """Draw the score by number of the evaluation, the best so far, and failures; `population` is the first's size."""
    scored = [evaluation for evaluation in evaluations if evaluation.score is not None]
    numbers = np.array([evaluation.number for evaluation in scored])
    scores = np.array([evaluation.score for evaluation in scored], dtype=float)
    last = max(evaluation.number for evaluation in evaluations)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        first = axes.axvspan(-0.5, min(population, last + 1) - 0.5, color="#F0F0F0", lw=0, label="first population")
        dots = axes.scatter(numbers, scores, s=22, color=QUIET, alpha=0.55, linewidths=0, label="network")
        (line,) = axes.step(
            [*numbers, last], [*np.minimum.accumulate(scores), scores.min()], where="post", color=COLOURS[0]
        )
        line.set_label("best so far")
        handles: list[Any] = [first, dots, line]
        failed = [evaluation.number for evaluation in evaluations if evaluation.error is not None]
        if failed:
            handles += axes.plot(
                failed,
                np.full(len(failed), 0.02),
                "x",
                color=COLOURS[5],
                markersize=6,
                markeredgewidth=1.6,
                transform=axes.get_xaxis_transform(),
                label="failed",
            )
        axes.set(xlabel="evaluation", ylabel="score, lower is better", xlim=(-0.5, last + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.1)
        legend(figure, handles)
    return figure


def agreement_figure(evaluations: Sequence[Evaluation], full: Mapping[int, float]) -> Figure:
    """Draw the score after full training against the score in the search."""
    numbers = _known(evaluations, full)
    scores = [evaluations[n].known_score for n in numbers]
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.scatter(scores, [full[n] for n in numbers], s=36, color=COLOURS[0], linewidths=0)
        for n, score in zip(numbers, scores, strict=True):
            axes.annotate(str(n), (score, full[n]), (5, 4), textcoords="offset points", fontsize=9, color=QUIET)
        axes.set(xlabel="score in the search", ylabel="after full training, lower is better")
        axes.margins(0.08)
    return figure


def rank_correlation(evaluations: Sequence[Evaluation], full: Mapping[int, float]) -> float:
    """Spearman's rank correlation between scores in the search and after full training, in [-1, 1].

    Raises
    ------
    WeakAudioError
        Fewer than three networks, an evaluation without a score, or the same score for all.
    """
    numbers = _known(evaluations, full)
    if len(numbers) < _FEWEST:
        raise WeakAudioError(f"full training of {len(numbers)} networks: a rank correlation needs {_FEWEST} or more")
    pairs = [(evaluations[n].score, full[n]) for n in numbers]
    for values in zip(*pairs, strict=True):
        if len(set(values)) == 1:
            raise WeakAudioError("full training: all networks have the same score")
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def read_full(path: str | Path) -> dict[int, float]:
    """Read a table with columns `number` (of the evaluation) and `score` (after full training, lower is better).

    Raises
    ------
    WeakAudioError
        It cannot be read, lacks a column, or holds an invalid or a repeated number.
    """
    table = read_table(Path(path))
    if not {"number", "score"} <= set(table):
        raise WeakAudioError(f"{path}: expected columns number and score, found {', '.join(map(str, table))}")
    found: dict[int, float] = {}
    for row, (number, score) in enumerate(zip(table["number"], table["score"], strict=True), start=2):
        try:
            key, value = int(number), float(score)
        except (TypeError, ValueError, OverflowError):
            raise WeakAudioError(f"{path}, line {row}: {number!r}, {score!r}: expected numbers") from None
        if key != number:
            raise WeakAudioError(f"{path}, line {row}: evaluation {number!r}: expected an integer")
        if key in found or not math.isfinite(value):
            raise WeakAudioError(f"{path}, line {row}: evaluation {key} is listed twice or has no finite score")
        found[key] = value
    return found


def _ranked(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Scored networks, each once, best first."""
    scored = [e for e in evaluations if e.score is not None and e.same_as is None]
    return sorted(scored, key=lambda e: (e.score, e.number))


def _points(evaluations: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
    return [_ms(e) for e in evaluations], [e.known_score for e in evaluations]


def _ms(evaluation: Evaluation) -> float:
    return 1000 * (evaluation.latency or 0.0)


def _known(evaluations: Sequence[Evaluation], full: Mapping[int, float]) -> list[int]:
    for number in full:
        if not 0 <= number < len(evaluations) or evaluations[number].score is None:
            raise WeakAudioError(f"full training of evaluation {number}: it has no score in the search")
    return sorted(full)


def _result(winner: Evaluation, budget: float, evaluations: Sequence[Evaluation]) -> list[Block]:
    seconds = sum(evaluation.seconds for evaluation in evaluations)
    numbers = [
        (f"{winner.score:.4g}", "score of the winner, lower is better"),
        (f"{_ms(winner):.3g} ms", f"its latency, of {1000 * budget:.3g} ms"),
        (str(len(evaluations)), "evaluations"),
        (_duration(seconds), "of scoring, summed over processes"),
    ]
    rows = [
        (name, stage.operators.replace("+", ", "), stage.blocks, stage.channels)
        for name, stage in zip(STAGES, winner.architecture.stages, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["stage", "alternating operators", "blocks", "channels"])
    caption = f"Evaluation {winner.number}; its embedding has {winner.architecture.n_features} dimensions."
    return [KeyNumbers(numbers), Table(table, caption)]


def _ancestry(line: Sequence[Evaluation]) -> list[Block]:
    """A table of the mutations that led to the winner."""
    rows: list[dict[str, Any]] = []
    for before, after in zip([None, *line[:-1]], line, strict=True):
        change = "first population"
        if before is not None:
            steps = changes(before.architecture, after.architecture)
            change = "; ".join(f"{step.factor}: {step.before} to {step.after}" for step in steps) or "none"
        gain = None if before is None else _minus(f"{after.known_score - before.known_score:+.3f}")
        rows.append(
            {
                "evaluation": after.number,
                "change": change,
                "latency (ms)": round(_ms(after), 3),
                "score": after.known_score,
                "difference": gain,
            }
        )
    return [Table(pd.DataFrame(rows), "From a random network to the winner; negative differences are improvements.")]


def _best_table(evaluations: Sequence[Evaluation]) -> Table:
    rows = [
        {
            "evaluation": evaluation.number,
            "score": evaluation.known_score,
            "ms": round(_ms(evaluation), 3),
            "stages": " | ".join(map(describe_stage, evaluation.architecture.stages)),
            "features": evaluation.architecture.n_features,
        }
        for evaluation in _ranked(evaluations)[:_BEST]
    ]
    return Table(pd.DataFrame(rows), "Stages: blocks, alternating operators, channels.")


def _agreement(evaluations: Sequence[Evaluation], full: Mapping[int, float]) -> list[Block]:
    rho = rank_correlation(evaluations, full)
    return [
        KeyNumbers([(_minus(f"{rho:.2f}"), f"Spearman's rank correlation over {len(full)} networks")]),
        Picture(
            agreement_figure(evaluations, full),
            "Score in the search and after full training, with the numbers of the evaluations.",
        ),
    ]


def _failures(failed: Sequence[Evaluation]) -> Table:
    counts = Counter(str(evaluation.error) for evaluation in failed)
    first = {str(evaluation.error): evaluation.number for evaluation in reversed(failed)}
    rows = [
        {"networks": count, "first": first[reason], "reason": reason}
        for reason, count in counts.most_common(_REASONS)
    ]
    return Table(pd.DataFrame(rows), f"{len(failed)} networks failed; the log lists them.")


def _settings(settings: Mapping[str, Any]) -> Table:
    rows = [{"setting": name.removeprefix("about, "), "value": value} for name, value in _flat(settings)]
    return Table(pd.DataFrame(rows), "The budget is in seconds.")


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}, ")
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value).replace('"', "")


def _minus(number: str) -> str:
    return number.replace("-", "\u2212")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
