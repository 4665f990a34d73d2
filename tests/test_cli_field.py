"""The commands for recordings, as their user types them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from weakaudio.errors import WeakAudioError
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.formats.thresholds import read_thresholds
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model

Run = Callable[..., tuple[int, str, str]]
RATE = 16000


@pytest.fixture
def model(randomise: Callable[[Network], Network], tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(
            build_network("flash", n_classes=3, n_mels=64, stages=[("dense", 1, 8)] * 4, n_features=16)
        )
    save_model(Model(network, "16k", ["dog", "rain", "saw"]), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a/20240501_053000.wav", "a/20240501_060000.wav", "b/x.wav"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        level = np.repeat(10.0 ** rng.uniform(-3, -0.5, 12), 8000)
        sf.write(tmp_path / "clips" / name, level * rng.standard_normal(len(level)), RATE)
    return tmp_path / "clips"


def wav(seconds: float, format: str = "WAV") -> bytes:
    file = io.BytesIO()
    sf.write(file, 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)), RATE, format=format)
    return file.getvalue()


def test_listen_tells_events_of_a_pipe_as_json_lines(run: Run, model: Path) -> None:
    code, out, err = run("listen", "--model", model, "--threshold", "0", given=wav(5))
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert sorted(event["label"] for event in events) == ["dog", "rain", "saw"]
    assert all((event["start"], event["end"]) == (0, 5) for event in events)
    assert "listening at 16000 Hz" in err
    raw = (0.1 * np.random.default_rng(0).standard_normal(3 * 8000) * 32767).astype("<i2").tobytes()
    arguments = ("listen", "--model", model, "--threshold", "0", "--encoding", "s16le", "--sample-rate", "8000")
    code, out, _ = run(*arguments, given=raw)
    assert code == 0
    assert [json.loads(line)["end"] for line in out.splitlines()] == [3, 3, 3]


def test_a_pipe_that_breaks_off_has_its_events_and_an_error(run: Run, model: Path) -> None:
    code, out, err = run("listen", "--model", model, "--threshold", "0", given=wav(5)[:-16001])
    assert code == 2
    assert len(out.splitlines()) == 3
    assert err.splitlines()[-1].startswith("weakaudio: standard input")
    code, out, err = run("listen", "--model", model, given=b"no audio at all, but long enough for a header")
    assert (code, out) == (2, "")
    assert "standard input" in err


def test_detect_takes_a_list_patterns_formats_and_writes_a_page(run: Run, model: Path, clips: Path) -> None:
    listed = "\n".join(str(path) for path in sorted(clips.rglob("*.wav"))).encode()
    assert run("detect", "-", "-o", "l.csv", "--model", model, "--threshold", "0", given=listed)[0] == 0
    assert pd.read_csv("l.csv")["file"].nunique() == 3
    options = ("--model", model, "--threshold", "0", "--include", "a/*", "--exclude", "*06*")
    code, out, _ = run("detect", clips, "-o", "e.tsv", *options, "--report", "e.html")
    assert (code, out.split(",")[0]) == (0, "3 events")
    assert pd.read_csv("e.tsv", sep="\t")["filename"].unique().tolist() == ["a/20240501_053000.wav"]
    page = Path("e.html").read_text()
    assert "1714541400" in page  # 5:30 of 1 May 2024, as the recorder's clock showed it
    assert "Events in clips" in page
    code, _, err = run("detect", clips / "b" / "x.wav", "--model", model, "--report", "e.html")
    assert code == 2
    assert "need -o" in err


def test_thresholds_of_classes_come_from_a_table(run: Run, model: Path, clips: Path, tmp_path: Path) -> None:
    Path("t.csv").write_text("class,event_threshold\nrain,0\nsaw,\n")
    assert run("detect", clips, "-o", "e.csv", "--model", model, "--thresholds", "t.csv")[0] == 0
    assert pd.read_csv("e.csv")["label"].unique().tolist() == ["rain"]
    both = ("--threshold", "0.1", "--thresholds", "t.csv")
    assert "give one" in run("detect", clips, "-o", "e.csv", "--model", model, *both)[2]
    for content, said in (
        ("a,b\n1,2\n", "columns class and threshold"),
        ("class,threshold\ndog,high\n", "numbers"),
        ("class,threshold\ndog,0.1\ndog,0.2\n", "twice"),
        ("", "cannot be read"),
    ):
        Path("t.csv").write_text(content)
        with pytest.raises(WeakAudioError, match=said):
            read_thresholds("t.csv")


def test_events_are_evaluated_against_truth(run: Run, model: Path, clips: Path) -> None:
    run("detect", clips, "-o", "e.csv", "--model", model, "--threshold", "0")
    Path("truth.tsv").write_text(
        "filename\tonset\toffset\tevent_label\n"
        + "".join(f"{path.relative_to(clips)}\t0\t6\tdog\n" for path in sorted(clips.rglob("*.wav")))
    )
    code, out, _ = run("evaluate-events", "e.csv", "truth.tsv", "-o", "scores")
    assert code == 0
    assert "event-based F1: micro 1.000" in out
    assert json.loads(Path("scores/metrics.json").read_text())


def test_alike_sounds_are_found_from_the_command_line(run: Run, model: Path, clips: Path) -> None:
    assert run("embed", clips, "-o", "s.h5", "--level", "segment", "--model", model)[0] == 0
    example = clips / "b" / "x.wav"
    code, out, _ = run("similar", "s.h5", example, "--at", "1", "--folder", clips, "--top", "2")
    assert code == 0
    assert "similarity" in out
    options = ("--at", "1", "--folder", clips, "--model", model)
    assert run("similar", "s.h5", example, *options, "-o", "alike.html")[0] == 0
    assert "<audio" in Path("alike.html").read_text()
    assert run("similar", "s.h5", example, *options, "-o", "alike.csv")[0] == 0
    assert pd.read_csv("alike.csv")["similarity"].is_monotonic_decreasing


def test_bfloat16_is_near_float32_and_another_run(run: Run, model: Path, clips: Path) -> None:
    assert run("embed", clips, "-o", "a.npz", "--model", model)[0] == 0
    assert run("embed", clips, "-o", "b.npz", "--model", model, "--dtype", "bfloat16")[0] == 0
    a, b = (read_embeddings(name).embeddings for name in ("a.npz", "b.npz"))
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert [read_embeddings(name).metadata["dtype"] for name in ("a.npz", "b.npz")] == ["float32", "bfloat16"]
    assert run("embed", clips, "-o", "a.npz", "--model", model, "--dtype", "float32")[0] == 0  # as auto had chosen
    code, _, err = run("embed", clips, "-o", "a.npz", "--model", model, "--dtype", "bfloat16")
    assert code == 2
    assert 'other settings (dtype "float32", now "bfloat16")' in err


@pytest.mark.parametrize("verb", ["embed", "detect", "listen"])
def test_a_dtype_that_does_not_exist_is_refused(run: Run, model: Path, clips: Path, verb: str) -> None:
    arguments = ("listen",) if verb == "listen" else (verb, clips, "-o", f"{verb}.h5" if verb == "embed" else "e.csv")
    code, _, err = run(*arguments, "--model", model, "--dtype", "float8", given=b"")
    assert code == 2
    assert "dtype 'float8': unknown; there are auto, float32, bfloat16" in err


def test_a_resumed_run_keeps_its_precision_on_another_machine(
    run: Run, model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for native in (True, False):
        monkeypatch.setattr("weakaudio.networks.runtime.has_native_bfloat16", lambda device, native=native: native)
        assert run("detect", clips, "-o", "e.csv", "--model", model, "--device", "cpu")[0] == 0
        assert run("embed", clips, "-o", "e.npz", "--model", model, "--device", "cpu")[0] == 0
    assert read_embeddings("e.npz").metadata["dtype"] == "bfloat16"


def test_an_interrupted_run_resumes(run: Run, model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("weakaudio.batch.embed.write_rows", interrupt)
        code, _, err = run("embed", clips, "-o", "e.h5", "--model", model)
        assert code != 0
        assert "Traceback" not in err
    assert sorted(os.listdir(".")) == ["clips", "e.h5.journal", "m.safetensors"]
    assert run("embed", clips, "-o", "e.h5", "--model", model)[0] == 0
