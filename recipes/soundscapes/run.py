"""N_S against SLAT on soundscapes: prepare, train, evaluate, record.

    python -m recipes.soundscapes.run --data ../shared/data --seeds 1 2 3

From the project's folder. Finished runs are used again, and a killed one resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd

from recipes.command import command, over_seeds
from recipes.results import Row
from recipes.soundscapes.corpus import prepare
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import Evaluation, evaluate
from weakaudio.networks.runtime import find_device
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import METRICS, MODEL, train

RUNS = Path("runs/soundscapes")
_HERE = Path(__file__).parent


# SLAT's epochs take more than twice as long: N_S is measured after as much time, and after as many epochs.
# A row of the tables: name of its YAML file, and epochs.
SYSTEMS = {
    "N_S (weak labels), 20 epochs": ("weak", 20),
    "N_S (weak labels), 10 epochs": ("weak", 10),
    "SLAT, 10 epochs": ("slat", 10),
}


def train_once(out: Path, config: str, corpus: Path, seed: int, options: Sequence[str]) -> Path:
    """Path of the model of a run in folder `out`, trained by a YAML file of this recipe unless it exists.

    The seed enters twice: initial weights, and order of the clips.
    """
    if not (out / MODEL).is_file():
        seeds = [f"--seed_everything={seed}", f"--data.seed={seed - 1}"]
        train([f"--config={_HERE / config}.yaml", *seeds, f"--data.root={corpus}", f"--out={out}", *options])
    return out / MODEL


def about(evaluation: Evaluation) -> str:
    """Description of the test clips for a table."""
    clip = evaluation.clip
    return f"{clip.n_clips} test clips, {evaluation.audio_seconds / 3600:.2f} h, {clip.n_classes} classes"


def measure(folder: Path, corpus: Path, seeds: Sequence[int], overrides: Sequence[str] = ()) -> Iterator[Row]:
    """Train each system with each seed, and evaluate it; tables by class are written into the folders of the runs."""
    for name, (config, epochs) in SYSTEMS.items():
        evaluations, training = [], []
        for seed in seeds:
            out = folder / f"{config}-{epochs}{'' if seed == 1 else f'-seed{seed}'}"
            model = load_model(train_once(out, config, corpus, seed, [f"--trainer.max_epochs={epochs}", *overrides]))
            evaluations.append(evaluate(model, Corpus(corpus), device=find_device("auto")))
            evaluations[-1].save(out / "evaluation")
            # The median: other work on the machine may slow some epochs down.
            training.append(float(pd.read_csv(out / METRICS)["seconds"].median()))
        yield from rows(name, evaluations, training)
    chance = {"what": "clips", "system": "chance (class prevalence)", "metric": "mAP", "data": about(evaluations[0])}
    yield {**chance, "value": evaluations[0].clip.prevalence}


def rows(system: str, evaluations: Sequence[Evaluation], training: Sequence[float]) -> Iterator[Row]:
    """Means over the seeds of a system; `training` has the seconds per epoch, with validation."""
    segment, event = [e.segment for e in evaluations if e.segment], [e.event for e in evaluations if e.event]
    psds = [e.psds for e in evaluations if e.psds]
    values: dict[tuple[str, str], Sequence[float]] = {
        ("clips", "mAP"): [e.clip.mean_ap for e in evaluations],
        ("clips", "mAUC"): [e.clip.mean_auc for e in evaluations],
        ("clips", "d'"): [e.clip.d_prime for e in evaluations],
        ("clips", "lwlrap"): [e.clip.lwlrap for e in evaluations],
        ("localisation", "segment F1, macro"): [f1.macro.f1 for f1 in segment],
        ("localisation", "segment F1, micro"): [f1.micro.f1 for f1 in segment],
        ("localisation", "event F1, macro"): [f1.macro.f1 for f1 in event],
        ("localisation", "event F1, micro"): [f1.micro.f1 for f1 in event],
        ("localisation", "PSDS 1"): [score.scenario1 for score in psds],
        ("localisation", "PSDS 2"): [score.scenario2 for score in psds],
        ("time", "training, s an epoch"): training,
        ("time", "inference, s"): [e.seconds for e in evaluations],
    }
    for (what, metric), one in values.items():
        if one and np.isfinite(one).all():  # d' of a perfect score is infinite
            row = {"what": what, "system": system, "metric": metric, "data": about(evaluations[0])}
            yield {**row, **over_seeds(one)}


@command("soundscapes")
def main(
    data: Annotated[Path, "folder with esc50-16k/, urbansound8k/ and backgrounds/"],
    seeds: Annotated[Sequence[int], "a run of each system for each"] = (1, 2, 3),
) -> Iterator[Row]:
    """Compare N_S with SLAT."""
    return measure(RUNS, prepare(data, RUNS), seeds)


if __name__ == "__main__":
    raise SystemExit(main())
