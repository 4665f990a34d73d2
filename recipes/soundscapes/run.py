"""N_S against SLAT on soundscapes: prepare, train, evaluate, record.

    python -m recipes.soundscapes.run --data ../shared/data --seeds 1 2 3

From the project's folder. What is done is not done again, and a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from recipes.results import Row, record
from recipes.soundscapes.corpus import prepare
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import Evaluation, evaluate
from weakaudio.pretrained import load_model
from weakaudio.training.fit import METRICS, MODEL, train


class System(NamedTuple):
    """A row of the tables."""

    config: str
    """name of the YAML file"""
    epochs: int

    @property
    def folder(self) -> str:
        """of its first run"""
        return f"{self.config}-{self.epochs}"


# SLAT's epochs take more than twice as long: N_S is measured after as much time, and after as many epochs.
SYSTEMS = {
    "N_S (weak labels), 20 epochs": System("weak", 20),
    "N_S (weak labels), 10 epochs": System("weak", 10),
    "SLAT, 10 epochs": System("slat", 10),
}
RUNS = Path("runs/soundscapes")

_HERE = Path(__file__).parent
_COMMAND = "python -m recipes.soundscapes.run --data ../shared/data --seeds 1 2 3"


def train_once(system: System, seed: int, folder: Path, corpus: Path, overrides: Sequence[str] = ()) -> Path:
    """The folder of one run, trained unless its model is there already.

    A seed enters twice: initial weights, and order of the clips.
    """
    out = folder / (system.folder if seed == 1 else f"{system.folder}-seed{seed}")
    if not (out / MODEL).is_file():
        config = f"--config={_HERE / system.config}.yaml"
        options = [f"--seed_everything={seed}", f"--data.seed={seed - 1}", f"--trainer.max_epochs={system.epochs}"]
        train([config, *options, f"--data.root={corpus}", f"--out={out}", *overrides])
    return out


def measure(folder: Path, corpus: Path, seeds: Sequence[int], overrides: Sequence[str] = ()) -> list[Row]:
    """Rows for `recipes.results` of all systems, each trained with each seed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runs = {
        name: [train_once(system, seed, folder, corpus, overrides) for seed in seeds]
        for name, system in SYSTEMS.items()
    }
    test = Corpus(corpus)
    found: dict[str, list[Evaluation]] = {}
    for system, outs in runs.items():
        found[system] = [evaluate(load_model(out / MODEL), test, device=device) for out in outs]
        for out, evaluation in zip(outs, found[system], strict=True):
            evaluation.save(out / "evaluation")
    return rows(found, {system: [_seconds(out) for out in outs] for system, outs in runs.items()})


def rows(found: Mapping[str, Sequence[Evaluation]], training: Mapping[str, Sequence[float]]) -> list[Row]:
    """Means over seeds, with the standard deviation where there are several."""
    some = next(iter(found.values()))[0]
    data = f"{some.clip.n_clips} test clips, {some.audio_seconds / 3600:.2f} h, {some.clip.n_classes} classes"
    table: list[Row] = []

    def add(what: str, system: str, metric: str, values: Sequence[float]) -> None:
        if not np.isfinite(values).all():  # d' of a perfect score
            return
        facts = {"what": what, "system": system, "metric": metric, "data": data, "command": _COMMAND}
        spread = {"spread": float(np.std(values, ddof=1))} if len(values) > 1 else {}
        table.append({**facts, "value": float(np.mean(values)), "n": len(values), **spread})

    add("clips", "prevalence (knows nothing)", "mAP", [some.clip.prevalence])
    for system, evaluations in found.items():
        add("clips", system, "mAP", [e.clip.mean_ap for e in evaluations])
        add("clips", system, "mAUC", [e.clip.mean_auc for e in evaluations])
        add("clips", system, "d'", [e.clip.d_prime for e in evaluations])
        add("clips", system, "lwlrap", [e.clip.lwlrap for e in evaluations])
        for kind in ("segment", "event"):
            f1 = [getattr(e, kind) for e in evaluations]
            add("localisation", system, f"{kind} F1, macro", [score.macro.f1 for score in f1])
            add("localisation", system, f"{kind} F1, micro", [score.micro.f1 for score in f1])
        scores = [e.psds for e in evaluations if e.psds]
        add("localisation", system, "PSDS 1", [score.scenario1 for score in scores])
        add("localisation", system, "PSDS 2", [score.scenario2 for score in scores])
        add("time", system, "training, s an epoch", training[system])
        add("time", system, "inference, s", [e.seconds for e in evaluations])
    return table


def _seconds(run: Path) -> float:
    """Of an epoch with its validation: the median, as other work on the machine may hold some epochs up."""
    return float(pd.read_csv(run / METRICS)["seconds"].median())


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m recipes.soundscapes.run", description="N_S against SLAT.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with esc50-16k/, urbansound8k/ and backgrounds/"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a run of each system for each")
    options = parser.parse_args(args)
    corpus = prepare(options.data, RUNS)
    record("soundscapes", measure(RUNS, corpus, options.seeds))


if __name__ == "__main__":
    main()
