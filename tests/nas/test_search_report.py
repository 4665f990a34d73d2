"""What a page of a search says is what its log holds."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from search_stand_ins import EVOLUTION, latency, picky_score

from weakaudio.errors import WeakAudioError
from weakaudio.nas.evolution import search
from weakaudio.nas.search_report import (
    agreement_figure,
    course_figure,
    pareto_figure,
    rank_correlation,
    read_full,
    search_page,
)
from weakaudio.nas.search_space import changes
from weakaudio.nas.stores import Evaluation, read_log

ABOUT = {"latency": {"batch": 8}, "proxy": {"name": "blockwise", "steps": 300, "corpora": [["sounds", 0.5]]}}


class Search:
    """A search, and its numbers in a form that is easy to count in."""

    def __init__(self, settings: dict[str, Any], evaluations: list[Evaluation]) -> None:
        self.settings, self.all = settings, evaluations
        self.scores = {e.number: e.score for e in evaluations if e.score is not None}
        self.best = min(self.scores, key=lambda number: self.scores[number])

    @cached_property
    def plain_page(self) -> str:
        return self.page(None)

    def page(self, full: dict[int, float] | None) -> str:
        return search_page(self.settings, self.all, full)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Search:
    path = tmp_path_factory.mktemp("search") / "search.jsonl"
    search(EVOLUTION, latency, picky_score, path, 60, about=ABOUT)
    return Search(*read_log(path))


def tables(page: str) -> list[pd.DataFrame]:
    """Of a page, as text; in the order of the page."""
    found = []
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        rows = re.findall(r"<tr.*?>(.*?)</tr>", table, re.DOTALL)
        cells = [[html.unescape(cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]
        found.append(pd.DataFrame(cells[1:], columns=cells[0]))
    return found


def test_the_winner_and_its_stages_come_first(found: Search) -> None:
    page, winner = found.plain_page, found.all[found.best]
    for number in (f"{winner.score:.4g}", f"{1000 * winner.latency:.3g} ms", "60"):
        assert f"<dd>{number}</dd>" in page
    stages = tables(page)[0]
    assert [list(row) for row in stages.to_numpy()[:, 2:]] == [
        [str(blocks), str(channels)] for _, blocks, channels in winner.architecture.stages
    ]
    assert f"Evaluation {winner.number}; its embedding has {winner.architecture.n_features} dimensions." in page


def test_the_ancestry_is_each_mutation_that_led_to_the_winner(found: Search) -> None:
    line = [found.all[found.best]]
    while line[0].parent is not None:
        line.insert(0, found.all[line[0].parent])
    assert len(line) > 2
    table = tables(found.plain_page)[1]
    assert list(table["evaluation"]) == [str(e.number) for e in line]
    assert table["change"][0] == "first population"
    for before, after, said in zip(line, line[1:], table["change"][1:], strict=False):
        (change,) = changes(before.architecture, after.architecture)
        assert said == f"{after.factor}: {change.before} to {change.after}"
    differences = [float(said.replace("\u2212", "-")) for said in table["difference"][1:]]
    assert sum(differences) == pytest.approx(line[-1].score - line[0].score, abs=5e-4 * len(differences))


def test_the_best_are_in_their_order_each_once(found: Search) -> None:
    table = tables(found.plain_page)[2]
    assert list(table["evaluation"]) == [str(n) for n in sorted(found.scores, key=lambda n: found.scores[n])[:10]]
    for number, stages, features in table[["evaluation", "stages", "features"]].to_numpy():
        assert f"{stages} | {features}" == found.all[int(number)].architecture.key


def test_what_failed_is_counted_by_its_reason(found: Search) -> None:
    failed = Counter(e.error for e in found.all if e.error)
    table = tables(found.plain_page)[3]
    assert dict(zip(table["reason"], map(int, table["networks"]), strict=True)) == failed
    for reason, first in zip(table["reason"], table["first"], strict=True):
        assert int(first) == next(e.number for e in found.all if e.error == reason)
    all_well = search_page(found.settings, [replace(e, score=1.0, error=None) for e in found.all])
    assert "Failures" in found.plain_page
    assert "Failures" not in all_well


def test_settings_are_there_by_their_names(found: Search) -> None:
    table = tables(found.plain_page)[-1]
    said = dict(zip(table["setting"], table["value"], strict=True))
    assert said["budget"] == "0.02"
    assert said["space, features"] == "[64, 128]"
    assert (said["latency, batch"], said["proxy, name"], said["proxy, corpora"]) == (
        "8",
        "blockwise",
        "[[sounds, 0.5]]",
    )


def test_a_page_fetches_nothing(found: Search) -> None:
    page = found.page(dict(list(found.scores.items())[:5]))
    assert page.count("<img") == 3
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)


def test_the_pareto_front_is_drawn_through_what_nothing_beats(found: Search) -> None:
    (axes,) = pareto_figure(found.all, 0.02).axes
    points = [(1000 * found.all[n].latency, score) for n, score in found.scores.items()]
    unbeaten = sorted(
        (ms, value)
        for ms, value in points
        if not any((a <= ms and b < value) or (a < ms and b <= value) for a, b in points)
    )
    line, limit = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), unbeaten)
    assert list(limit.get_xdata()) == [20.0, 20.0]
    others, star = axes.collections
    assert sorted(map(tuple, others.get_offsets().tolist())) == sorted(points)
    np.testing.assert_array_equal(star.get_offsets(), [min(points, key=lambda point: point[1])])


def test_the_course_is_the_best_so_far(found: Search) -> None:
    (axes,) = course_figure(found.all, 12).axes
    steps, failed = axes.lines
    for number, value in zip(*steps.get_data(), strict=True):
        assert value == min(score for n, score in found.scores.items() if n <= number)
    assert steps.get_xdata()[-1] == 59
    assert list(failed.get_xdata()) == [e.number for e in found.all if e.error]


def test_a_search_that_has_only_begun_has_a_page_and_one_without_scores_has_none(found: Search) -> None:
    first = min(found.scores)
    assert f"<dd>{first + 1}</dd>" in search_page(found.settings, found.all[: first + 1])
    for none in ([], [e for e in found.all if e.error]):
        with pytest.raises(WeakAudioError, match="no network has a score yet"):
            search_page(found.settings, none)


def test_repeated_networks_are_shown_once(found: Search) -> None:
    again = [*found.all, replace(found.all[found.best], number=60, same_as=found.best, parent=None)]
    assert tables(search_page(found.settings, again))[2].equals(tables(found.plain_page)[2])


# --- the proxy against full training


def test_the_rank_correlation_is_spearmans(found: Search, rng: np.random.Generator) -> None:
    numbers = list(found.scores)[:12]
    full = {n: round(found.scores[n] + rng.normal(0, 0.3), 1) for n in rng.permutation(numbers).tolist()}  # with ties
    scores = [found.scores[n] for n in numbers]
    expected = spearmanr(scores, [full[n] for n in numbers]).statistic
    assert 0.1 < expected < 0.99
    assert rank_correlation(found.all, full) == pytest.approx(expected)
    ranks = pd.DataFrame({"a": scores, "b": [full[n] for n in numbers]}).rank()
    assert rank_correlation(found.all, full) == pytest.approx(np.corrcoef(ranks["a"], ranks["b"])[0, 1])
    page = found.page(full)
    assert f"<dd>{expected:.2f}</dd>" in page
    assert "rank correlation over 12 networks" in page
    reverse = {n: -found.scores[n] for n in numbers}
    assert rank_correlation(found.all, reverse) == pytest.approx(-1)
    assert "<dd>\u22121.00</dd>" in found.page(reverse)
    (axes,) = agreement_figure(found.all, full).axes
    assert sorted(map(tuple, axes.collections[0].get_offsets().tolist())) == sorted(
        (found.scores[n], full[n]) for n in numbers
    )
    assert sorted(text.get_text() for text in axes.texts) == sorted(map(str, numbers))


def failed_number(found: Search) -> int:
    return next(e.number for e in found.all if e.error)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: dict.fromkeys(list(s.scores)[:2], 1.0), "full training of 2 networks: .* needs 3 or more"),
        (lambda s: dict.fromkeys(list(s.scores)[:4], 1.0), "all networks have the same score"),
        (lambda s: {**s.scores, 99: 1.0}, "evaluation 99: it has no score in the search"),
        (lambda s: {**s.scores, -1: 1.0}, "evaluation -1: it has no score in the search"),
        (lambda s: {**s.scores, failed_number(s): 1.0}, r"evaluation \d+: it has no score in the search"),
    ],
)
def test_what_has_no_rank_correlation_is_refused(
    found: Search, make: Callable[[Search], dict[int, float]], words: str
) -> None:
    for of in (found.page, lambda full: rank_correlation(found.all, full)):
        with pytest.raises(WeakAudioError, match=words):
            of(make(found))


def written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_of_full_training_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "full.csv", ["note,score,number", "long,0.25,3", ",-1e3,0"])
    assert read_full(path) == {3: 0.25, 0: -1000.0}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["number,loss", "1,2"], "expected columns number and score, found number, loss"),
        (["number,score", "1,2", "1,3"], "line 3: evaluation 1 is listed twice"),
        (["number,score", "1,2", "2,inf"], "line 3: evaluation 2 is listed twice or has no finite score"),
        (["number,score", "1,2", "2,"], "line 3: evaluation 2 is listed twice or has no finite score"),
        (["number,score", "1,low"], "line 2: .*expected numbers"),
        (["number,score", "first,1"], "line 2: .*expected numbers"),
        (["number,score", "1,1", ",1"], "line 3: .*expected numbers"),
        (["number,score", "1,1", "inf,1"], "line 3: .*expected numbers"),
        (["number,score", "1,1", "2.5,1"], "line 3: evaluation 2.5: expected an integer"),
    ],
)
def test_tables_of_something_else_are_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(WeakAudioError, match=words) as caught:
        read_full(written(tmp_path / "full.csv", lines))
    assert "full.csv" in str(caught.value)
