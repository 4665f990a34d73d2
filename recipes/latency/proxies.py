"""Rank correlation of proxies with the quality after training, over random networks.

    python -m recipes.latency.proxies --teacher MODEL --corpus CORPUS=0.8 AMBIENCES=0.2 --table TABLE --budget-ms 14

Networks drawn from those within a latency budget, as in a search, are scored by blockwise distillation, by a short
training, and by a long one with another seed, which is the reference. Scores are kept, so a killed run resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from scipy.stats import spearmanr

from recipes.command import command
from recipes.results import Row
from weakaudio.errors import WeakAudioError
from weakaudio.nas.blockwise import BlockwiseDistillation
from weakaudio.nas.latency_model import ClipLatency, random_configs
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.proxies import ShortTraining, read_corpora
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace
from weakaudio.nas.stores import StageStore
from weakaudio.nas.workers import scoring
from weakaudio.progress import progress

Proxy = BlockwiseDistillation | ShortTraining

SPACE = replace(SearchSpace(), features=(768,))  # blockwise distillation does not score the embedding
FRONT_END, CLIPS = "efficientat-32k", (10.0, 8)  # the teacher's; seconds and batch of the latency
TRUTH = "long training"
_FEWEST = 3  # networks for a rank correlation


def draw(n: int, seed: int, latency: Callable[[Mapping[str, Any]], float], budget: float) -> list[ArchitectureConfig]:
    """Different networks of the search space that take no longer than a budget of seconds."""
    configs = random_configs(n, seed, space=SPACE, runs=lambda config: latency(config) <= budget)
    return [ArchitectureConfig.from_config(config) for config in configs]


def score(
    architectures: Sequence[ArchitectureConfig], proxies: Mapping[str, Proxy], store: StageStore, workers: int = 1
) -> pd.DataFrame:
    """Scores (networks, proxies), NaN of networks that could not be scored; the store keeps what is known."""
    for name, proxy in proxies.items():
        todo = [architecture for architecture in architectures if f"{name}: {architecture.key}" not in store]
        with scoring(proxy, workers) as run:
            found = zip(todo, run([architecture.to_config() for architecture in todo]), strict=True)
            for architecture, scored in progress(found, len(todo), name):
                store.add(f"{name}: {architecture.key}", scored.score)
    columns = {name: [store[f"{name}: {architecture.key}"] for architecture in architectures] for name in proxies}
    return pd.DataFrame(columns, dtype=float)


def rows(table: pd.DataFrame, data: str) -> Iterator[Row]:
    """Rank correlations over the networks that all proxies could score.

    Raises
    ------
    WeakAudioError
        These are fewer than three.
    """
    table = table.dropna()
    if len(table) < _FEWEST:
        raise WeakAudioError(f"{len(table)} networks could be scored; a rank correlation takes {_FEWEST}")
    for name in table.columns.drop(TRUTH):
        row = {"what": "proxies", "system": name, "data": data, "n": len(table)}
        rank = float(spearmanr(table[name], table[TRUTH]).statistic)
        yield {**row, "metric": "rank correlation with long training", "value": rank}


@command("latency")
def main(
    teacher: Annotated[str, "name or path of a model"],
    corpus: Annotated[Sequence[str], "FOLDER=WEIGHT of prepared corpora"],
    table: Annotated[Path, "latency table of `weakaudio search profile`"],
    budget_ms: Annotated[float, "latency budget of a clip of 10 s, batch 8"],
    networks: Annotated[int, "number of networks that are scored"] = 12,
    stage_steps: Annotated[int, "of blockwise distillation per stage, of the short training, of the long one"] = 100,
    short_steps: Annotated[int, "of blockwise distillation per stage, of the short training, of the long one"] = 50,
    long_steps: Annotated[int, "of blockwise distillation per stage, of the short training, of the long one"] = 200,
    seed: Annotated[int, "of the networks that are drawn"] = 0,
    workers: Annotated[int, "processes that score networks"] = 2,
    out: Annotated[Path, "folder for the scores"] = Path("runs/latency/proxies"),
) -> Iterator[Row]:
    """Measure how well cheap scores predict training."""
    corpora = read_corpora(list(corpus))
    proxies: dict[str, Proxy] = {
        f"blockwise distillation, {stage_steps} steps per stage": BlockwiseDistillation(
            teacher, corpora, stage_steps, store=out / "stages.json"
        ),
        f"short training, {short_steps} steps": ShortTraining(teacher, corpora, short_steps, workers=0),
        TRUTH: ShortTraining(teacher, corpora, long_steps, seed=1, workers=0),
    }
    for proxy in proxies.values():
        proxy.check()
    out.mkdir(parents=True, exist_ok=True)
    store = StageStore(out / "scores.json", {name: proxy.settings for name, proxy in proxies.items()})
    latency = ClipLatency(LatencyTable.load(table), FRONT_END, *CLIPS)
    scores = score(draw(networks, seed, latency, budget_ms / 1000), proxies, store, workers)
    about = f"{networks} random networks that take {budget_ms:g} ms or less"
    yield from rows(scores, f"{about}; long training: {long_steps} steps of 32 mixtures of 4 s")


if __name__ == "__main__":
    raise SystemExit(main())
