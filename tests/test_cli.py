"""Every verb runs as its user would run it; what a user can mend is one line and exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from weakaudio.formats.embeddings import read_embeddings
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    save_model(
        Model(WeakCNN(12, n_mels=64, width=1 / 16), "16k", [f"c{n}" for n in range(12)]), tmp_path / "m.safetensors"
    )
    return tmp_path / "m.safetensors"


@pytest.fixture
def sounds(run: Run, tmp_path: Path) -> Path:
    assert run("prepare", "synthetic", "sounds", "--per_class", "5")[0] == 0
    return tmp_path / "sounds"


def test_prepare_lists_data_sets_and_their_arguments(run: Run) -> None:
    code, out, _ = run("prepare")
    assert code == 0
    assert "esc50, folder, scenes-synthetic, soundscapes, synthetic" in out
    assert "esc50" in run("prepare", "--help")[1]
    code, out, _ = run("prepare", "soundscapes", "--help")
    assert code == 0
    assert "--backgrounds" in out
    code, _, err = run("prepare", "imagenet")
    assert (code, err.count("\n")) == (2, 1)
    assert "esc50" in err


def test_from_sounds_to_soundscapes_to_a_model_to_its_figures(run: Run, sounds: Path, tmp_path: Path) -> None:
    sizes = ("--train", "12", "--val", "12", "--test", "12")
    code, out, _ = run("prepare", "soundscapes", sounds, "corpus", *sizes)
    assert code == 0
    assert "36 clips, 12 classes" in out
    settings = ("--data.root", "corpus", "--model.front_end", "16k", "--model.network_config", '{"width": 0.0625}')
    code, out, _ = run("train", *settings, "--data.workers", "0", "--trainer.max_epochs", "1", "--out", "run")
    assert code == 0
    assert "trained: run/model.safetensors" in out
    code, out, _ = run("evaluate", "run/model.safetensors", "corpus", "-o", "figures")
    assert code == 0
    assert "12 clips" in out
    assert "segment-based F1" in out
    assert "PSDS: scenario 1" in out
    assert 0 <= json.loads((tmp_path / "figures" / "metrics.json").read_text())["clip"]["mean_ap"] <= 1
    code, out, _ = run("evaluate", "run/model.safetensors", "corpus", "--split", "val")
    assert code == 0
    assert "mAP" in out
    assert "F1" not in out
    assert "PSDS: scenario 1" in out


def test_verify_names_an_altered_clip_by_exit_code_3(run: Run, sounds: Path, tmp_path: Path) -> None:
    assert run("prepare", "folder", sounds, "corpus", "--sample_rate", "16000", "--workers", "2")[0] == 0
    code, out, _ = run("verify", "corpus")
    assert (code, out) == (0, "corpus: all clips are intact\n")
    with h5py.File(tmp_path / "corpus" / "store" / "shard-00000.h5", "a") as file:
        file["audio"][5] += 1
    code, out, _ = run("verify", "corpus")
    assert (code, out.count("\n")) == (3, 2)
    assert "beep/0000.wav: samples differ" in out


def test_transfer_prints_folds_and_writes_scores(run: Run, sounds: Path, tiny: Path, tmp_path: Path) -> None:
    code, out, _ = run("transfer", sounds, "--model", tiny, "-o", "scores")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()[:5]] == [f"fold {n}" for n in range(1, 6)]
    assert len(pd.read_csv(tmp_path / "scores" / "predictions.csv")) == 60


def test_embed_lists_bad_files_and_says_so_by_its_exit_code(
    run: Run, sounds: Path, tiny: Path, tmp_path: Path
) -> None:
    (sounds / "bad.wav").write_bytes(b"RIFF")
    code, out, _ = run("embed", sounds, "-o", "e.h5", "--model", tiny, "--level", "segment", "--layer", "f2")
    assert code == 3
    assert "1 failed" in out
    table = read_embeddings(tmp_path / "e.h5")
    assert len(table.paths) == 60
    assert table.embeddings.shape[1] == 12
    assert table.metadata["command"].startswith("weakaudio embed ")
    (sounds / "bad.wav").unlink()
    assert run("embed", sounds / "bell" / "0000.wav", "-o", "one.npz", "--model", tiny)[0] == 0
    assert np.load(tmp_path / "one.npz")["paths"].tolist() == ["0000.wav"]


def test_detect_shows_tags_and_events_of_a_recording(run: Run, sounds: Path, tiny: Path) -> None:
    code, out, _ = run("detect", sounds / "bell" / "0000.wav", "--model", tiny, "--threshold", "0", "--top", "2")
    assert code == 0
    assert "12 events" in out
    tags, events = re.split(r"\n +events *\n", out)
    assert [sum(f" c{n} " in part for n in range(12)) for part in (tags, events)] == [2, 12]
    code, out, _ = run("detect", sounds / "bell" / "0000.wav", "--model", tiny, "--threshold", "1", "--top", "0")
    assert (code, out.count("\n")) == (0, 1)
    assert "0 events" in out


def test_detect_writes_the_events_of_a_folder(run: Run, sounds: Path, tiny: Path, tmp_path: Path) -> None:
    (sounds / "bad.wav").write_bytes(b"RIFF")
    code, out, _ = run("detect", sounds, "-o", "events.csv", "--model", tiny, "--threshold", "0")
    assert code == 3
    assert "720 events, 60 files, 0.03 h -> events.csv; 1 failed, see failures.csv" in out
    table = pd.read_csv(tmp_path / "events.csv")
    assert table.columns.tolist() == ["file", "start", "end", "label", "score"]
    assert len(table) == 720
    assert pd.read_csv(tmp_path / "failures.csv")["path"].tolist() == ["bad.wav"]
    code, out, _ = run(
        "detect", sounds / "bell", "-o", "none.csv", "--model", tiny, "--threshold", "0", "--min-length", "9e9"
    )
    assert (code, out) == (0, "0 events, 5 files, 0.00 h -> none.csv\n")


def test_models_are_listed(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    assert "untrained-44k" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("embed", "nowhere", "-o", "e.h5", "-m", "untrained-16k"), "nowhere"),
        (("embed", ".", "-o", "e.txt", "-m", "untrained-16k"), "e.txt"),
        (("detect", "nowhere.wav", "-m", "untrained-16k"), "nowhere.wav"),
        (("detect", ".", "-m", "untrained-16k"), "-o EVENTS.csv"),
        (("detect", ".", "-o", "e.h5", "-m", "untrained-16k"), "e.h5"),
        (("detect", ".", "-o", "e.csv", "-m", "untrained-16k", "--threshold", "2"), "threshold 2.0"),
        (("evaluate", "untrained-16k", "nowhere"), "nowhere"),
        (("evaluate", "no-model", "nowhere"), "no-model"),
        (("transfer", "nowhere.csv", "-m", "untrained-16k"), "nowhere.csv"),
        (("prepare", "esc50", "nowhere", "out"), "nowhere"),
        (("verify", "nowhere"), "nowhere"),
        (("embed", ".", "-o", "e.h5", "-m", "untrained-16k", "--device", "nothing"), "nothing"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run: Run, args: tuple[str, ...], said: str) -> None:
    code, out, err = run(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("weakaudio: ")
    assert said in err


def test_the_model_that_is_shipped_embeds_unless_another_is_named(run: Run, sounds: Path) -> None:
    one = next(sounds.rglob("*.wav"))
    assert run("embed", one, "-o", "e.h5")[0] == 0
    assert read_embeddings("e.h5").metadata["model"] == "weakaudio-base"


def test_help_of_every_verb_loads_no_torch() -> None:
    # train has no --help of its own: LightningCLI reads all settings from the classes they belong to.
    code = (
        "import sys\n"
        "from weakaudio.cli import app, main\n"
        "from typer.main import get_command\n"
        "for verb in [[], *([name] for name in get_command(app).commands if name != 'train')]:\n"
        "    sys.argv = ['weakaudio', *verb, '--help']\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, verb\n"
        "    loaded = {'torch', 'librosa', 'lightning', 'pandas', 'scipy', 'h5py'} & set(sys.modules)\n"
        "    assert not loaded, (verb, loaded)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for verb in ("embed", "detect", "transfer"):
        assert f"weakaudio {verb} [OPTIONS]" in run.stdout
