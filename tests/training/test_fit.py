"""`weakaudio train`: files of a run, settings, and errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import EPOCHS, EVERYTHING, SEEDS, arguments, epochs

import weakaudio
from weakaudio.audio.frontend import FRONT_ENDS, get_front_end
from weakaudio.data.corpus import Corpus
from weakaudio.errors import ProtocolError, StoreError, WeakAudioError
from weakaudio.evaluation.corpus import evaluate
from weakaudio.files import FolderLock
from weakaudio.networks import runtime
from weakaudio.pretrained.checkpoint import read_header
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import train
from weakaudio.training.lightning_module import TaggingModule


def test_a_run_writes_the_documented_files(run: Path) -> None:
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


def test_the_exported_model_is_the_best_epoch(run: Path) -> None:
    table = epochs(run)
    best = int(table["val_mAP"].idxmax())
    metadata = read_header(run / "model.safetensors")["metadata"]
    assert (metadata["best_epoch"], metadata["epochs"], metadata["corpus"]) == (best + 1, EPOCHS, "tones0")
    assert metadata["val_mAP"] == pytest.approx(table["val_mAP"][best])
    model = load_model(run / "model.safetensors")
    assert model.labels == ["onset", "macro_average"]
    assert model.front_end.name == "16k"
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    tensors = model.state_dict(prefix="model.")
    assert list(tensors) == [name for name in stored if name.startswith("model.")]
    for name, tensor in tensors.items():
        assert torch.equal(tensor, stored[name]), name


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(tones: Path, run: Path, tmp_path: Path) -> None:
    again = train(arguments(tones, tmp_path / "again"))
    assert again.read_bytes() == (run / "model.safetensors").read_bytes()
    pd.testing.assert_frame_equal(epochs(tmp_path / "again"), epochs(run), check_exact=True)
    for n, option in enumerate(("--seed_everything=99", "--data.seed=99")):
        other = load_model(train(arguments(tones, tmp_path / f"{n}", "--trainer.max_epochs=1", option)))
        assert not torch.equal(other.network.classifier.weight, load_model(again).network.classifier.weight)


def test_the_saved_configuration_repeats_the_run(run: Path, tmp_path: Path) -> None:
    again = train([f"--config={run / 'config.yaml'}", f"--out={tmp_path / 'again'}"])
    assert again.read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_finished_run_is_exported_again_without_training(tones: Path, run: Path, tmp_path: Path) -> None:
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
def test_an_unknown_value_is_refused_by_name(option: str, message: str, tones: Path, tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match=message):
        train(arguments(tones, tmp_path, option))


def test_a_corpus_at_a_different_sample_rate_is_refused(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"16000 Hz, front end '32k' takes 32000 Hz; prepare"):
        train(arguments(tones, tmp_path, "--model.front_end=32k"))


def test_settings_may_be_a_mapping(tones: Path, tmp_path: Path) -> None:
    settings = {
        "seed_everything": SEEDS[-1],
        "model": {"front_end": "16k", "network_config": {"width": 0.0625}},
        "data": {"root": str(tones), "workers": 0, "batch_seconds": 8},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    one = weakaudio.train({**settings, "out": str(tmp_path / "mapping")})
    options = ["--trainer.max_epochs=1", "--model.learning_rate=0.001"]
    assert one.read_bytes() == train(arguments(tones, tmp_path / "arguments", *options)).read_bytes()


def test_a_decimated_front_end_can_be_trained(tones: Path, tmp_path: Path) -> None:
    path = train(arguments(tones, tmp_path, "--model.front_end=16k/2", "--trainer.max_epochs=1"))
    model = load_model(path)
    assert (model.front_end.name, model.front_end.hop_length) == ("16k/2", 320)
    assert model.front_end == get_front_end("16k/2")
    assert evaluate(model, Corpus(tones), {"split": "val"}, None).clip.mean_ap == pytest.approx(
        epochs(tmp_path)["val_mAP"].max()
    )
    with pytest.raises(ProtocolError, match=r"16000 Hz, front end 'efficientat-32k/2' takes 32000 Hz"):
        train(arguments(tones, tmp_path / "other", "--model.front_end=efficientat-32k/2"))


def test_help_names_all_front_ends_and_where_to_add_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in (*FRONT_ENDS, "efficientat-32k/2"):
        assert f'"{name}"' in shown
    assert "FRONT_ENDS of weakaudio/audio/frontend.py" in shown


def test_a_run_is_not_resumed_with_other_values(tones: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    for option, name in (
        ("--model.learning_rate=0.1", "model.learning_rate 0.02, now 0.1"),
        ("--model.network_config={width: 0.125}", "model.network_config.width"),
        ("--trainer.max_epochs=9", "trainer.max_epochs"),
        ("--data.train={split: test}", "data.train.split"),
        ("--seed_everything=99", "seed_everything"),
    ):
        with pytest.raises(ProtocolError, match=name):
            train(arguments(tones, tmp_path / "copy", option))
    assert (tmp_path / "copy" / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    train(arguments(tones, tmp_path / "copy", "--data.workers=1"))  # others may differ


def test_validation_on_training_clips_is_refused(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="12 clips are in both"):
        train(arguments(tones, tmp_path, "--data.val={split: train}"))


def test_every_option_changes_the_result(tones: Path, run: Path, tmp_path: Path) -> None:
    seen = {(run / "model.safetensors").read_bytes()}
    options = [[option] for option in EVERYTHING if not option.startswith(("--checkpoint", "--averaging.decay"))]
    options += [["--model.mixup=logmel"], ["--model.focal_gamma=2"], ["--data.augment={polarity: true}"]]
    options += [["--averaging.kind=swa", "--averaging.start=0.1"]]  # in the first epoch
    for n, option in enumerate(options):
        seen.add(train(arguments(tones, tmp_path / f"{n}", *option)).read_bytes())
    assert len(seen) == len(options)  # + 1 - 1: polarity alone changes no log-mel


def test_the_newest_weights_are_validated_before_averaging_begins(tones: Path, tmp_path: Path) -> None:
    plain, averaged = tmp_path / "none", tmp_path / "swa"
    for out in (plain, averaged):
        train(arguments(tones, out, f"--averaging.kind={out.name}", "--averaging.start=0.6"))
    one, other = (epochs(out)["val_loss"] for out in (plain, averaged))
    assert list(one[:2]) == list(other[:2])  # the first half of four epochs
    assert one[3] != other[3]


def test_precision_is_chosen_by_the_processor_and_kept_when_a_run_is_resumed(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def train_on(native: bool, *more: str) -> str:
        monkeypatch.setattr(runtime, "has_native_bfloat16", lambda device: native)
        train(arguments(tones, tmp_path / "run", "--trainer.max_epochs=1", *more))
        return str(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["precision"])

    assert train_on(True) == "bf16-mixed"
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        assert train_on(False, "--trainer.precision=auto") == "bf16-mixed"
    assert "resumes in bf16-mixed, as it began; a new run would be in 32-true here" in caplog.text
    with pytest.raises(ProtocolError, match=r'trainer.precision "bf16-mixed", now "32-true"'):
        train_on(True, "--trainer.precision=32-true")


def test_auto_is_float32_without_native_bfloat16(run: Path) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == "32-true"


def test_gradients_are_clipped_in_mixed_precision(tones: Path, tmp_path: Path) -> None:
    more = ["--trainer.precision=bf16-mixed", "--trainer.max_epochs=1", "--trainer.gradient_clip_val=1e-30"]
    stuck = load_model(train(arguments(tones, tmp_path, *more))).network.classifier.weight
    lightning.seed_everything(SEEDS[-1])
    begun = TaggingModule(["onset", "macro_average"], network_config={"width": 0.0625}, front_end="16k")
    assert torch.allclose(stuck, begun.model.network.classifier.weight, atol=1e-6)


def test_only_one_run_writes_to_a_folder(tones: Path, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(StoreError, match="another run writes to it"):
        train(arguments(tones, tmp_path))
    lock.release()
    train(arguments(tones, tmp_path, "--trainer.max_epochs=1"))
