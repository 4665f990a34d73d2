"""A run that was killed, at the worst moments and at random ones, ends as the undisturbed run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from killable import Killable
from training_runs import EVERYTHING, arguments, epochs, same

from weakaudio.pretrained.registry import load_model
from weakaudio.training import callbacks
from weakaudio.training import fit as command
from weakaudio.training.fit import train
from weakaudio.training.lightning_module import TaggingModule


def _kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half(checkpoint: Any, path: Path) -> None:
    """torch.save, killed half-way."""
    SAVE(checkpoint, path)
    os.truncate(path, path.stat().st_size // 2)
    _kill()


TRAINING_STEP = TaggingModule.training_step


SAVE, SAVE_CHECKPOINT = torch.save, callbacks.AtomicCheckpointIO.save_checkpoint


def _disturbed(_: object, moment: str, epoch: int, args: list[str]) -> None:
    """Train in this process, which kills itself at a moment of an epoch (from 0)."""
    timers = [threading.Timer(float(seconds), _kill) for seconds in re.findall(r"after ([0-9.e-]+)$", moment)]
    step, validate = TaggingModule.training_step, TaggingModule.on_validation_epoch_end

    def training_step(self: TaggingModule, batch: Any, number: int) -> torch.Tensor:
        while timers:
            timers.pop().start()
        if (self.current_epoch, number) == (epoch, {"training": 1, f"step {number}": number}.get(moment)):
            _kill()
        return step(self, batch, number)

    def on_validation_epoch_end(self: TaggingModule) -> None:
        if moment == "validation" and self.current_epoch == epoch:
            _kill()
        validate(self)

    def save_checkpoint(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        here = checkpoint["epoch"] == epoch
        if here and moment == f"writing {Path(path).stem}":
            torch.save = _half
        if here and moment == "before last" and Path(path).stem == "last":
            _kill()
        SAVE_CHECKPOINT(self, checkpoint, path)
        if here and moment == "after last" and Path(path).stem == "last":
            _kill()

    TaggingModule.training_step = training_step  # type: ignore[method-assign]
    TaggingModule.on_validation_epoch_end = on_validation_epoch_end  # type: ignore[method-assign]
    callbacks.AtomicCheckpointIO.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    if moment == "export":
        command.export = _kill
    train(args)


def start(moment: str, epoch: int, args: list[str]) -> int | None:
    """Exit code of a process that trains until it is killed."""
    return Killable(_disturbed, moment, epoch, args).wait()


BEST = -1  # the epoch of the undisturbed run that was the best
MOMENTS = [
    ("training", 0),
    ("after last", 0),
    ("training", 1),
    ("writing best", BEST),
    ("before last", 1),
    ("writing last", 2),
    ("after last", 3),
    ("export", 3),
]


@pytest.mark.parametrize(("moment", "epoch"), MOMENTS)
def test_a_killed_run_ends_as_the_undisturbed_one(
    moment: str, epoch: int, tones: Path, run: Path, tmp_path: Path
) -> None:
    args = arguments(tones, tmp_path / "killed")
    epoch = int(epochs(run)["val_mAP"].idxmax()) if epoch == BEST else epoch
    assert start(moment, epoch, args) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    train(args)
    same(tmp_path / "killed", run)


def test_a_run_killed_again_and_again_ends_as_the_undisturbed_one(tones: Path, run: Path, tmp_path: Path) -> None:
    for moment, epoch in (("writing best", 0), ("after last", 0), ("before last", 1), ("validation", 2)):
        assert start(moment, epoch, arguments(tones, tmp_path)) == -signal.SIGKILL, (moment, epoch)
    train(arguments(tones, tmp_path, "--data.workers=1"))  # loader processes draw ahead
    same(tmp_path, run)


def test_last_is_the_newest_complete_epoch_also_if_it_is_not_the_best(tones: Path, run: Path, tmp_path: Path) -> None:
    worse = epochs(run)["val_mAP"].diff().idxmin()
    assert start("after last", int(worse), arguments(tones, tmp_path)) == -signal.SIGKILL
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == worse


def test_a_moved_run_remembers_its_best_epoch(tones: Path, run: Path, tmp_path: Path) -> None:
    assert start("after last", 2, arguments(tones, tmp_path / "here")) == -signal.SIGKILL
    shutil.move(tmp_path / "here", tmp_path / "there")
    train(arguments(tones, tmp_path / "there"))
    same(tmp_path / "there", run)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("averaging", ["none", "ema", "swa"])
def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_the_undisturbed_one(
    averaging: str, tones: Path, tmp_path: Path
) -> None:
    more = [*EVERYTHING, f"--averaging.kind={averaging}"]
    train(arguments(tones, tmp_path / "undisturbed", *more))
    args = arguments(tones, tmp_path / "killed", *more)
    for step, epoch in ((3, 1), (4, 1), (5, 1), (2, 3)):  # after a whole step, in the middle of one, the last
        assert start(f"step {step}", epoch, args) == -signal.SIGKILL, (step, epoch)
        last = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["epoch"] == epoch
        assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == step // 2 * 2
    train(args)
    same(tmp_path / "killed", tmp_path / "undisturbed")


def test_runs_killed_at_random_moments_end_as_the_undisturbed_one(tones: Path, tmp_path: Path) -> None:
    train(arguments(tones, tmp_path / "undisturbed", *EVERYTHING))
    seconds = float(pd.read_csv(tmp_path / "undisturbed" / "log" / "metrics.csv")["seconds"].sum())
    rng, kills, runs = np.random.default_rng(0), 0, 0
    while kills < 10:
        args = arguments(tones, tmp_path / f"{runs}", *EVERYTHING)
        while start(f"after {rng.uniform(0, seconds / 2)}", 0, args) == -signal.SIGKILL:
            kills += 1
        same(tmp_path / f"{runs}", tmp_path / "undisturbed")
        runs += 1


def test_a_run_stopped_early_resumes_with_the_next_epoch(tones: Path, tmp_path: Path) -> None:
    batches: list[tuple[int, int]] = []

    def step(self: TaggingModule, batch: Any, number: int) -> torch.Tensor:
        batches.append((self.current_epoch, number))
        if stopping and batches[-1] == (1, 2):
            self.trainer.should_stop = True
        return TRAINING_STEP(self, batch, number)

    stopping = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaggingModule, "training_step", step)
        train(arguments(tones, tmp_path))
        last = max(batches)
        stopping = False
        begun = len(batches)
        train(arguments(tones, tmp_path))
    assert last == (1, 2)
    whole = max(number for epoch, number in batches if epoch == 0)
    assert whole > 2
    assert batches[begun:] == [(epoch, number) for epoch in (2, 3) for number in range(whole + 1)]


def test_a_run_stopped_before_its_first_validation_is_resumed(tones: Path, tmp_path: Path) -> None:
    every = "--trainer.check_val_every_n_epoch=2"
    assert start("after last", 0, arguments(tones, tmp_path, every)) == -signal.SIGKILL
    assert load_model(train(arguments(tones, tmp_path, every))).labels
