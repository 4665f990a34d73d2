"""The wheel brings all it needs: installed away from this checkout and without a network, it embeds and detects."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from weakaudio.audio.io import write_wav
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.inference import DEFAULT_MODEL

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "pretrained" / f"{DEFAULT_MODEL}.safetensors"
MOST_BYTES = 30_000_000  # weights of three models are 24 MB of it
NO_NETWORK = """
import socket

def refuse(*_):
    raise OSError("this test has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""

pytestmark = pytest.mark.xdist_group("wheel")  # built and installed once

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not WEIGHTS.is_file():
        pytest.fail(f"{WEIGHTS}: no such file; the wheel ships it, as the model that detects by default")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-deps", "--wheel-dir", folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a program of an environment that has the wheel, and other packages from the environment of this test."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    pip("--python", folder / "env" / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "no_network.py").write_text(NO_NETWORK)
    # Folders that a .pth names come after the environment's own, and what their .pth files name (this checkout, if it
    # is installed as editable) does not count.
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join([*shared, "import no_network", ""]))

    def run(program: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WEAK"))}
        command = [folder / "env" / "bin" / program, *args]
        return subprocess.run(
            command,
            cwd=folder,
            env={**environment, "HOME": str(folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    origin = run("python", "-c", "import weakaudio; print(weakaudio.__file__)")
    assert Path(origin.stdout.strip()) == packages / "weakaudio" / "__init__.py", origin.stderr
    return run


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that begins after a second of near silence, and silence."""
    folder = tmp_path_factory.mktemp("sounds")
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * 44100).astype(np.float32)
    noise[:44100] *= 1e-4
    write_wav(folder / "noise.wav", noise, 44100)
    write_wav(folder / "silence.wav", np.zeros(4 * 44100, np.float32), 44100)
    return folder


def pip(*args: str | Path) -> None:
    run = subprocess.run([sys.executable, "-m", "pip", *args], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_wheel_is_small_and_holds_the_library_and_the_weights(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert f"weakaudio/_shipped/{WEIGHTS.name}" in names
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"weakaudio", "weakaudio_data_prep"}


def test_detect_runs_offline_with_the_shipped_model(installed: Run, sounds: Path, tmp_path: Path) -> None:
    run = installed("weakaudio", "detect", sounds, "-o", tmp_path / "events.csv", "--threshold", "0.1")
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(tmp_path / "events.csv")
    assert table.columns.tolist() == ["file", "start", "end", "label", "score"]
    assert "noise.wav" in set(table["file"])
    assert ((table["start"] >= 0) & (table["start"] < table["end"]) & (table["end"] <= 4)).all()
    assert table["score"].between(0.1, 1).all()


def test_silence_holds_nothing_but_silence(installed: Run, sounds: Path, tmp_path: Path) -> None:
    run = installed("weakaudio", "detect", sounds / "silence.wav", "-o", tmp_path / "events.csv")
    assert run.returncode == 0, run.stderr
    assert set(pd.read_csv(tmp_path / "events.csv")["label"]) <= {"Silence"}


def test_detect_shows_what_is_in_a_recording(installed: Run, sounds: Path) -> None:
    run = installed("weakaudio", "detect", sounds / "noise.wav", "--top", "3")
    assert run.returncode == 0, run.stderr
    assert "noise.wav: 4.00 s" in run.stdout
    assert run.stdout.count("│ 0.") + run.stdout.count("│ 1.") >= 3  # scores of the tags


def test_embed_runs_offline_with_the_shipped_model(installed: Run, sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.npz"
    run = installed("weakaudio", "embed", sounds, "-o", out, "--model", DEFAULT_MODEL)
    assert run.returncode == 0, run.stderr
    table = read_embeddings(out)
    assert table.paths == ["noise.wav", "silence.wav"]
    assert np.isfinite(table.embeddings).all()
    assert not np.allclose(table.embeddings[0], table.embeddings[1])
