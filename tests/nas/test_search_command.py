"""`weakaudio search run` and `page`, on a few sounds and in a space of a few networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_stand_ins import CLIPS, GIVEN, measured, one_line
from search_stand_ins import score, without_times
from table_stand_ins import CPU, HERE

from weakaudio.deploy.benchmark import describe
from weakaudio.errors import WeakAudioError
from weakaudio.nas.blockwise import BlockwiseDistillation
from weakaudio.nas.latency_model import ClipLatency
from weakaudio.nas.proxies import ShortTraining
from weakaudio.nas.search_space import ArchitectureConfig
from weakaudio.nas.stores import read_log
from weakaudio.networks import build_network

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("small")


def test_a_search_finds_a_network_within_budget_and_is_prolonged_as_if_it_had_been_longer(
    searching: Run, tmp_path: Path
) -> None:
    code, out, err = searching("whole", "--evaluations", "9")
    assert (code, err.strip()) == (0, "")
    settings, evaluations = read_log(tmp_path / "whole" / "search.jsonl")
    latency = ClipLatency(measured(), *GIVEN)
    for evaluation in evaluations:
        config = evaluation.architecture.to_config()
        assert evaluation.latency == latency(config) <= 0.03
        assert config["n_features"] == 768  # which this proxy does not score
    winner = min(evaluations, key=lambda e: e.score)
    said, config = out.strip().splitlines()
    assert said == (
        f"9 networks; the best, number {winner.number}: score {winner.score:.4g}, {1000 * winner.latency:.3g} ms "
        "-> whole/search.html"
    )
    assert (
        ArchitectureConfig.from_config(build_network("flash", n_classes=2, **json.loads(config)).config)
        == winner.architecture
    )
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
    assert [e["architecture"] for e in without_times(parts)] == [
        e["architecture"] for e in without_times(evaluations)
    ]
    np.testing.assert_allclose([e.score for e in parts], [e.score for e in evaluations], rtol=1e-5)


def test_an_interrupted_search_resumes_and_has_a_page_meanwhile(
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
    assert {e.architecture.n_features for e in whole} == {64, 768}

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
        (("--precision", "half"), "precision 'half', expected auto, bf16-mixed or 32-true"),
        (("--seconds", "3"), "lacks"),
        (("--table", "none.json"), "none.json: no such file"),
        (("--table", "toaster.json"), "toaster.json: measured on another device: Toaster"),
        (("--teacher", "nobody"), "nobody"),
        (("--teacher", "{root}/closed.safetensors"), "has no stages"),
        (("--proxy", "training", "--teacher", "{root}/closed.safetensors"), "has no stages"),
        (("--device", "abacus"), "device 'abacus': not available"),
        (("--corpus", "{root}/none"), "none"),
        (("--corpus", "{root}/slow"), "of one sample rate"),
        (("--corpus", "{root}/corpus"), "is given twice"),
        (("--corpus", "{root}/slow=0"), "a weight of 0, expected more than 0"),
        (("--corpus", "{root}/slow=nan"), "a weight of nan"),
        (("--corpus", "{root}/slow=much"), "'much' is no number; expected PATH=WEIGHT"),
    ],
)
def test_invalid_options_are_one_line_and_nothing_is_logged(
    searching: Run, root: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    measured(HERE).save(tmp_path / "toaster.json")
    said = one_line(searching("found", *(option.format(root=root) for option in options)))
    assert words in said
    log = tmp_path / "found" / "search.jsonl"
    assert not log.exists() or read_log(log)[1] == []


def test_corpora_that_do_not_fit_the_teacher_are_refused_before_the_search(
    run: Run, searching: Run, root: Path, tmp_path: Path
) -> None:
    given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", *CLIPS, "--budget-ms", "30")
    for proxy in ("blockwise", "training"):
        result = run("search", "run", *given, "--proxy", proxy, "--corpus", root / "slow", "-o", "found")
        assert "corpora at 16000 Hz" in one_line(result)
    assert not (tmp_path / "found").exists()


def test_a_table_of_another_device_is_accepted_if_allowed(
    searching: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    measured(HERE).save(tmp_path / "toaster.json")
    options = ("--table", "toaster.json", "--proxy", "training", "--evaluations", "2")
    assert searching("found", *options, "--allow-other-device")[0] == 0
    assert read_log(tmp_path / "found" / "search.jsonl")[0]["about"]["latency"]["device"] == str(HERE)


def test_a_search_is_not_resumed_with_other_settings(
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
    table.times[next(key for key in table.times if key.kind == "block")] += 1e-3
    table.save(tmp_path / "table.json")
    assert "about.latency.times" in one_line(searching("found", *options))


def test_a_search_resumes_in_its_precision_on_a_machine_of_another(
    searching: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    options = ("--proxy", "training", "--evaluations", "2")
    monkeypatch.setattr("weakaudio.networks.runtime.has_native_bfloat16", lambda device: True)
    assert searching("found", *options)[0] == 0
    monkeypatch.setattr("weakaudio.networks.runtime.has_native_bfloat16", lambda device: False)
    assert 'about.proxy.precision "bf16-mixed", now "32-true"' in one_line(searching("found", *options))
    assert searching("found", *options, "--precision", "bf16-mixed")[0] == 0


def test_a_page_of_nothing_is_one_line(run: Run, searching: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found/search.jsonl: no log of a search" in one_line(run("search", "page", "found"))
    monkeypatch.setattr(ShortTraining, "__call__", lambda self, config: score(config))
    assert searching("found", "--proxy", "training", "--evaluations", "2")[0] == 0
    assert "none.csv" in one_line(run("search", "page", "found", "--full", "none.csv"))


def test_proxies_check_beforehand_what_would_fail(root: Path, tmp_path: Path) -> None:
    teacher, corpora = str(root / "teacher.safetensors"), {str(root / "corpus"): 1.0}
    ShortTraining(teacher, corpora).check()
    BlockwiseDistillation(teacher, corpora, store=tmp_path / "stages.json").check()
    assert not (tmp_path / "stages.json").exists()
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(WeakAudioError, match=r"stages.json: damaged"):
        BlockwiseDistillation(teacher, corpora, store=tmp_path / "stages.json").check()
