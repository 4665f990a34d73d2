"""Training on several devices, here two processes on a CPU (gloo)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training_runs import arguments, epochs, same

from weakaudio.data.corpus import Corpus
from weakaudio.evaluation.corpus import evaluate
from weakaudio.pretrained import load_model

ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}  # two processes with two threads each would block each other


def command(count: int, corpus: Path, out: Path, *more: str) -> list[str]:
    args = arguments(corpus, out, f"--trainer.devices={count}", "--trainer.strategy=ddp", *more)
    return [sys.executable, "-m", "weakaudio.cli", "train", *args]


def devices(*args: Any) -> subprocess.CompletedProcess[str]:
    """Run `command` with these arguments."""
    return subprocess.run(command(*args), text=True, capture_output=True, env=ALONE, timeout=1800)


def test_two_devices_train_and_validate_on_all_clips(tones: Path, tmp_path: Path) -> None:
    done = devices(2, tones, tmp_path / "two", "--trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained: ") == 1
    table = epochs(tmp_path / "two")
    assert list(table["epoch"]) == [1, 2]
    model = load_model(tmp_path / "two" / "model.safetensors")
    alone = evaluate(model, Corpus(tones), {"split": "val"}, None).clip  # all clips, in one process
    best = table.loc[table["epoch"] == model.metadata["best_epoch"]].iloc[0]
    assert best["val_mAP"] == pytest.approx(alone.mean_ap, abs=1e-6)
    assert best["val_mAUC"] == pytest.approx(alone.mean_auc, abs=1e-6)
    assert best["val_lwlrap"] == pytest.approx(alone.lwlrap, abs=1e-6)


def test_a_killed_run_on_two_devices_is_resumed(tones: Path, tmp_path: Path) -> None:
    more = ["--checkpoint_minutes=0", "--trainer.max_epochs=2", "--data.batch_seconds=4"]
    assert devices(2, tones, tmp_path / "undisturbed", *more).returncode == 0
    with subprocess.Popen(
        command(2, tones, tmp_path / "killed", *more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ALONE,
        start_new_session=True,
    ) as process:
        while not (tmp_path / "killed" / "checkpoints" / "last.ckpt").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    refused = devices(1, tones, tmp_path / "killed", *more)
    assert refused.returncode == 2
    assert "trainer.devices" in refused.stderr
    assert devices(2, tones, tmp_path / "killed", *more).returncode == 0
    same(tmp_path / "killed", tmp_path / "undisturbed")
