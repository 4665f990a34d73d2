"""Training on several devices, here two processes on a CPU (gloo)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from training_runs import arguments, epochs

from weakaudio.data.corpus import Corpus
from weakaudio.errors import ProtocolError
from weakaudio.evaluation.corpus import evaluate
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import train

ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}  # two processes with two threads each would block each other
SETTINGS = ("--checkpoint_minutes=0", "--trainer.max_epochs=2", "--data.batch_seconds=4")
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


def command(corpus: Path, out: Path) -> list[str]:
    args = arguments(corpus, out, *SETTINGS, *TWO)
    return [sys.executable, "-m", "weakaudio.cli", "train", *args]


def devices(*args: Any) -> subprocess.CompletedProcess[str]:
    """Run `command` with these arguments."""
    return subprocess.run(command(*args), text=True, capture_output=True, env=ALONE, timeout=1800)


@pytest.fixture(scope="module")
def two(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run on two devices."""
    out = tmp_path_factory.mktemp("devices") / "two"
    done = devices(tones, out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained: ") == 1
    return out


@pytest.mark.xdist_group("devices")
def test_two_devices_train_and_validate_on_all_clips(tones: Path, two: Path) -> None:
    table = epochs(two)
    assert list(table["epoch"]) == [1, 2]
    model = load_model(two / "model.safetensors")
    alone = evaluate(model, Corpus(tones), {"split": "val"}, None).clip  # all clips, in one process
    best = table.loc[table["epoch"] == model.metadata["best_epoch"]].iloc[0]
    assert best["val_mAP"] == pytest.approx(alone.mean_ap, abs=1e-6)
    assert best["val_mAUC"] == pytest.approx(alone.mean_auc, abs=1e-6)
    assert best["val_lwlrap"] == pytest.approx(alone.lwlrap, abs=1e-6)


@pytest.mark.xdist_group("devices")
def test_a_killed_run_on_two_devices_is_resumed(tones: Path, two: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    with subprocess.Popen(
        command(tones, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ALONE,
        start_new_session=True,
    ) as process:
        while not (out / "checkpoints" / "last.ckpt").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (out / "model.safetensors").exists()
    with pytest.raises(ProtocolError, match=r"trainer.devices"):
        train(arguments(tones, out, *SETTINGS))
    assert devices(tones, out).returncode == 0
    assert (out / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    # A checkpoint holds the sum of the losses of both devices, so that they are added in another order.
    pd.testing.assert_frame_equal(epochs(out), epochs(two), rtol=1e-6)
