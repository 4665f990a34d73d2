"""How well cheap scores foretell training: rank correlations over random networks of the search space.

    python -m recipes.latency.proxies --teacher MODEL --corpus CORPUS=0.8 AMBIENCES=0.2 --table TABLE --budget-ms 14

Each network, drawn from those within a latency budget as in a search, is scored by its stages, each of which learns
the teacher's maps by itself, by a short training, and by a long one, which is the truth and has a seed of its own.
What is done is not done again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from scipy.stats import spearmanr

from recipes.results import ROOT, Row, record
from weakaudio.errors import WeakAudioError
from weakaudio.nas.blockwise import BlockwiseDistillation
from weakaudio.nas.latency_model import ClipLatency, random_configs
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.proxies import ShortTraining, read_corpora
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace
from weakaudio.nas.stores import StageStore
from weakaudio.nas.workers import scoring
from weakaudio.progress import progress

Judge = BlockwiseDistillation | ShortTraining

SPACE = replace(SearchSpace(), features=(768,))  # stages do not score the embedding
FRONT_END, CLIPS = "efficientat-32k", (10.0, 8)  # the teacher's; seconds and how many at once
TRUTH = "long training"
_FEWEST = 3  # networks of which a rank correlation says anything


def draw(
    n: int, seed: int, space: SearchSpace, latency: Callable[[Mapping[str, Any]], float], budget: float
) -> list[ArchitectureConfig]:
    """Different networks of a space that take no longer than a budget of seconds."""
    configs = random_configs(n, seed, space=space, runs=lambda config: latency(config) <= budget)
    return [ArchitectureConfig.from_config(config) for config in configs]


def score(
    genomes: Sequence[ArchitectureConfig], judges: Mapping[str, Judge], store: StageStore, workers: int = 1
) -> pd.DataFrame:
    """(networks, judges) scores, NaN of networks that could not be scored; the store keeps what is known."""
    for name, judge in judges.items():
        todo = [genome for genome in genomes if f"{name}: {genome.key}" not in store]
        with scoring(judge, workers) as run:
            found = zip(todo, run([genome.to_config() for genome in todo]), strict=True)
            for genome, scored in progress(found, len(todo), name):
                store.add(f"{name}: {genome.key}", scored.score)
    columns = {name: [store[f"{name}: {genome.key}"] for genome in genomes] for name in judges}
    return pd.DataFrame(columns, dtype=float)


def rows(table: pd.DataFrame, data: str) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command, of the networks that all judges could score.

    Raises
    ------
    WeakAudioError
        These are fewer than three.
    """
    table = table.dropna()
    if len(table) < _FEWEST:
        raise WeakAudioError(f"{len(table)} networks could be scored; a rank correlation takes {_FEWEST}")
    for name in table.columns.drop(TRUTH):
        rank = spearmanr(table[name], table[TRUTH]).statistic
        facts = {"what": "proxies", "system": name, "data": data, "n": len(table)}
        yield {**facts, "metric": "rank correlation with long training", "value": float(rank)}


def main(args: Sequence[str] | None = None, root: Path = ROOT, space: SearchSpace = SPACE) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.latency.proxies", description="What cheap scores foretell.")
    parser.add_argument("--teacher", required=True, help="name or path of a model")
    parser.add_argument("--corpus", nargs="+", required=True, help="FOLDER=WEIGHT of prepared corpora")
    parser.add_argument("--table", type=Path, required=True, help="latency table of `recipes.latency.foretold`")
    parser.add_argument("--budget-ms", type=float, required=True, help="that a clip of 10 s may take, batch 8")
    parser.add_argument("--networks", type=int, default=12, help="to be scored")
    parser.add_argument("--stage-steps", type=int, default=100, help="of each stage by itself")
    parser.add_argument("--short-steps", type=int, default=50, help="of a short training")
    parser.add_argument("--long-steps", type=int, default=200, help="of a long one")
    parser.add_argument("--seed", type=int, default=0, help="of the networks that are drawn")
    parser.add_argument("--workers", type=int, default=2, help="processes that score networks")
    parser.add_argument("--out", type=Path, default=Path("runs/latency/proxies"), help="folder for what is known")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.latency.proxies", *(sys.argv[1:] if args is None else args)])
    corpora = read_corpora(given.corpus)
    stages = BlockwiseDistillation(given.teacher, corpora, given.stage_steps, store=given.out / "stages.json")
    short = ShortTraining(given.teacher, corpora, given.short_steps, workers=0)
    long = ShortTraining(given.teacher, corpora, given.long_steps, seed=1, workers=0)
    for judge in (stages, short, long):
        judge.check()
    judges: dict[str, Judge] = {
        f"stages by themselves, {given.stage_steps} steps each": stages,
        f"training, {given.short_steps} steps": short,
        TRUTH: long,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {name: judge.settings for name, judge in judges.items()}
    store = StageStore(given.out / "scores.json", settings)
    latency = ClipLatency(LatencyTable.load(given.table), FRONT_END, *CLIPS)
    drawn = draw(given.networks, given.seed, space, latency, given.budget_ms / 1000)
    table = score(drawn, judges, store, given.workers)
    data = (
        f"{given.networks} random networks that take {given.budget_ms:g} ms or less; long training: "
        f"{given.long_steps} steps of 32 mixtures of 4 s"
    )
    found = list(rows(table, data))
    record("latency", [{**row, "command": command} for row in found], root)
    for row in found:
        Console().print(f"{row['system']}: {row['value']:.3f}")


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"proxies: {error}")
