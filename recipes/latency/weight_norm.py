"""What weight normalisation brings: N_S and a flash network, with and without, on soundscapes.

    python -m recipes.latency.weight_norm --corpus runs/soundscapes/corpus --seeds 1 2 3 --epochs 20

From the project's folder. What is done is not done again, and a run that was killed goes on where it was. Batch
normalisation leaves a filter's scale free, so what changes is the learning rate in effect: compare at more than one
(`--learning-rate`) before either is called better.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recipes.results import Row, record
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import Evaluation, evaluate
from weakaudio.pretrained import load_model
from weakaudio.training.fit import METRICS, MODEL, train

RUNS = Path("runs/latency/weight_norm")

NETWORKS = {
    "N_S": ["--model.network=weakcnn", "--model.network_config={width: 0.25}"],
    "flash": [
        "--model.network=flash",
        "--model.network_config="
        "{stages: [[dense, 1, 16], [dense, 1, 48], [dense, 1, 96], [dense, 1, 192]], n_features: 512}",
    ],
}
UNIT_NORM = ", weights of unit norm"
SYSTEMS = [name + suffix for name in NETWORKS for suffix in ("", UNIT_NORM)]

_COMMON = [
    "--model.front_end=16k",
    "--model.channels_last=true",
    "--data.batch_seconds=80",
    "--trainer.devices=1",
    "--trainer.precision=auto",
]
_CALLBACK = "--trainer.callbacks+=weakaudio.training.weight_norm.WeightNormalisation"


class Budget(NamedTuple):
    """What all systems have alike."""

    epochs: int
    learning_rate: float = 3e-3


class Found(NamedTuple):
    """Of one run."""

    evaluation: Evaluation
    early: float
    """mAP on the validation clips after a quarter of the epochs, or the first one"""


def train_once(
    system: str, seed: int, budget: Budget, folder: Path, corpus: Path, overrides: Sequence[str] = ()
) -> Path:
    """The folder of one run, trained unless its model is there already.

    A seed enters twice: initial weights, and order of the clips. It is the same for a network with and without.
    """
    name = system.removesuffix(UNIT_NORM)
    projected = system != name
    out = folder / f"{name}{'-unit-norm' * projected}-{budget.epochs}-{budget.learning_rate:g}-seed{seed}"
    if not (out / MODEL).is_file():
        options = [*_COMMON, *NETWORKS[name], *([_CALLBACK] if projected else [])]
        options += [f"--model.learning_rate={budget.learning_rate}", f"--trainer.max_epochs={budget.epochs}"]
        options += [f"--seed_everything={seed}", f"--data.seed={seed - 1}"]
        train([*options, f"--data.root={corpus}", f"--out={out}", *overrides])
    return out


def measure(run: Path, corpus: Path) -> Found:
    """Evaluate a finished run; tables by class are left beside it."""
    evaluation = evaluate(load_model(run / MODEL), Corpus(corpus))
    evaluation.save(run / "evaluation")
    history = pd.read_csv(run / METRICS)["val_mAP"]
    return Found(evaluation, float(history[_early(len(history)) - 1]))


def _early(epochs: int) -> int:
    return max(epochs // 4, 1)


def rows(found: Mapping[str, Sequence[Found]], budget: Budget, command: str) -> list[Row]:
    """Means over seeds, with the standard deviation where there are several.

    The gain is of each seed with and without, and so is its spread: what seeds have in common is not in it.
    """
    some = found[SYSTEMS[0]][0].evaluation
    data = (
        f"{some.clip.n_clips} test clips, {some.audio_seconds / 3600:.2f} h, {some.clip.n_classes} classes; "
        f"{budget.epochs} epochs, learning rate {budget.learning_rate:g}"
    )
    table: list[Row] = []
    for system in SYSTEMS:
        scores = [run.evaluation.clip.mean_ap for run in found[system]]
        values = {
            "mAP": scores,
            "lwlrap": [run.evaluation.clip.lwlrap for run in found[system]],
            f"validation mAP, epoch {_early(budget.epochs)} of {budget.epochs}": [run.early for run in found[system]],
        }
        if system.endswith(UNIT_NORM):
            without = [run.evaluation.clip.mean_ap for run in found[system.removesuffix(UNIT_NORM)]]
            values["mAP gained"] = [one - other for one, other in zip(scores, without, strict=True)]
        for metric, of_seeds in values.items():
            facts = {"what": "weight normalisation", "system": system, "metric": metric, "data": data}
            spread = {"spread": float(np.std(of_seeds, ddof=1))} if len(of_seeds) > 1 else {}
            figure = {"value": float(np.mean(of_seeds)), "n": len(of_seeds), **spread}
            table.append({**facts, "command": command, **figure})
    return table


def main(args: Sequence[str] | None = None, overrides: Sequence[str] = ()) -> None:
    """The command; figures are recorded after each seed."""
    parser = argparse.ArgumentParser("python -m recipes.latency.weight_norm", description="Weight normalisation.")
    parser.add_argument("--corpus", type=Path, required=True, help="prepared by recipes.soundscapes.run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a run of each system for each")
    parser.add_argument("--epochs", type=int, default=20, help="of each run")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its highest")
    options = parser.parse_args(args)
    budget = Budget(options.epochs, options.learning_rate)
    seeds = " ".join(map(str, options.seeds))
    command = (
        f"python -m recipes.latency.weight_norm --corpus {options.corpus} --seeds {seeds} "
        f"--epochs {budget.epochs} --learning-rate {budget.learning_rate:g}"
    )
    found: dict[str, list[Found]] = {system: [] for system in SYSTEMS}
    for seed in options.seeds:
        for system in SYSTEMS:
            run = train_once(system, seed, budget, RUNS, options.corpus, overrides)
            found[system].append(measure(run, options.corpus))
        record("latency", rows(found, budget, command))


if __name__ == "__main__":
    main()
