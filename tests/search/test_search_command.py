"""`weakaudio search` from a table to a page, on a few sounds and in a space of a few networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from search_stand_ins import score, without_times
from table_stand_ins import CPU, HERE, made_up

from data_prep.unlabelled import prepare
from weakaudio.errors import WeakAudioError
from weakaudio.latency.clip_latency import ClipLatency
from weakaudio.latency.device import Device, describe
from weakaudio.latency.genome import Genome, Space
from weakaudio.latency.pieces import Key
from weakaudio.latency.table import LatencyTable
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model
from weakaudio.search.blockwise import BlockwiseDistillation
from weakaudio.search.law import Law
from weakaudio.search.law_grid import network_config
from weakaudio.search.log import read_log
from weakaudio.search.short_training import ShortTraining

Run = Callable[..., tuple[int, str, str]]
SPACE = Space(
    operators=(("dense",), ("dense", "inverted"), ("dense", "attention"), ("dense", "inverted")),
    blocks=((1,), (1, 2), (1, 2), (1, 2)),
    channels=((8,), (8, 16), (16,), (16, 24)),
    features=(64, 768),
)
GIVEN: tuple[str, float, int] = ("efficientat-32k", 0.5, 2)
CLIPS = ("--seconds", "0.5", "--batch", "2")
SMALL = ("--population", "4", "--sample", "2", "--children", "3")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, randomise: Callable[[Network], Network]) -> Path:
    """A corpus of tones at 32 kHz, one at 16 kHz, a teacher, and a model that shows no stages."""
    root = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    (root / "sounds").mkdir()
    for n in range(12):
        tone = np.sin(2 * np.pi * rng.uniform(100, 8000) * np.arange(16000) / 32000)
        sf.write(root / "sounds" / f"{n}.wav", 0.2 * tone, 32000)
    prepare(str(root / "sounds"), str(root / "corpus"), 32000, held_out=0.3)
    prepare(str(root / "sounds"), str(root / "slow"), 16000, held_out=0.3)
    for name, kind, config in (("teacher", "mobilenet", {"width": 0.1}), ("closed", "weakcnn", {"width": 1 / 16})):
        network = randomise(build_network(kind, n_classes=3, **config))
        save_model(Model(network, "efficientat-32k", ["dog", "rain", "saw"]), root / f"{name}.safetensors")
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of a few networks, and proxies that hear little."""
    monkeypatch.setattr("weakaudio.latency.genome.Space", lambda: SPACE)
    little = {"seconds": 0.4, "batch_size": 4, "precision": "32-true"}
    monkeypatch.setattr(
        "weakaudio.search.blockwise.BlockwiseDistillation", partial(BlockwiseDistillation, mixtures=8, **little)
    )
    monkeypatch.setattr("weakaudio.search.short_training.ShortTraining", partial(ShortTraining, **little))


def measured(device: Device | None = None) -> LatencyTable:
    """All of the space, in times that are made up."""
    latency = ClipLatency(LatencyTable(device or describe(CPU)), *GIVEN)
    latency.table.times.update((key, made_up(key)) for key in latency.keys(SPACE))
    return latency.table


@pytest.fixture
def searching(run: Run, root: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`search run` with a table and a corpus, into a folder."""
    measured().save(tmp_path / "table.json")

    def call(out: str, *options: str | Path, budget: float = 30.0) -> tuple[int, str, str]:
        given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", *CLIPS, *SMALL, "--steps", "2")
        corpus = ("--corpus", f"{root / 'corpus'}=0.5")
        return run("search", "run", *given, "--budget-ms", str(budget), *corpus, "-o", out, *options)

    return call


def one_line(result: tuple[int, str, str]) -> str:
    """What is said of an error; a bar may have left empty lines."""
    code, _, err = result
    (line,) = err.strip().splitlines()
    assert code == 2
    return line.removeprefix("weakaudio: ")


# --- profile


def test_profile_measures_each_piece_once_and_validates(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.latency.device._ROUNDS", (1, 1))
    threads = torch.get_num_threads()
    n = len(ClipLatency(LatencyTable(HERE), *GIVEN).keys(SPACE))
    validation = ("--validate", "3", "--csv", "new/validation.csv")
    code, out, err = run("search", "profile", "-o", "new/table.json", *CLIPS, "--threads", "2", *validation)
    assert (code, err.strip()) == (0, "")
    assert f"2 threads on {describe(CPU).cores} cores" in out
    assert f"{n} pieces measured, {n} in the table -> new/table.json" in out
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
    assert f"0 pieces measured, {n} in the table" in out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["table.json", "validation.csv"]


def test_profile_in_8_bits_of_every_second_frame_gives_a_table_that_a_search_can_use(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.latency.device._ROUNDS", (1, 1))
    thinned = ("--front-end", "efficientat-32k/2", "--int8", "--validate", "2")
    code, out, err = run("search", "profile", "-o", "table.json", *CLIPS, *thinned)
    assert (code, err.strip()) == (0, "")
    assert "networks in 8 bits on ONNX Runtime" in out
    assert "2 networks: relative error" in out
    table = LatencyTable.load("table.json")
    assert not table.errors
    assert {key.operator for key in table.times if key.piece == "front end"} == {"efficientat-32k/2"}
    given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", *CLIPS, *SMALL, "--steps", "2")
    options = ("--budget-ms", "1e3", "--corpus", root / "corpus", "--evaluations", "5", "-o", "found")
    code, _, err = run("search", "run", *given, *options)
    assert code == 2
    assert "latency table: lacks" in err  # it knows nothing of all frames
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


def no_attention(key: Key, **given: Any) -> float:
    if key.operator == "attention":
        raise RuntimeError("no kernel\nat line 7")
    return made_up(key)


def test_an_operator_that_fails_is_left_out_of_table_validation_and_search(
    run: Run, searching: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.json").unlink()
    monkeypatch.setattr("weakaudio.latency.profile.measure_piece", no_attention)
    monkeypatch.setattr("weakaudio.latency.predict.measure_network", lambda config, **given: 1.0)
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
        (("--csv", "v.csv"), "--csv goes with --validate N"),
        (("--device", "abacus"), "device 'abacus': not to be had here"),
        pytest.param(
            ("--device", "cuda"),
            "device 'cuda': not to be had here",
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
def test_what_cannot_be_profiled_is_one_line(
    run: Run, tmp_path: Path, options: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.latency.profile.measure_piece", lambda key, **given: pytest.fail("measured"))
    measured(HERE).save(tmp_path / "toaster.json")
    (tmp_path / "text.json").write_text("hello")
    assert words in one_line(run("search", "profile", "-o", "table.json", *options))
    assert not (tmp_path / "table.json").exists()


# --- run and page


def test_a_search_finds_a_network_within_budget_and_is_prolonged_as_if_it_had_been_longer(
    searching: Run, tmp_path: Path
) -> None:
    code, out, err = searching("whole", "--evaluations", "9")
    assert (code, err.strip()) == (0, "")
    settings, evaluations = read_log(tmp_path / "whole" / "search.jsonl")
    latency = ClipLatency(measured(), *GIVEN)
    for evaluation in evaluations:
        config = evaluation.genome.to_config()
        assert evaluation.latency == latency(config) <= 0.03
        assert config["n_features"] == 768  # which this proxy does not score
    winner = min(evaluations, key=lambda e: e.score)
    said, config = out.strip().splitlines()
    assert said == (
        f"9 networks; the best, number {winner.number}: score {winner.score:.4g}, {1000 * winner.latency:.3g} ms "
        "-> whole/search.html"
    )
    assert Genome.from_config(build_network("flash", n_classes=2, **json.loads(config)).config) == winner.genome
    about = settings["about"]
    assert (about["latency"]["device"], about["latency"]["front_end"]) == (str(describe(CPU)), "efficientat-32k")
    assert (about["proxy"]["name"], about["proxy"]["steps"]) == ("blockwise", 2)
    assert about["proxy"]["corpora"] == [["corpus", 0.5]]
    stages = json.loads((tmp_path / "whole" / "stages.json").read_text())["stages"]
    assert 4 <= len(stages) < 4 * 9
    assert (tmp_path / "whole" / "search.html").read_text().count("<img") == 2

    for number in (2, 6, 9):
        assert searching("parts", "--evaluations", str(number))[0] == 0
    parts = read_log(tmp_path / "parts" / "search.jsonl")[1]
    assert [e["genome"] for e in without_times(parts)] == [e["genome"] for e in without_times(evaluations)]
    np.testing.assert_allclose([e.score for e in parts], [e.score for e in evaluations], rtol=1e-5)


def test_an_interrupted_search_goes_on_and_its_page_can_be_had_meanwhile(
    run: Run, searching: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(proxy: ShortTraining, config: dict[str, Any]) -> float:
        if (tmp_path / "found" / "search.jsonl").read_bytes().count(b"\n") > 5:
            raise KeyboardInterrupt
        return score(config)

    options = ("--proxy", "training", "--evaluations", "12")
    monkeypatch.setattr(ShortTraining, "__call__", interrupted)
    assert searching("found", *options)[0] != 0
    code, out, _ = run("search", "page", "found")
    assert code == 0
    assert out.startswith("5 networks; the best, number ")
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    assert searching("found", *options)[0] == 0
    assert searching("whole", *options)[0] == 0
    found, whole = (read_log(tmp_path / name / "search.jsonl")[1] for name in ("found", "whole"))
    assert without_times(found) == without_times(whole)
    assert {e.genome.n_features for e in whole} == {64, 768}

    numbers = [e.number for e in whole[:4]]
    pd.DataFrame({"number": numbers, "score": [-e.score for e in whole[:4]]}).to_csv(tmp_path / "full.csv")
    code, out, _ = run("search", "page", "whole", "--full", "full.csv")
    assert code == 0
    assert "rank correlation with full training: -1.000" in out
    assert (tmp_path / "whole" / "search.html").read_text().count("<img") == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget-ms", "1"), "nothing meets a budget of 1 ms; the nearest found takes"),
        (("--budget-ms", "0"), "a budget of 0.0 s, expected more than 0"),
        (("--sample", "5"), "a sample of 5 from a population of 4"),
        (("--evaluations", "0"), "expected 1 or more"),
        (("--workers", "0"), "expected 1 or more"),
        (("--steps", "0"), "0 steps"),
        (("--seconds", "3"), "lacks"),
        (("--table", "none.json"), "none.json: no such file"),
        (("--table", "toaster.json"), "toaster.json: measured on another device: Toaster"),
        (("--teacher", "nobody"), "nobody"),
        (("--teacher", "{root}/closed.safetensors"), "does not show its stages"),
        (("--proxy", "training", "--teacher", "{root}/closed.safetensors"), "does not show its stages"),
        (("--device", "abacus"), "device 'abacus': not to be had here"),
        (("--corpus", "{root}/none"), "none"),
        (("--corpus", "{root}/slow"), "of one sample rate"),
        (("--corpus", "{root}/corpus"), "is there twice"),
        (("--corpus", "{root}/slow=0"), "a weight of 0, expected more than 0"),
        (("--corpus", "{root}/slow=nan"), "a weight of nan"),
        (("--corpus", "{root}/slow=much"), "'much' is no number; expected PATH=WEIGHT"),
    ],
)
def test_what_cannot_be_searched_is_one_line_and_nothing_is_logged(
    searching: Run, root: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    measured(HERE).save(tmp_path / "toaster.json")
    said = one_line(searching("found", *(option.format(root=root) for option in options)))
    assert words in said
    log = tmp_path / "found" / "search.jsonl"
    assert not log.exists() or read_log(log)[1] == []


def test_corpora_that_do_not_fit_the_teacher_are_told_before_the_search(
    run: Run, searching: Run, root: Path, tmp_path: Path
) -> None:
    given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", *CLIPS, "--budget-ms", "30")
    for proxy in ("blockwise", "training"):
        result = run("search", "run", *given, "--proxy", proxy, "--corpus", root / "slow", "-o", "found")
        assert "corpora at 16000 Hz" in one_line(result)
    assert not (tmp_path / "found").exists()


def test_a_table_of_another_device_is_taken_if_that_is_said(
    searching: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    measured(HERE).save(tmp_path / "toaster.json")
    options = ("--table", "toaster.json", "--proxy", "training", "--evaluations", "2")
    assert searching("found", *options, "--allow-other-device")[0] == 0
    assert read_log(tmp_path / "found" / "search.jsonl")[0]["about"]["latency"]["device"] == str(HERE)


def test_a_search_is_not_gone_on_with_on_other_terms(
    searching: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    options = ("--proxy", "training", "--evaluations", "2")
    assert searching("found", *options)[0] == 0
    for other, words in (
        (("--seed", "1"), "seed 0, now 1"),
        (("--steps", "3"), "about.proxy.steps 2, now 3"),
        (("--budget-ms", "25"), "budget 0.03, now 0.025"),
    ):
        assert words in one_line(searching("found", *options, *other))
    table = measured()
    table.times[next(key for key in table.times if key.piece == "block")] += 1e-3
    table.save(tmp_path / "table.json")
    assert "about.latency.times" in one_line(searching("found", *options))


def test_a_page_of_nothing_is_one_line(run: Run, searching: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found/search.jsonl: no log of a search" in one_line(run("search", "page", "found"))
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    assert searching("found", "--proxy", "training", "--evaluations", "2")[0] == 0
    assert "none.csv" in one_line(run("search", "page", "found", "--full", "none.csv"))


# --- law

LAW = Law(floor=2.0, a=0.6, alpha=0.8, b=0.9, beta=0.5)
GRID = ("--depth", "1", "--depth", "2", "--depth", "3", "--width", "0.25", "--width", "0.5", "--width", "1")


class LawfulTraining:
    """Loss as the law has it; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, proxy: ShortTraining, config: dict[str, Any]) -> float:
        self.asked.append(config)
        for depth in (1, 2, 3):
            for width in (0.25, 0.5, 1):
                if network_config(depth, width) == config:
                    return float(LAW.predict(depth, width))
        raise AssertionError(config)


@pytest.fixture
def lawful(run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, LawfulTraining]:
    """`search law` without training."""
    training = LawfulTraining()
    monkeypatch.setattr(ShortTraining, "__call__", lambda proxy, config: training(proxy, config))
    monkeypatch.setattr("weakaudio.latency.profile.measure_piece", lambda key, **given: made_up(key))
    LatencyTable(describe(CPU)).save(tmp_path / "table.json")

    def call(*options: str | Path) -> tuple[int, str, str]:
        given = (
            "--table",
            "table.json",
            "--teacher",
            root / "teacher.safetensors",
            *CLIPS,
            "--corpus",
            root / "corpus",
        )
        return run("search", "law", *given, *GRID, "-o", "law", *options)

    return call, training


def test_a_law_names_the_best_network_for_each_budget(lawful: tuple[Run, LawfulTraining], tmp_path: Path) -> None:
    call, training = lawful
    code, out, err = call("--budget-ms", "50", "--budget-ms", "1000")
    assert (code, err.strip()) == (0, "")
    assert len(training.asked) == 9
    grid = [(depth, width) for depth in (1, 2, 3) for width in (0.25, 0.5, 1)]
    latency = ClipLatency(LatencyTable.load("table.json"), *GIVEN)
    within = [point for point in grid if latency(network_config(*point)) <= 0.05]
    assert 0 < len(within) < 9
    first, *named = out.strip().splitlines()
    assert "9 networks" in first
    assert "-> law/law.html" in first
    best = (min(within, key=lambda point: LAW.predict(*point)), (3, 1))
    for (depth, width), budget, line in zip(best, (50, 1000), named, strict=True):
        config = network_config(depth, width)
        assert line.startswith(
            f"within {budget} ms: depth {depth:g}, width {width:g} with {1000 * latency(config):.3g}"
        )
        assert f"a predicted loss of {LAW.predict(depth, width):.4g}: " in line
        assert json.loads(line[line.index("{") :]) == config
    page = (tmp_path / "law" / "law.html").read_text()
    assert page.count("<img") == 2
    assert "2 + 0.6 D^-0.8 + 0.9 W^-0.5" in page
    assert call("--budget-ms", "40")[0] == 0
    assert len(training.asked) == 9  # the grid is kept
    assert "trained with other settings" in one_line(call("--steps", "7", "--budget-ms", "40"))


def test_a_budget_nothing_meets_is_told_before_anything_is_trained(lawful: tuple[Run, LawfulTraining]) -> None:
    call, training = lawful
    said = one_line(call("--budget-ms", "1"))
    assert "nothing meets a budget of 1 ms; the nearest is depth 1, width 0.25 with" in said
    assert training.asked == []


def test_grids_and_corpora_that_give_no_law_are_one_line(
    run: Run, lawful: tuple[Run, LawfulTraining], root: Path, tmp_path: Path
) -> None:
    call, training = lawful
    assert "0 steps" in one_line(call("--steps", "0"))
    assert "expected numbers above 0" in one_line(call("--depth", "-1"))
    given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", "-o", "law")
    few = ("--depth", "1", "--depth", "2", "--depth", "1.0")
    assert "2 depths and 4 widths" in one_line(run("search", "law", *given, "--corpus", root / "corpus", *few))
    assert "corpora at 16000 Hz" in one_line(run("search", "law", *given, "--corpus", root / "slow"))
    measured(HERE).save(tmp_path / "table.json")
    assert "measured on another device" in one_line(call())
    assert training.asked == []


def test_proxies_find_out_beforehand_what_would_fail(root: Path, tmp_path: Path) -> None:
    teacher, corpora = str(root / "teacher.safetensors"), {str(root / "corpus"): 1.0}
    ShortTraining(teacher, corpora).check()
    BlockwiseDistillation(teacher, corpora, tmp_path / "stages.json").check()
    assert not (tmp_path / "stages.json").exists()
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(WeakAudioError, match=r"stages.json: damaged"):
        BlockwiseDistillation(teacher, corpora, tmp_path / "stages.json").check()
