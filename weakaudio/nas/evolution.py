"""Ageing evolution under a latency budget (Real et al., arXiv 1802.01548; Fu et al., arXiv 2511.18890).

The first population are random networks within the budget. Then, cycle by cycle, come children: the best of a random
sample is mutated in one factor, mutants that are over budget or already known are drawn again, and for each child
the oldest of the population leaves. Child number n depends only on the seed, on n and on the cycles before it: a
killed search resumes, and any number of processes gives the same log, if a network has the same score in each.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from weakaudio.errors import WeakAudioError
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace, changes
from weakaudio.nas.stores import Evaluation, SearchLog, lock_folder
from weakaudio.nas.workers import ScoreAll, Scorer, one_line, scoring
from weakaudio.progress import progress

Latency = Callable[[dict[str, Any]], float]
"""Gives the seconds of a network, from the arguments of `ArchitectureConfig.to_config`."""

_DRAWS = 100  # random architectures, before the fastest of them is mutated until it meets the budget
_STEPS = 1000  # such mutations
_PARENTS, _MUTATIONS = 10, 20  # tournaments per child, and mutations of each winner


@dataclass(frozen=True)
class Evolution:
    """Settings of a search.

    Raises
    ------
    WeakAudioError
        An invalid setting.
    """

    budget: float
    """seconds, upper bound of a network's latency"""
    space: SearchSpace = field(default_factory=SearchSpace)
    population: int = 50
    sample: int = 12
    """networks of the population, the best of which becomes a parent"""
    children: int = 10
    """per cycle"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget) and self.budget > 0):
            raise WeakAudioError(f"search: a budget of {self.budget} s, expected more than 0")
        for name in ("population", "sample", "children"):
            if getattr(self, name) < 1:
                raise WeakAudioError(f"search: {name} {getattr(self, name)}, expected 1 or more")
        if self.sample > self.population:
            raise WeakAudioError(f"search: a sample of {self.sample} from a population of {self.population}")
        if self.seed < 0:
            raise WeakAudioError(f"search: seed {self.seed}, expected 0 or more")

    def to_config(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**vars(self), "space": self.space.to_config()}


def search(
    evolution: Evolution,
    latency: Latency,
    scorer: Scorer,
    path: str | Path,
    evaluations: int,
    workers: int = 1,
    about: Mapping[str, Any] | None = None,
) -> list[Evaluation]:
    """Start or resume a search; returns all its evaluations.

    Parameters
    ----------
    latency
        Should be deterministic: a table rather than a measurement.
    scorer
        A network for which it raises WeakAudioError or RuntimeError, or gives no finite number, is logged as failed.
    path
        The log: JSON lines, see `SearchLog`.
    evaluations
        Total number, the first population included; a number above that of the log prolongs the search.
    workers
        Processes. With more than one, `scorer` is pickled, and each process has a copy and its share of torch's
        threads; results that depend on how sums are rounded may then differ slightly.
    about
        What decides latency and scores, as JSON; a log is resumed only with the same.

    Raises
    ------
    WeakAudioError
        Nothing in the space meets the budget, all of the first population failed, a process died, or the log cannot
        be written.
    StoreError, ManifestError, WriteError
        The log is damaged, was made with other settings, or is being written by another run; or the scorer misses a
        file, which is no fault of the network.
    """
    if evaluations < 1 or workers < 1:
        raise WeakAudioError(f"search: {evaluations} evaluations in {workers} processes, expected 1 or more of each")
    path = Path(path)
    settings = {**evolution.to_config(), "about": dict(about or {})}
    with lock_folder(path.parent), SearchLog(path, settings) as log:
        todo = evaluations - len(log.evaluations)
        if todo > 0:
            with scoring(scorer, workers) as score_all:
                new = _evolve(evolution, latency, score_all, list(log.evaluations), evaluations)
                for evaluation in progress(new, todo, "searching"):
                    log.add(evaluation)
        return log.evaluations


def best(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the lowest score, the first of equals.

    Raises
    ------
    WeakAudioError
        No evaluation has a score.
    """
    scored = [evaluation for evaluation in evaluations if evaluation.score is not None]
    if not scored:
        raise WeakAudioError("search: no network has a score yet")
    return min(scored, key=lambda e: e.known_score)


def pareto_front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Evaluations that no other one beats in latency and score together; fastest first."""
    scored = [e for e in evaluations if e.score is not None and e.latency is not None]
    front: list[Evaluation] = []
    for evaluation in sorted(scored, key=lambda e: (e.latency, e.score, e.number)):
        if not front or evaluation.known_score < front[-1].known_score:
            front.append(evaluation)
    return front


def ancestry(evaluations: Sequence[Evaluation], number: int) -> list[Evaluation]:
    """The line from the first population to evaluation `number`, each the parent of the next."""
    line = [evaluations[number]]
    while line[-1].parent is not None:
        line.append(evaluations[line[-1].parent])
    return line[::-1]


def _evolve(
    evolution: Evolution, latency: Latency, score_all: ScoreAll, known: list[Evaluation], evaluations: int
) -> Iterator[Evaluation]:
    """The evaluations after the known ones."""
    drawing = _Drawing(evolution, latency, known)
    while len(known) < evaluations:
        start, stop = _cycle(evolution, len(known))
        population: deque[Evaluation] = deque(maxlen=evolution.population)
        population.extend(evaluation for evaluation in known[:start] if evaluation.score is not None)
        if start and not population:
            raise WeakAudioError(
                f"search: none of the first {start} networks has a score; the first: {known[0].error}"
            )
        numbers = range(len(known), min(stop, evaluations))
        drawn = [drawing.child(number, population) if start else drawing.founder(number) for number in numbers]
        to_score = [e.architecture.to_config() for e in drawn if e.error is None and e.same_as is None]
        scored = score_all(to_score)
        for evaluation in drawn:
            if evaluation.same_as is not None:
                same = known[evaluation.same_as]
                evaluation = replace(evaluation, score=same.score, error=same.error)
            elif evaluation.error is None:
                evaluation = replace(evaluation, **next(scored)._asdict())
            known.append(evaluation)
            yield evaluation


def _cycle(evolution: Evolution, number: int) -> tuple[int, int]:
    """First number of the cycle of `number`, and of the next cycle; the first population is a cycle, too."""
    if number < evolution.population:
        return 0, evolution.population
    start = number - (number - evolution.population) % evolution.children
    return start, start + evolution.children


class _Drawing:
    """Draws architectures within the budget, new ones as long as there are any, as evaluations without a score.

    One of unknown latency is drawn as well, so that the log reports it.
    """

    def __init__(self, evolution: Evolution, latency: Latency, known: Sequence[Evaluation]) -> None:
        self.evolution, self.space, self.latency = evolution, evolution.space, latency
        self._numbers: dict[str, int] = {}  # of the evaluations, by their architectures' keys
        self._judged: dict[str, tuple[float | None, str | None]] = {}
        for evaluation in known:
            self._numbers.setdefault(evaluation.architecture.key, evaluation.number)
            if evaluation.latency is not None:
                self._judged[evaluation.architecture.key] = evaluation.latency, None

    def founder(self, number: int) -> Evaluation:
        """A random architecture; where hardly any meets the budget, the nearest is mutated towards it."""
        rng = np.random.default_rng([self.evolution.seed, number])
        nearest: Evaluation | None = None
        for n in range(_DRAWS + _STEPS):
            walks = n >= _DRAWS and nearest is not None
            drawn = self._judge(
                number, self.space.mutate(nearest.architecture, rng) if walks and nearest else self.space.random(rng)
            )
            if self._accept(drawn):
                return drawn
            if drawn.error is None and (nearest is None or self._excess(drawn) <= self._excess(nearest)):
                nearest = drawn
        if nearest is None:
            raise WeakAudioError(f"search: no network has a known latency; the last: {drawn.error}")
        if self._excess(nearest) == 0:
            return nearest
        raise WeakAudioError(
            f"search: nothing meets a budget of {1000 * self.evolution.budget:.4g} ms; the nearest found takes "
            f"{1000 * (nearest.latency or 0.0):.4g} ms ({nearest.architecture.key}); allow more, or smaller networks"
        )

    def child(self, number: int, population: Sequence[Evaluation]) -> Evaluation:
        """A mutation of the best of a random sample."""
        rng = np.random.default_rng([self.evolution.seed, number])
        last: Evaluation | None = None
        for _ in range(_PARENTS):
            rows = rng.choice(len(population), min(self.evolution.sample, len(population)), replace=False)
            parent = min((population[row] for row in sorted(rows)), key=lambda e: e.known_score)
            for _ in range(_MUTATIONS):
                architecture = self.space.mutate(parent.architecture, rng)
                (change,) = changes(parent.architecture, architecture)
                drawn = self._judge(number, architecture, parent.number, change.factor)
                if self._accept(drawn):
                    return drawn
                if drawn.error is None and self._excess(drawn) == 0:
                    last = drawn
        return last or replace(self._judge(number, parent.architecture, parent.number), same_as=parent.number)

    def _judge(
        self, number: int, architecture: ArchitectureConfig, parent: int | None = None, factor: str | None = None
    ) -> Evaluation:
        key, seed = architecture.key, self.evolution.seed
        if key not in self._judged:
            self._judged[key] = _predict(self.latency, architecture)
        latency, error = self._judged[key]
        same_as = self._numbers.get(key)
        return Evaluation(number, architecture, parent, factor, latency, None, 0.0, seed, error, same_as)

    def _accept(self, drawn: Evaluation) -> bool:
        """Whether to evaluate the network: it is new, and within the budget or of unknown latency."""
        new = drawn.same_as is None and (drawn.error is not None or self._excess(drawn) == 0)
        if new:
            self._numbers[drawn.architecture.key] = drawn.number
        return new

    def _excess(self, drawn: Evaluation) -> float:
        """Seconds over budget."""
        assert drawn.latency is not None
        return max(0.0, drawn.latency - self.evolution.budget)


def _predict(latency: Latency, architecture: ArchitectureConfig) -> tuple[float | None, str | None]:
    """Seconds, or why they are unknown."""
    try:
        seconds = float(latency(architecture.to_config()))
    except (WeakAudioError, RuntimeError) as error:
        return None, f"latency: {one_line(error)}"
    if not (math.isfinite(seconds) and seconds >= 0):
        return None, f"latency: {seconds} s"
    return seconds, None
