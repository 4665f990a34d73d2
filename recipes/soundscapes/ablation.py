"""Effect of each pooling, network and training technique, at a small and equal budget.

    python -m recipes.soundscapes.ablation --data ../shared/data --seeds 1 2
    python -m recipes.soundscapes.ablation --data ../shared/data --only mixup focal

From the project's folder. Finished runs are used again, and a killed one resumes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from weakaudio_data_prep.soundscapes import SETTINGS

from recipes.command import command, over_seeds
from recipes.results import Row
from recipes.soundscapes.corpus import prepare
from recipes.soundscapes.run import RUNS, about, train_once
from weakaudio.audio.io import find_audio
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import Evaluation, evaluate
from weakaudio.pretrained.registry import load_model

BASE = "baseline (mean pooling)"
_UNIT_NORM = "--trainer.callbacks+=weakaudio.training.weight_norm.WeightNormalisation"
_FLASH = [
    "--model.network=flash",
    "--model.network_config={stages: [[dense, 1, 16], [dense, 1, 48], [dense, 1, 96], [dense, 1, 192]], "
    "n_features: 512}",
]

# N_S at an eighth of the width, four rounds of 100 batches of the small corpus: the others differ from it in one
# thing. {rooms}, {ambiences} and {teacher} are filled in. Weight normalisation changes the learning rate in effect.
BUDGET = ["--model.network_config.width=0.125", "--trainer.max_epochs=4", "--trainer.limit_train_batches=100"]
BUDGET += ["--trainer.precision=bf16-mixed"]  # also where "auto" would not choose it, so that figures compare
TEACHER = ["--trainer.max_epochs=6"]  # at a quarter of the width
VARIANTS: dict[str, list[str]] = {
    BASE: [],
    "pooling: max": ["--model.network_config.pooling=max"],
    "pooling: linear softmax": ["--model.network_config.pooling=linear-softmax"],
    "pooling: exponential softmax": ["--model.network_config.pooling=exponential-softmax"],
    "pooling: auto": ["--model.network_config.pooling=auto"],
    "pooling: attention": ["--model.network_config.pooling=attention"],
    "class-balanced sampling": ["--data.balanced=true"],
    "gain, shift, polarity": ["--data.augment={gain_db: 6, shift: 0.5, polarity: true}"],
    "impulse responses": ["--data.augment={impulse_responses: {rooms}}"],
    "background noise": ["--data.augment={backgrounds: {ambiences}}"],
    "SpecAugment": ["--model.time_mask=64", "--model.mel_mask=8"],
    "mixup of waveforms": ["--model.mixup=waveform"],
    "mixup of log-mels": ["--model.mixup=logmel"],
    "label smoothing 0.1": ["--model.label_smoothing=0.1"],
    "focal loss, gamma 2": ["--model.focal_gamma=2"],
    "EMA of weights": ["--averaging.kind=ema", "--averaging.decay=0.98"],
    "stochastic weight averaging": ["--averaging.kind=swa"],
    "1 % warm-up": ["--model.warmup=0.01"],
    "gradients clipped at 1": ["--trainer.gradient_clip_val=1.0"],
    "gradients of two batches": ["--trainer.accumulate_grad_batches=2"],
    "float32 in place of bf16": ["--trainer.precision=32-true"],
    "distillation from quarter width": ["--teacher={teacher}"],
    "weight normalisation": [_UNIT_NORM],
    "flash network": _FLASH,
    "flash network, weight normalisation": [*_FLASH, _UNIT_NORM],
}


def materials(data: Path, folder: Path, corpus: Path, overrides: Sequence[str] = ()) -> dict[str, Path]:
    """What the variants need: rooms (decaying noise), the ambiences of the training clips, and a teacher."""
    rooms, ambiences = folder / "rooms", folder / "ambiences"
    rooms.mkdir(parents=True, exist_ok=True)
    ambiences.mkdir(parents=True, exist_ok=True)
    for n, seconds in enumerate(np.linspace(0.1, 0.8, 16)):
        sf.write(rooms / f"{n:02d}.wav", _room(float(seconds), 16000, n), 16000)
    training = json.loads((corpus / SETTINGS).read_text(encoding="utf-8"))["backgrounds"]["train"]
    for path in find_audio(data / "backgrounds"):
        link = ambiences / path.name
        if path.name in training and not link.exists():
            link.symlink_to(path.resolve())
    teacher = train_once(folder / "teacher", "weak", corpus, 1, [*TEACHER, *overrides])
    return {"rooms": rooms, "ambiences": ambiences, "teacher": teacher}


def _room(seconds: float, sample_rate: int, seed: int) -> NDArray[np.float32]:
    """Impulse response of a room: the sound, and then noise that falls by 60 dB in `seconds`."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    tail = 0.1 * np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[0] = 1.0
    return tail.astype(np.float32)


def train_variant(
    name: str, seed: int, folder: Path, corpus: Path, given: Mapping[str, Path], overrides: Sequence[str] = ()
) -> Path:
    """Path of the model of a variant, trained unless it exists; `given` as of `materials`."""
    options = [*BUDGET, *VARIANTS[name]] if _FLASH[0] not in VARIANTS[name] else [*VARIANTS[name], *BUDGET[1:]]
    for placeholder, path in given.items():
        options = [option.replace(f"{{{placeholder}}}", str(path)) for option in options]
    out = folder / f"{list(VARIANTS).index(name):02d}-seed{seed}"
    return train_once(out, "weak", corpus, seed, [*options, *overrides])


def rows(name: str, evaluations: Sequence[Evaluation]) -> Iterator[Row]:
    """Means over the seeds of a variant."""
    values = {"mAP": [e.clip.mean_ap for e in evaluations], "lwlrap": [e.clip.lwlrap for e in evaluations]}
    values["segment F1, macro"] = [e.segment.macro.f1 for e in evaluations if e.segment]
    for metric, one in values.items():
        row = {"what": "ablation", "system": name, "metric": metric, "data": about(evaluations[0])}
        yield {**row, **over_seeds(one)}


@command("soundscapes")
def main(
    data: Annotated[Path, "as for recipes.soundscapes.run"],
    seeds: Annotated[Sequence[int], "a run of each variant for each"] = (1, 2),
    only: Annotated[Sequence[str], "parts of variants' names; without it, all"] = (),
) -> Iterator[Row]:
    """Compare poolings, networks and training techniques."""
    corpus, folder = prepare(data, RUNS, small=True), RUNS / "ablation"
    given = materials(data, folder, corpus)
    for name in (name for name in VARIANTS if not only or any(part in name for part in only)):
        models = [load_model(train_variant(name, seed, folder, corpus, given)) for seed in seeds]
        yield from rows(name, [evaluate(model, Corpus(corpus)) for model in models])


if __name__ == "__main__":
    raise SystemExit(main())
