"""Ageing evolution under a latency bound (Real et al., arXiv 1802.01548; Fu et al., arXiv 2511.18890).

A population of random networks that meet the bound; then, cycle by cycle, children: the best of a random sample has
one factor changed, what comes out is drawn again while it is over budget or known, and for each child the oldest of
the population goes. What child number n is hangs on the seed, n and the cycles before it alone: so a search that was
killed goes on where it was, and any number of processes gives the same log, if a network has the same score in each.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from weakaudio.errors import WeakAudioError
from weakaudio.files import FolderLock
from weakaudio.nas.search_log import Evaluation, SearchLog
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace, changes
from weakaudio.nas.workers import Run, Score, Scored, one_line, scoring
from weakaudio.progress import progress

Latency = Callable[[dict[str, Any]], float]
"""Seconds of a network, of the arguments that `ArchitectureConfig.to_config` gives."""

_DRAWS = 100  # random genomes, before the fastest of them is mutated until it meets the budget
_STEPS = 1000  # of that
_PARENTS, _MUTATIONS = 10, 20  # tournaments for a child, and mutations of each winner


@dataclass(frozen=True)
class Evolution:
    """How to search.

    Raises
    ------
    WeakAudioError
        A setting that cannot be.
    """

    budget: float
    """seconds that a network may take"""
    space: SearchSpace = field(default_factory=SearchSpace)
    population: int = 50
    sample: int = 12
    """of the population, of which the best becomes a parent"""
    children: int = 10
    """in a cycle"""
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
        """As JSON has it."""
        return {**vars(self), "space": self.space.to_config()}


def search(
    evolution: Evolution,
    latency: Latency,
    score: Score,
    path: str | Path,
    evaluations: int,
    workers: int = 1,
    about: Mapping[str, Any] | None = None,
) -> list[Evaluation]:
    """Search, or go on with a search; gives all its evaluations.

    Parameters
    ----------
    latency
        Should say the same each time: a table rather than a measurement.
    score
        Lower is better. A network for which it raises WeakAudioError or RuntimeError, or gives no number, is logged
        and left out.
    path
        The log: JSON lines, see `SearchLog`. More evaluations than it has prolong the search.
    evaluations
        How many there are in the end; the first population counts.
    workers
        Processes. With more than one, `score` is pickled, and each process has a copy and its share of the threads of
        torch; what hangs on how sums are rounded may then come out a little different.
    about
        What decides latency and score, as JSON; a log is gone on with only if it has the same.

    Raises
    ------
    WeakAudioError
        Nothing in the space meets the budget, all of the first population failed, a process died, or the log cannot
        be written.
    StoreError, ManifestError
        The log is damaged, of other settings, or written to by another run; or the score raises one: a file is not to
        be had, which is no fault of the network.
    """
    if evaluations < 1 or workers < 1:
        raise WeakAudioError(f"search: {evaluations} evaluations in {workers} processes, expected 1 or more of each")
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path.parent)
    except OSError as error:
        raise WeakAudioError(f"{path.parent}: cannot be written ({error.strerror or error})") from error
    try:
        with SearchLog(path, {**evolution.to_config(), "about": dict(about or {})}) as log:
            todo = evaluations - len(log.evaluations)
            if todo > 0:
                with scoring(score, workers) as run:
                    new = _evolve(evolution, latency, run, list(log.evaluations), evaluations)
                    for evaluation in progress(new, todo, "searching"):
                        log.add(evaluation)
            return log.evaluations
    finally:
        lock.release()


def best(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of the lowest score, the first of equals.

    Raises
    ------
    WeakAudioError
        There is none with a score.
    """
    scored = [evaluation for evaluation in evaluations if evaluation.score is not None]
    if not scored:
        raise WeakAudioError("search: no network has a score yet")
    return min(scored, key=_score)


def frontier(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Evaluations than which none is as fast and better, or as good and faster; fastest first."""
    scored = [e for e in evaluations if e.score is not None and e.latency is not None]
    front: list[Evaluation] = []
    for evaluation in sorted(scored, key=lambda e: (e.latency, e.score, e.number)):
        if not front or _score(evaluation) < _score(front[-1]):
            front.append(evaluation)
    return front


def ancestry(evaluations: Sequence[Evaluation], number: int) -> list[Evaluation]:
    """From one of the first population to evaluation `number`, each the parent of the next."""
    line = [evaluations[number]]
    while line[-1].parent is not None:
        line.append(evaluations[line[-1].parent])
    return line[::-1]


def _evolve(
    evolution: Evolution, latency: Latency, run: Run, known: list[Evaluation], evaluations: int
) -> Iterator[Evaluation]:
    """The evaluations that come after those that are known."""
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
        children = [drawing.child(number, population) if start else drawing.founder(number) for number in numbers]
        scored = run([drawn.genome.to_config() for drawn in children if drawn.to_score])
        for number, drawn in zip(numbers, children, strict=True):
            if drawn.same_as is not None:
                same = known[drawn.same_as]
                result = Scored(same.score, same.error, 0.0)
            else:
                result = next(scored) if drawn.to_score else Scored(None, drawn.error, 0.0)
            evaluation = Evaluation(
                number=number,
                genome=drawn.genome,
                parent=drawn.parent,
                factor=drawn.factor,
                latency=drawn.latency,
                score=result.score,
                seconds=result.seconds,
                seed=evolution.seed,
                error=result.error,
                same_as=drawn.same_as,
            )
            known.append(evaluation)
            yield evaluation


def _cycle(evolution: Evolution, number: int) -> tuple[int, int]:
    """First number of the cycle that `number` is in, and of the next; the first population is a cycle, too."""
    if number < evolution.population:
        return 0, evolution.population
    start = number - (number - evolution.population) % evolution.children
    return start, start + evolution.children


class _Drawn(NamedTuple):
    """A genome that is next."""

    genome: ArchitectureConfig
    latency: float | None
    error: str | None = None
    """why its latency cannot be told"""
    same_as: int | None = None
    parent: int | None = None
    factor: str | None = None

    @property
    def to_score(self) -> bool:
        return self.error is None and self.same_as is None


class _Drawing:
    """Draws genomes within the budget; new ones as long as it finds some.

    One whose latency cannot be told is drawn as well, so that the log tells of it.
    """

    def __init__(self, evolution: Evolution, latency: Latency, known: Sequence[Evaluation]) -> None:
        self.evolution, self.space, self.latency = evolution, evolution.space, latency
        self._numbers: dict[str, int] = {}  # of the evaluations, by their genomes' keys
        self._judged: dict[str, tuple[float | None, str | None]] = {}
        for evaluation in known:
            self._numbers.setdefault(evaluation.genome.key, evaluation.number)
            if evaluation.latency is not None:
                self._judged[evaluation.genome.key] = evaluation.latency, None

    def founder(self, number: int) -> _Drawn:
        """A random genome; where hardly any meets the budget, the nearest is mutated to come nearer."""
        rng = np.random.default_rng([self.evolution.seed, number])
        nearest: _Drawn | None = None
        for n in range(_DRAWS + _STEPS):
            walks = n >= _DRAWS and nearest is not None
            drawn = self._judge(
                self.space.mutate(nearest.genome, rng) if walks and nearest else self.space.random(rng)
            )
            if self._new(drawn):
                self._numbers[drawn.genome.key] = number
                return drawn
            if drawn.error is None and (nearest is None or self._excess(drawn) <= self._excess(nearest)):
                nearest = drawn
        if nearest is None:
            raise WeakAudioError(f"search: the latency of no network can be told; the last: {drawn.error}")
        if self._excess(nearest) == 0:
            return nearest
        raise WeakAudioError(
            f"search: nothing meets a budget of {1000 * self.evolution.budget:.4g} ms; the nearest found takes "
            f"{1000 * (nearest.latency or 0.0):.4g} ms ({nearest.genome.key}); allow more, or smaller networks"
        )

    def child(self, number: int, population: Sequence[Evaluation]) -> _Drawn:
        """A mutation of the best of a random sample."""
        rng = np.random.default_rng([self.evolution.seed, number])
        last: _Drawn | None = None
        for _ in range(_PARENTS):
            rows = rng.choice(len(population), min(self.evolution.sample, len(population)), replace=False)
            parent = min((population[row] for row in sorted(rows)), key=_score)
            for _ in range(_MUTATIONS):
                genome = self.space.mutate(parent.genome, rng)
                (change,) = changes(parent.genome, genome)
                drawn = self._judge(genome)._replace(parent=parent.number, factor=change.factor)
                if self._new(drawn):
                    self._numbers[genome.key] = number
                    return drawn
                if drawn.error is None and self._excess(drawn) == 0:
                    last = drawn
        return last or _Drawn(parent.genome, parent.latency, same_as=parent.number, parent=parent.number)

    def _judge(self, genome: ArchitectureConfig) -> _Drawn:
        if genome.key not in self._judged:
            self._judged[genome.key] = _tell(self.latency, genome)
        return _Drawn(genome, *self._judged[genome.key], same_as=self._numbers.get(genome.key))

    def _new(self, drawn: _Drawn) -> bool:
        return drawn.same_as is None and (drawn.error is not None or self._excess(drawn) == 0)

    def _excess(self, drawn: _Drawn) -> float:
        """Seconds over budget."""
        assert drawn.latency is not None
        return max(0.0, drawn.latency - self.evolution.budget)


def _tell(latency: Latency, genome: ArchitectureConfig) -> tuple[float | None, str | None]:
    """Seconds, or why they cannot be told."""
    try:
        seconds = float(latency(genome.to_config()))
    except (WeakAudioError, RuntimeError) as error:
        return None, f"latency: {one_line(error)}"
    if not (math.isfinite(seconds) and seconds >= 0):
        return None, f"latency: {seconds} s"
    return seconds, None


def _score(evaluation: Evaluation) -> float:
    assert evaluation.score is not None
    return evaluation.score
