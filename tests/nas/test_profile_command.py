"""`weakaudio search profile`, in a space of a few networks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_stand_ins import CLIPS, GIVEN, SMALL, SPACE, measured, one_line
from search_stand_ins import score
from table_stand_ins import CPU, HERE, made_up

from weakaudio.deploy.benchmark import describe
from weakaudio.nas.components import Component
from weakaudio.nas.latency_model import ClipLatency
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.proxies import ShortTraining
from weakaudio.nas.stores import read_log

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("small")


def test_profile_measures_each_component_once_and_validates(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (1, 1))
    threads = torch.get_num_threads()
    n = len(ClipLatency(LatencyTable(HERE), *GIVEN).components(SPACE))
    validation = ("--validate", "3", "--csv", "new/validation.csv")
    code, out, err = run("search", "profile", "-o", "new/table.json", *CLIPS, "--threads", "2", *validation)
    assert (code, err.strip()) == (0, "")
    assert f"2 threads on {describe(CPU).cores} cores" in out
    assert f"{n} components measured, {n} in the table -> new/table.json" in out
    assert "3 networks: relative error of the predicted latency" in out
    assert torch.get_num_threads() == threads
    table = LatencyTable.load("new/table.json")
    assert (table.device.threads, len(table.times), table.errors) == (2, n, {})
    latency = ClipLatency(table, *GIVEN)
    assert latency.runnable(SPACE) == SPACE
    rows = pd.read_csv(tmp_path / "new" / "validation.csv")
    assert list(rows) == ["network", "predicted", "measured"]
    assert rows["network"].nunique() == 3
    assert (rows["measured"] > 0).all()
    error = (rows["predicted"] / rows["measured"] - 1).abs().median()
    assert f"{error:.1%} (median)" in out
    code, out, _ = run("search", "profile", "-o", "new/table.json", *CLIPS, "--threads", "2")
    assert code == 0
    assert f"0 components measured, {n} in the table" in out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["table.json", "validation.csv"]


def test_profile_in_8_bits_of_every_second_frame_gives_a_table_that_a_search_can_use(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (1, 1))
    monkeypatch.setattr("weakaudio.nas.int8_profile._SECONDS", 0.0)
    decimated = ("--front-end", "efficientat-32k/2", "--int8", "--validate", "2")
    code, out, err = run("search", "profile", "-o", "table.json", *CLIPS, *decimated)
    assert (code, err.strip()) == (0, "")
    assert "networks in 8 bits on ONNX Runtime" in out
    assert "2 networks: relative error" in out
    table = LatencyTable.load("table.json")
    assert not table.errors
    assert {key.operator for key in table.times if key.kind == "front end"} == {"efficientat-32k/2"}
    given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", *CLIPS, *SMALL, "--steps", "2")
    options = ("--budget-ms", "1e3", "--corpus", root / "corpus", "--evaluations", "5", "-o", "found")
    code, _, err = run("search", "run", *given, *options)
    assert code == 2
    assert "latency table: lacks" in err  # it has no components at a frame stride of 1
    code, _, err = run("search", "run", *given, *options, "--every", "2")
    assert (code, err.strip()) == (0, "")
    settings, evaluations = read_log(tmp_path / "found" / "search.jsonl")
    assert len(evaluations) == 5
    assert settings["about"]["proxy"]["every"] == 2
    assert settings["about"]["latency"]["front_end"] == "efficientat-32k/2"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_told_before_a_table_is_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install weakaudio[onnx]" in one_line(run("search", "profile", "--int8", "-o", "table.json", *CLIPS))
    assert not (tmp_path / "table.json").exists()


def no_attention(key: Component, **given: Any) -> float:
    if key.operator == "attention":
        raise RuntimeError("no kernel\nat line 7")
    return made_up(key)


def test_an_operator_that_fails_is_left_out_of_table_validation_and_search(
    run: Run, searching: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.json").unlink()
    monkeypatch.setattr("weakaudio.nas.profile.measure_component", no_attention)
    monkeypatch.setattr("weakaudio.nas.latency_model.measure_network", lambda config, **given: 1.0)
    code, out, _ = run("search", "profile", "-o", "table.json", *CLIPS, "--validate", "8")
    assert code == 0
    assert "left out: attention (no kernel)" in out
    assert "8 networks" in out
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    code, out, _ = searching("found", "--proxy", "training", "--evaluations", "8")
    assert code == 0
    assert "left out: attention (no kernel)" in out
    settings, evaluations = read_log(tmp_path / "found" / "search.jsonl")
    assert settings["space"]["operators"][2] == ["dense"]
    assert [e.number for e in evaluations if e.score is not None] == list(range(8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--csv", "v.csv"), "--csv needs --validate N"),
        (("--device", "abacus"), "device 'abacus': not available"),
        pytest.param(
            ("--device", "cuda"),
            "device 'cuda': not available",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
        (("--graphs",), "CUDA graphs need a GPU"),
        (("--front-end", "12k"), "front end '12k': unknown"),
        (("--seconds", "0"), "clips of 0.0 s: expected more than 0"),
        (("--batch", "0"), "a batch of 0 clips"),
        (("--threads", "0"), "threads 0: expected 1 or more"),
        (("-o", "toaster.json"), "toaster.json: measured on another device: Toaster"),
        (("-o", "text.json"), "text.json: no latency table"),
    ],
)
def test_invalid_options_of_profile_are_one_line(
    run: Run, tmp_path: Path, options: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.nas.profile.measure_component", lambda key, **given: pytest.fail("measured"))
    measured(HERE).save(tmp_path / "toaster.json")
    (tmp_path / "text.json").write_text("hello")
    assert words in one_line(run("search", "profile", "-o", "table.json", *options))
    assert not (tmp_path / "table.json").exists()
