"""`weakaudio train`: what a run leaves, what is refused, and promise 4 at the worst moments for a kill."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from weakaudio.data.corpus import Corpus
from weakaudio.data.lock import FolderLock
from weakaudio.errors import ProtocolError, StoreError, WeakAudioError
from weakaudio.pretrained import load_model, read_header
from weakaudio.training import callbacks, command
from weakaudio.training.command import train
from weakaudio.training.evaluation import evaluate
from weakaudio.training.tagger import Tagger

EPOCHS = 4


SEEDS = [0]  # the last of them is that of `run`


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


@pytest.fixture(scope="module")
def run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    for seed in range(20):  # until the second epoch is the best: it can be told from the last
        out = tmp_path_factory.mktemp("runs") / "undisturbed"
        assert train(arguments(tones, out, seed=seed)) == out / "model.safetensors"
        if int(epochs(out)["val_mAP"].idxmax()) == 1:
            SEEDS.append(seed)
            return out
    raise AssertionError("no seed of 20 has its best epoch in the middle")


def test_a_run_leaves_what_it_says(run: Path) -> None:
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tb/events")}
    assert len(events) == 1
    assert files - events == {
        ".lock",
        "config.yaml",
        "log/metrics.csv",
        "tb/hparams.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "model.safetensors",
    }


def test_both_logs_have_every_epoch(run: Path) -> None:
    table = pd.read_csv(run / "log" / "metrics.csv")
    assert list(table["epoch"]) == list(range(1, EPOCHS + 1))
    assert {"step", "train_loss", "val_loss", "val_mAP", "val_mAUC", "val_lwlrap", "seconds"} <= set(table)
    assert table.notna().all(axis=None)
    board = EventAccumulator(str(run / "tb"))
    board.Reload()
    assert [event.value for event in board.Scalars("val_mAP")] == pytest.approx(list(table["val_mAP"]))


def test_progress_is_shown(tones: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(arguments(tones, tmp_path, "--trainer.max_epochs=1"))
    assert "Epoch 0/0" in "".join(capfd.readouterr())


def test_the_export_is_the_best_epoch_and_opens_by_itself(run: Path) -> None:
    table = epochs(run)
    best = int(table["val_mAP"].idxmax())
    notes = read_header(run / "model.safetensors")["notes"]
    assert (notes["best_epoch"], notes["epochs"], notes["corpus"]) == (best + 1, EPOCHS, "tones0")
    assert notes["val_mAP"] == pytest.approx(table["val_mAP"][best])
    model = load_model(run / "model.safetensors")
    assert model.labels == ["onset", "macro_average"]
    assert model.front_end.name == "16k"
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    tensors = model.state_dict(prefix="model.")
    assert list(tensors) == [name for name in stored if name.startswith("model.")]
    for name, tensor in tensors.items():
        assert torch.equal(tensor, stored[name]), name


def test_same_seed_same_bytes_and_another_seed_others(tones: Path, run: Path, tmp_path: Path) -> None:
    again = train(arguments(tones, tmp_path / "again"))
    assert again.read_bytes() == (run / "model.safetensors").read_bytes()
    pd.testing.assert_frame_equal(epochs(tmp_path / "again"), epochs(run), check_exact=True)
    for n, option in enumerate(("--seed_everything=7", "--data.seed=7")):
        other = load_model(train(arguments(tones, tmp_path / f"{n}", "--trainer.max_epochs=1", option)))
        assert not torch.equal(other.network.classifier.weight, load_model(again).network.classifier.weight)


def test_the_saved_configuration_repeats_the_run(run: Path, tmp_path: Path) -> None:
    again = train([f"--config={run / 'config.yaml'}", f"--out={tmp_path / 'again'}"])
    assert again.read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_finished_run_stays_as_it_is(tones: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    before = (run / "model.safetensors").read_bytes()
    (tmp_path / "copy" / "model.safetensors").unlink()
    assert train(arguments(tones, tmp_path / "copy")).read_bytes() == before
    pd.testing.assert_frame_equal(epochs(tmp_path / "copy"), epochs(run), check_exact=True)


@pytest.mark.parametrize("option", ["--model.learning_rat=0.1", "--data.nothing=1", "--nothing=1"])
def test_an_unknown_key_is_refused_by_name(
    option: str, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(arguments(tones, tmp_path / "out", option))
    assert stopped.value.code == 2
    assert option.split("=")[0].split(".")[-1] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_in_a_file_is_refused_by_name(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": {"front_end": "16k", "learning_rat": 0.1}}))
    with pytest.raises(SystemExit):
        train(arguments(tones, tmp_path / "out", f"--config={tmp_path / 'c.yaml'}"))
    assert "learning_rat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.network_config={widht: 0.5}", "widht"),
        ("--model.network=none", "'none': unknown; there are weakcnn"),
        ("--model.front_end=none", "'none': unknown; there are paper-44k"),
        ("--data.train={split: nothing}", "no clip with"),
        ("--data.root=nowhere", "nowhere: not a prepared corpus"),
    ],
)
def test_a_value_that_does_not_exist_is_refused_by_name(
    option: str, message: str, tones: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeakAudioError, match=message):
        train(arguments(tones, tmp_path, option))


def test_a_corpus_at_another_rate_is_refused(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"16000 Hz, front end '32k' takes 32000 Hz; prepare"):
        train(arguments(tones, tmp_path, "--model.front_end=32k"))


def test_a_run_is_not_resumed_with_other_values(tones: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    for option, name in (
        ("--model.learning_rate=0.1", "model.learning_rate 0.02, now it is 0.1"),
        ("--model.network_config={width: 0.125}", "model.network_config.width"),
        ("--trainer.max_epochs=9", "trainer.max_epochs"),
        ("--data.train={split: test}", "data.train.split"),
        ("--seed_everything=4", "seed_everything"),
    ):
        with pytest.raises(ProtocolError, match=name):
            train(arguments(tones, tmp_path / "copy", option))
    assert (tmp_path / "copy" / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    train(arguments(tones, tmp_path / "copy", "--data.workers=1"))  # what does not change the result may change


def _kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half(checkpoint: Any, path: Path) -> None:
    """As torch.save, and killed half-way."""
    SAVE(checkpoint, path)
    os.truncate(path, path.stat().st_size // 2)
    _kill()


TRAINING_STEP = Tagger.training_step
SAVE, SAVE_WHOLE = torch.save, callbacks.WholeFiles.save_checkpoint


def _disturbed(moment: str, epoch: int, args: list[str]) -> None:
    """Train in this process, which is killed at a moment of an epoch (from 0)."""
    torch.set_num_threads(1)
    timers = [threading.Timer(float(seconds), _kill) for seconds in re.findall(r"after ([0-9.e-]+)$", moment)]
    step, validate = Tagger.training_step, Tagger.on_validation_epoch_end

    def training_step(self: Tagger, batch: Any, number: int) -> torch.Tensor:
        while timers:
            timers.pop().start()
        if (self.current_epoch, number) == (epoch, {"training": 1, f"step {number}": number}.get(moment)):
            _kill()
        return step(self, batch, number)

    def on_validation_epoch_end(self: Tagger) -> None:
        if moment == "validation" and self.current_epoch == epoch:
            _kill()
        validate(self)

    def save_checkpoint(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        here = checkpoint["epoch"] == epoch
        if here and moment == f"writing {Path(path).stem}":
            torch.save = _half
        if here and moment == "before last" and Path(path).stem == "last":
            _kill()
        SAVE_WHOLE(self, checkpoint, path)
        if here and moment == "after last" and Path(path).stem == "last":
            _kill()

    Tagger.training_step = training_step  # type: ignore[method-assign]
    Tagger.on_validation_epoch_end = on_validation_epoch_end  # type: ignore[method-assign]
    callbacks.WholeFiles.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    if moment == "export":
        command.export = _kill
    train(args)


def start(moment: str, epoch: int, args: list[str]) -> int:
    """Exit code of a process that trains until it is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["weakaudio.training.command", __name__])
    process = context.Process(target=_disturbed, args=(moment, epoch, args))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


MOMENTS = [
    ("training", 0),
    ("after last", 0),
    ("training", 1),
    ("writing best", 1),
    ("before last", 1),
    ("writing last", 2),
    ("after last", 3),
    ("export", 3),
]


def same(out: Path, run: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    pd.testing.assert_frame_equal(epochs(out), epochs(run), check_exact=True)


@pytest.mark.parametrize(("moment", "epoch"), MOMENTS)
def test_a_killed_run_ends_as_the_undisturbed_one(
    moment: str, epoch: int, tones: Path, run: Path, tmp_path: Path
) -> None:
    args = arguments(tones, tmp_path / "killed")
    assert start(moment, epoch, args) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    train(args)
    same(tmp_path / "killed", run)


def test_a_run_killed_again_and_again_ends_as_the_undisturbed_one(tones: Path, run: Path, tmp_path: Path) -> None:
    for moment, epoch in (("writing best", 0), ("after last", 0), ("before last", 1), ("validation", 2)):
        assert start(moment, epoch, arguments(tones, tmp_path)) == -signal.SIGKILL, (moment, epoch)
    train(arguments(tones, tmp_path, "--data.workers=1"))  # loader processes draw ahead
    same(tmp_path, run)


def test_last_is_the_newest_whole_epoch_whether_or_not_it_was_better(tones: Path, run: Path, tmp_path: Path) -> None:
    worse = epochs(run)["val_mAP"].diff().idxmin()
    assert start("after last", int(worse), arguments(tones, tmp_path)) == -signal.SIGKILL
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == worse


def test_a_run_that_moved_remembers_its_best_epoch(tones: Path, run: Path, tmp_path: Path) -> None:
    assert start("after last", 2, arguments(tones, tmp_path / "here")) == -signal.SIGKILL
    shutil.move(tmp_path / "here", tmp_path / "there")
    train(arguments(tones, tmp_path / "there"))
    same(tmp_path / "there", run)
    assert not (tmp_path / "here").exists()


def test_choosing_the_epoch_on_clips_that_are_trained_on_is_refused(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="12 clips are in both"):
        train(arguments(tones, tmp_path, "--data.val={split: train}"))


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
    while kills < 20:
        args = arguments(tones, tmp_path / f"{runs}", *EVERYTHING)
        while start(f"after {rng.uniform(0, seconds / 2)}", 0, args) == -signal.SIGKILL:
            kills += 1
        same(tmp_path / f"{runs}", tmp_path / "undisturbed")
        runs += 1


def test_practices_change_what_is_learned(tones: Path, run: Path, tmp_path: Path) -> None:
    """None of them is an option that does nothing."""
    seen = {(run / "model.safetensors").read_bytes()}
    options = [[option] for option in EVERYTHING if not option.startswith(("--checkpoint", "--averaging.decay"))]
    options += [["--model.mixup=logmel"], ["--model.focal_gamma=2"], ["--data.augment={polarity: true}"]]
    options += [["--averaging.kind=swa", "--averaging.start=0.1"]]  # before the best epoch, which is the second
    for n, option in enumerate(options):
        seen.add(train(arguments(tones, tmp_path / f"{n}", *option)).read_bytes())
    assert len(seen) == len(options)  # + 1 - 1: polarity alone changes no log-mel


def test_before_a_plain_average_begins_the_newest_weights_are_validated(tones: Path, tmp_path: Path) -> None:
    plain, averaged = tmp_path / "none", tmp_path / "swa"
    for out in (plain, averaged):
        train(arguments(tones, out, f"--averaging.kind={out.name}", "--averaging.start=0.6"))
    one, other = (epochs(out)["val_loss"] for out in (plain, averaged))
    assert list(one[:2]) == list(other[:2])  # the first half of four epochs
    assert one[3] != other[3]


def test_a_run_that_was_told_to_stop_early_goes_on_with_the_next_epoch(tones: Path, tmp_path: Path) -> None:
    batches: list[tuple[int, int]] = []

    def step(self: Tagger, batch: Any, number: int) -> torch.Tensor:
        batches.append((self.current_epoch, number))
        if stopping and batches[-1] == (1, 2):
            self.trainer.should_stop = True
        return TRAINING_STEP(self, batch, number)

    stopping = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tagger, "training_step", step)
        train(arguments(tones, tmp_path))
        last = max(batches)
        stopping = False
        begun = len(batches)
        train(arguments(tones, tmp_path))
    assert last == (1, 2)
    whole = max(number for epoch, number in batches if epoch == 0)
    assert whole > 2
    assert batches[begun:] == [(epoch, number) for epoch in (2, 3) for number in range(whole + 1)]


def test_gradients_are_clipped_in_mixed_precision_as_well(tones: Path, tmp_path: Path) -> None:
    more = ["--trainer.precision=bf16-mixed", "--trainer.max_epochs=1", "--trainer.gradient_clip_val=1e-30"]
    stuck = load_model(train(arguments(tones, tmp_path, *more))).network.classifier.weight
    lightning.seed_everything(SEEDS[-1])
    begun = Tagger(["onset", "macro_average"], network_config={"width": 0.0625}, front_end="16k")
    assert torch.allclose(stuck, begun.model.network.classifier.weight, atol=1e-6)


def test_only_one_run_writes_to_a_folder(tones: Path, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(StoreError, match="another run writes to it"):
        train(arguments(tones, tmp_path))
    lock.release()
    train(arguments(tones, tmp_path, "--trainer.max_epochs=1"))


def devices(count: int, corpus: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    args = arguments(corpus, out, f"--trainer.devices={count}", "--trainer.strategy=ddp", *more)
    command = [sys.executable, "-m", "weakaudio.cli", "train", *args]
    free = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(command, text=True, capture_output=True, env={**free, "OMP_NUM_THREADS": "1"}, timeout=300)


def test_two_devices_train_and_measure_as_they_should(tones: Path, tmp_path: Path) -> None:
    done = devices(2, tones, tmp_path / "two", "--trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained: ") == 1
    table = epochs(tmp_path / "two")
    assert list(table["epoch"]) == [1, 2]
    model, notes = (
        load_model(tmp_path / "two" / "model.safetensors"),
        read_header(tmp_path / "two" / "model.safetensors")["notes"],
    )
    alone = evaluate(model, Corpus(tones), {"split": "val"}, None).clip  # all clips, in one process
    best = table.loc[table["epoch"] == notes["best_epoch"]].iloc[0]
    assert best["val_mAP"] == pytest.approx(alone.mean_ap, abs=1e-6)
    assert best["val_mAUC"] == pytest.approx(alone.mean_auc, abs=1e-6)
    assert best["val_lwlrap"] == pytest.approx(alone.lwlrap, abs=1e-6)


def test_a_run_on_two_devices_that_was_killed_goes_on(tones: Path, tmp_path: Path) -> None:
    more = ["--checkpoint_minutes=0", "--trainer.max_epochs=2", "--data.batch_seconds=4"]
    assert devices(2, tones, tmp_path / "undisturbed", *more).returncode == 0
    args = arguments(tones, tmp_path / "killed", "--trainer.devices=2", "--trainer.strategy=ddp", *more)
    with subprocess.Popen(
        [sys.executable, "-m", "weakaudio.cli", "train", *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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


def test_a_run_stopped_before_its_first_validation_goes_on(tones: Path, tmp_path: Path) -> None:
    every = "--trainer.check_val_every_n_epoch=2"
    assert start("after last", 0, arguments(tones, tmp_path, every)) == -signal.SIGKILL
    assert load_model(train(arguments(tones, tmp_path, every))).labels
