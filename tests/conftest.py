"""What all tests share: settings of hypothesis and torch, where real recordings are, a few makers."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from hypothesis import HealthCheck, Phase, settings
from malformed import intact, scratch  # noqa: F401 (fixtures)
from numpy.typing import NDArray
from torch import nn

from weakaudio.cli import main
from weakaudio.data.corpus import EVENTS, LABELS, MANIFEST, STORE
from weakaudio.data.store import StoreWriter
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import Pooling

settings.register_profile(
    "weakaudio",
    deadline=None,  # no test depends on the clock
    derandomize=True,
    max_examples=50,
    phases=[Phase.explicit, Phase.generate],  # a failure is seeded; shrinking it costs minutes on networks
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("weakaudio")
# Precision "auto" is float32 on every processor, as numbers are compared to 1e-5; subprocesses inherit this.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
# Networks here are tiny: more threads wait for each other, up to 30 times as long.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_runtest_setup() -> None:
    """Give a test the same random weights whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings named by WEAKAUDIO_DATA."""
    folder = os.environ.get("WEAKAUDIO_DATA")
    if not folder:
        pytest.skip("WEAKAUDIO_DATA is not set: it names the folder with the real recordings")
    if not Path(folder).is_dir():
        pytest.fail(f"WEAKAUDIO_DATA names {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def randomise() -> Callable[[Network], Network]:
    """Draw weights and batch-norm statistics under which every layer carries signal, and set to eval.

    Convolutions keep the level (Kaiming) and statistics are of order one, so that float32 rounding stays near
    1e-6 and a difference of 1e-5 is a fault.
    """

    def apply(network: Network) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.7, 1.2)
                    nn.init.normal_(module.bias, std=0.2)
                    nn.init.normal_(module.running_mean, std=0.2)
                    nn.init.uniform_(module.running_var, 0.8, 1.5)
            for module in network.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
                if isinstance(module, Pooling):
                    for parameter in module.parameters():
                        nn.init.normal_(parameter)
        return network.eval()

    return apply


@pytest.fixture(scope="module")
def scored_model(randomise: Callable[[Network], Network]) -> Model:
    """A small N_S of three classes whose scores follow its input, and lie around 0.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(WeakCNN(3, n_mels=64, width=1 / 8))
    network.classifier.bias.data.zero_()
    return Model(network, "16k", ["dog", "rain", "saw"]).eval()


@pytest.fixture(scope="session")
def clear_threshold() -> Callable[..., float]:
    """Choose a threshold that rounding takes no score across: as far as can be from all scores, and as far from them
    where it is multiplied by `hysteresis`."""

    def choose(scores: NDArray[np.floating], hysteresis: float = 1.0) -> float:
        candidates = np.linspace(*np.quantile(scores, [0.25, 0.75]), 1001)
        levels = np.stack([candidates, hysteresis * candidates])
        distance = np.abs(levels[..., None] - scores.ravel()).min((0, 2))
        assert distance.max() > 2e-5
        return float(candidates[distance.argmax()])

    return choose


@pytest.fixture(scope="module")
def detectable_model(randomise: Callable[[Network], Network]) -> Model:
    """A small N_S whose class "rain, heavy" is detected in nearly everything."""
    network = randomise(WeakCNN(3, n_mels=64, width=1 / 8))
    with torch.no_grad():
        network.classifier.bias.zero_()
        network.classifier.weight[1] = network.classifier.weight[0].abs()
    return Model(network, "16k", ["dog", "rain, heavy", "saw"]).eval()


@pytest.fixture
def make_wavs(tmp_path: Path) -> Callable[[dict[str, NDArray[np.float32]]], Path]:
    """Write 16-bit WAVs at 8 kHz below a fresh folder: {relative path: samples}."""

    def make(files: dict[str, NDArray[np.float32]], sample_rate: int = 8000) -> Path:
        root = tmp_path / "wavs"
        for name, audio in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            sf.write(root / name, audio, sample_rate, subtype="PCM_16")
        return root

    return make


@pytest.fixture(scope="session")
def event_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of single-label sounds for soundscapes: 6 classes, 5 folds, 2 sounds in each, 2205 Hz.

    Class "long" lasts 31 s, more than any soundscape. 2205 Hz: few sample times are round decimal numbers.
    """
    root = tmp_path_factory.mktemp("events")
    rng = np.random.default_rng(1)
    rows = []
    for label in ("bell", "dog", "drip", "long", "rain", "saw"):
        for fold in range(1, 6):
            for take in range(2):
                name = f"{label}-{fold}-{take}.wav"
                seconds = 31.0 if label == "long" else rng.uniform(0.1, 1.5)
                sf.write(root / name, 0.3 * rng.standard_normal(int(seconds * 2205)).clip(-3, 3), 2205)
                rows.append({"path": name, "labels": label, "fold": fold, "source": f"{label}{fold}{take}"})
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 36 clips of 1 to 4 s at 16 kHz, tones of two classes in noise, with strong truth.

    12 clips in each of train, val and test; of every four, two hold one class, one both and one nothing.
    """
    frequencies = {"onset": 500.0, "macro_average": 3000.0}  # names that mean something else to sed_scores_eval
    root = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    clips, events = [], []
    rate = 16000
    with StoreWriter(root / STORE, rate) as writer:
        for n in range(36):
            split, path = ("train", "val", "test")[n // 12], f"{n}.wav"
            labels = [["onset"], ["macro_average"], list(frequencies), []][n % 4]
            time = np.arange(int(rng.integers(rate, 4 * rate))) / rate
            audio = 0.01 * rng.standard_normal(len(time))
            for label in labels:
                begin, end = sorted(rng.uniform(0, time[-1], 2))
                audio += 0.1 * np.sin(2 * np.pi * frequencies[label] * time) * ((time >= begin) & (time < end))
                events.append({"path": path, "label": label, "onset": begin, "offset": end})
            writer.add(path, audio.astype(np.float32), labels)
            clips.append({"path": path, "labels": ";".join(labels), "split": split})
    (root / LABELS).write_text("".join(f"{name}\n" for name in frequencies))
    pd.DataFrame(clips).to_csv(root / MANIFEST, index=False)
    pd.DataFrame(events).to_csv(root / EVENTS, index=False)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here: that needs root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Pipe:
    """Standard input with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BufferedReader(io.BytesIO(content))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run the console script's function in a folder of its own, `given` on its standard input: exit code, output and
    errors."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str | Path, given: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weakaudio", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", Pipe(given))
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call
