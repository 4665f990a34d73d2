from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from weakaudio.cli.benchmark import _summary
from weakaudio.deploy import backends, benchmark
from weakaudio.deploy.backends import Fastest, fastest
from weakaudio.deploy.benchmark import PathTimes, time_path
from weakaudio.errors import WeakAudioError
from weakaudio.networks import FlashCNN, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model

STAGES = (("dense", 1, 4), ("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8))


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network]) -> Model:
    return Model(randomise(FlashCNN(3, 64, STAGES, 8)), "16k", ["dog", "rain", "saw"]).eval()


@pytest.fixture(scope="module")
def file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "tiny.safetensors"
    save_model(model, path)
    return path


def rounds_of(*seconds: float) -> Callable[..., Any]:
    """A timer that runs nothing: these seconds for the jobs, and thrice that in a bad round."""
    return lambda jobs, *args, **kwargs: np.array([seconds, seconds, np.multiply(3, seconds)])


# --- the command


def test_the_command_shows_each_stage_and_writes_the_same_figures(
    run: Callable[..., tuple[int, str, str]], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (2, 2))
    out = tmp_path / "new" / "speed.csv"
    threads = torch.get_num_threads()
    code, text, err = run(
        "benchmark",
        file,
        file,
        "--seconds",
        "0.7",
        "--batch",
        "1",
        "--batch",
        "3",
        "--threads",
        "2",
        "--csv",
        out,
        "--backends",
    )
    assert (code, err.strip()) == (0, "")
    assert torch.get_num_threads() == threads
    for word in (
        "x real time",
        "decode",
        "resample",
        "log-mel",
        "network",
        "2 threads",
        "clips of 0.7 s",
        "44100 Hz",
    ):
        assert word in text
    assert "peak MB" not in text
    for batch in (1, 3):
        assert f"{file}, batch {batch}: " in text
    assert text.count("fused") == text.count("onnx") / 2 == 4
    with out.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["model"], row["batch"]) for row in rows] == [(str(file), "1"), (str(file), "3")] * 2
    for row in rows:
        assert float(row["times_real_time"]) == pytest.approx(700 / float(row["clip_ms"]), rel=0.01)
        assert all(float(row[f"{stage}_ms"]) > 0 for stage in ("decode", "resample", "logmel", "network"))
        assert "2 threads" in row["device"]
    assert [path.name for path in out.parent.iterdir()] == ["speed.csv"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--threads", "0"), "threads 0: expected 1 or more"),
        (("--seconds", "0"), "clips of 0.0 s: expected more than 0"),
        (("--seconds", "-3"), "clips of -3.0 s"),
        (("--seconds", "nan"), "clips of nan s"),
        (("--seconds", "1e-9"), "a sample at least"),
        (("--batch", "0"), "a batch of 0 clips"),
        (("--compiled",), "--compiled is one of the --backends"),
        (("--device", "abacus"), "device 'abacus': not available"),
        pytest.param(
            ("--device", "cuda"),
            "device 'cuda': not available",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
        (("no-such-model",), "no-such-model"),
    ],
)
def test_invalid_options_are_one_line(
    run: Callable[..., tuple[int, str, str]], file: Path, options: tuple[str, ...], words: str
) -> None:
    code, out, err = run("benchmark", file, *options)
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()  # after what is left of a bar
    assert line.startswith("weakaudio: ")
    assert words in line


def test_a_csv_that_cannot_be_written_is_reported_and_the_table_is_shown(
    run: Callable[..., tuple[int, str, str]], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "time_rounds", rounds_of(1, 2, 3, 4, 8))
    (tmp_path / "file").write_text("")
    code, out, err = run("benchmark", file, "--seconds", "0.1", "--csv", tmp_path / "file" / "speed.csv")
    assert code == 2
    assert "speed.csv: cannot be written" in err
    assert "8000.00" in out  # ms for the clip


# --- stages


def test_stages_are_medians_of_a_clip(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "time_rounds", rounds_of(1, 2, 3, 4, 8))
    times = time_path(model, seconds=10.0, batch=2)
    assert times == PathTimes(2, 10.0, decode=1, resample=2, logmel=1.5, network=2, whole=4, peak_memory=None)
    assert times.times_real_time == 2.5


def test_stages_are_what_they_are_called(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Any] = []

    def run_all(jobs: list[Callable[[], Any]], *args: Any, **kwargs: Any) -> Any:
        results.extend(job() for job in jobs)
        return np.ones((1, len(jobs)))

    monkeypatch.setattr(benchmark, "time_rounds", run_all)
    time_path(model, seconds=0.5, batch=2)
    (decoded, rate), resampled, (logmel, n_frames), from_logmel, from_waveform = results
    assert (decoded.shape, rate, resampled.shape) == ((22050,), 44100, (8000,))
    assert (logmel.shape, n_frames.tolist()) == ((2, 51, 64), [51, 51])
    torch.testing.assert_close(from_logmel, from_waveform)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(logmel).clip_probs, from_logmel, atol=1e-5, rtol=1e-5)


def test_the_fastest_backend_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    run = torch.relu
    choice = Fastest("onnx", run, {"onnx": 0.016, "fused": 0.04}, {"log-mel, onnx": "no such operator"})
    assert _summary(choice, 8) == "onnx 2.00 ms, fused 5.00 ms; log-mel, onnx left out: no such operator"


@pytest.mark.parametrize(("seconds", "batch"), [(0.0, 1), (float("inf"), 1), (1.0, 0)])
def test_invalid_clips_are_refused(model: Model, seconds: float, batch: int) -> None:
    for measure in (time_path, fastest):
        with pytest.raises(WeakAudioError, match="expected"):
            measure(model, seconds, batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_s_memory_is_reported(model: Model) -> None:
    times = time_path(model, 1.0, 2, "cuda", budget=0.1)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert times.peak_memory is not None
    assert times.peak_memory > 4 * weights


# --- the fastest backend


def other_backend(model: Model) -> Callable[[Tensor], Tensor]:
    """Another backend with the same probabilities."""
    return torch.inference_mode()(lambda waveform: model(waveform).clip_probs)


def broken(model: Model) -> Callable[[Tensor], Tensor]:
    raise WeakAudioError("no compiler\nhere")


@pytest.mark.parametrize(("seconds", "name"), [((3.0, 1.0), "other"), ((1.0, 3.0), "fused")])
def test_the_fastest_of_those_that_are_right_is_chosen(
    model: Model, monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], name: str
) -> None:
    monkeypatch.setattr(backends, "time_rounds", rounds_of(*seconds))
    waveform = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    ways = {
        "wrong": lambda model: lambda waveform: torch.zeros(len(waveform), 3),
        "nan": lambda model: lambda waveform: torch.full((len(waveform), 3), torch.nan),
        "broken": broken,
        "other": other_backend,
    }
    monkeypatch.setattr(backends, "onnx_backends", lambda: ways)
    choice = fastest(model, seconds=0.3, batch=2)
    assert isinstance(choice, Fastest)
    assert choice.name == name
    assert list(choice.seconds.items()) == sorted(zip(("fused", "other"), seconds, strict=True), key=lambda i: i[1])
    assert choice.left_out.keys() == {"wrong", "nan", "broken"}
    assert choice.left_out["broken"] == "no compiler"
    assert "differ from the model's by" in choice.left_out["wrong"]
    with torch.inference_mode():
        torch.testing.assert_close(choice.run(waveform), model(waveform).clip_probs, atol=1e-5, rtol=1e-5)


def test_a_compiler_that_fails_leaves_its_backend_out(
    run: Callable[..., tuple[int, str, str]], model: Model, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (2, 2))

    def fails(network: Network) -> Network:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fails)
    code, text, _ = run("benchmark", file, "--seconds", "0.2", "--batch", "1", "--ways", "--compiled")
    assert code == 0
    assert "compiled left out: no C++ compiler" in text
    monkeypatch.setattr(backends, "time_rounds", rounds_of(1.0))
    monkeypatch.setattr(backends, "onnx_backends", dict)
    assert fastest(model, 0.2, compiled=True).left_out == {"compiled": "no C++ compiler"}
    assert fastest(model, 0.2).left_out == {}  # only if asked
