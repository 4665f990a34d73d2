"""Small training runs on the corpus `tones`, for the tests of `weakaudio train`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

EPOCHS = 4
SEEDS = [0]  # the last is that of the fixture `run`

# All training options at once.
EVERYTHING = [
    "--checkpoint_minutes=0",  # after each step
    "--data.balanced=true",
    "--data.augment={gain_db: 6, shift: 0.5}",
    "--data.batch_seconds=4",
    "--model.mixup=waveform",
    "--model.time_mask=8",
    "--model.mel_mask=8",
    "--model.label_smoothing=0.1",
    "--averaging.kind=ema",
    "--averaging.decay=0.8",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.gradient_clip_val=1",
]


def arguments(corpus: Path, out: Path, *more: str, seed: int | None = None) -> list[str]:
    seed = SEEDS[-1] if seed is None else seed
    return [
        "--model.front_end=16k",
        "--model.network_config={width: 0.0625}",
        "--model.learning_rate=0.02",
        f"--seed_everything={seed}",
        f"--data.root={corpus}",
        "--data.workers=0",
        "--data.batch_seconds=8",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.accelerator=cpu",
        f"--out={out}",
        *more,
    ]


def epochs(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "log" / "metrics.csv").drop(columns="seconds")


def same(out: Path, run: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    pd.testing.assert_frame_equal(epochs(out), epochs(run), check_exact=True)
