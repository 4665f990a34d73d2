"""What each pooling and each practice of training brings, at a small and equal budget.

    python -m recipes.soundscapes.ablation --data ../shared/data --seeds 1 2
    python -m recipes.soundscapes.ablation --data ../shared/data --only mixup --only focal

From the project's folder. What is done is not done again, and a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from weakaudio_data_prep.soundscapes import SETTINGS

from recipes.results import Row, record
from recipes.soundscapes.corpus import prepare_small
from recipes.soundscapes.run import RUNS
from weakaudio.audio.io import find_audio
from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import Evaluation, evaluate
from weakaudio.pretrained import load_model
from weakaudio.training.fit import MODEL, train

_HERE = Path(__file__).parent
_COMMAND = "python -m recipes.soundscapes.ablation --data ../shared/data --seeds 1 2"

BASE = "as it is (mean pooling)"

# N_S at an eighth of the width, four rounds of 100 batches of the small corpus: the others differ from it in one
# thing. {rooms}, {ambiences} and {teacher} are filled in.
BUDGET = ["--model.network_config.width=0.125", "--trainer.max_epochs=4", "--trainer.limit_train_batches=100"]
BUDGET += ["--trainer.precision=bf16-mixed"]  # on every machine
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
    "moving average of weights": ["--averaging.kind=ema", "--averaging.decay=0.98"],
    "stochastic weight averaging": ["--averaging.kind=swa"],
    "hardly a warm-up (1 %)": ["--model.warmup=0.01"],
    "gradients clipped at 1": ["--trainer.gradient_clip_val=1.0"],
    "gradients of two batches": ["--trainer.accumulate_grad_batches=2"],
    "float32 in place of bf16": ["--trainer.precision=32-true"],
    "distillation from quarter width": ["--teacher={teacher}"],
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
    teacher = _train(folder / "teacher", corpus, 1, [*TEACHER, *overrides])
    return {"rooms": rooms, "ambiences": ambiences, "teacher": teacher}


def _room(seconds: float, sample_rate: int, seed: int) -> NDArray[np.float32]:
    """An impulse response: the sound, and then noise that falls by 60 dB in `seconds`."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    tail = 0.1 * np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[0] = 1.0
    return tail.astype(np.float32)


def train_once(
    name: str, seed: int, folder: Path, corpus: Path, given: Mapping[str, Path], overrides: Sequence[str] = ()
) -> Path:
    """The model of one run, trained unless it is there already."""
    options = [*BUDGET, *VARIANTS[name], *overrides]
    for placeholder, path in given.items():
        options = [option.replace(f"{{{placeholder}}}", str(path)) for option in options]
    return _train(folder / f"{list(VARIANTS).index(name):02d}-seed{seed}", corpus, seed, options)


def _train(out: Path, corpus: Path, seed: int, options: Sequence[str]) -> Path:
    if not (out / MODEL).is_file():
        seeds = [f"--seed_everything={seed}", f"--data.seed={seed - 1}"]
        train([f"--config={_HERE / 'weak.yaml'}", *seeds, f"--data.root={corpus}", f"--out={out}", *options])
    return out / MODEL


def rows(found: Mapping[str, Sequence[Evaluation]]) -> list[Row]:
    """Means over seeds, with the standard deviation where there are several."""
    some = next(iter(found.values()))[0]
    data = f"{some.clip.n_clips} test clips, {some.audio_seconds / 3600:.2f} h, {some.clip.n_classes} classes"
    table: list[Row] = []
    for name, evaluations in found.items():
        values = {"mAP": [e.clip.mean_ap for e in evaluations], "lwlrap": [e.clip.lwlrap for e in evaluations]}
        values["segment F1, macro"] = [e.segment.macro.f1 for e in evaluations if e.segment]
        for metric, of_seeds in values.items():
            facts = {"what": "ablation", "system": name, "metric": metric, "data": data, "command": _COMMAND}
            spread = {"spread": float(np.std(of_seeds, ddof=1))} if len(of_seeds) > 1 else {}
            table.append({**facts, "value": float(np.mean(of_seeds)), "n": len(of_seeds), **spread})
    return table


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m recipes.soundscapes.ablation", description="Poolings and switches.")
    parser.add_argument("--data", type=Path, required=True, help="as for recipes.soundscapes.run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="a run of each variant for each")
    parser.add_argument("--only", action="append", default=[], help="part of a variant's name; all without it")
    options = parser.parse_args(args)
    corpus = prepare_small(options.data, RUNS)
    folder = RUNS / "ablation"
    given = materials(options.data, folder, corpus)
    chosen = [name for name in VARIANTS if not options.only or any(part in name for part in options.only)]
    found: dict[str, list[Evaluation]] = {name: [] for name in chosen}
    for seed in options.seeds:
        for name in chosen:
            model = load_model(train_once(name, seed, folder, corpus, given))
            found[name].append(evaluate(model, Corpus(corpus)))
        record("soundscapes", rows(found))


if __name__ == "__main__":
    main()
