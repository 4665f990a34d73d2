"""Evolution finds good networks under a budget, and a killed search ends like an undisturbed one."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_stand_ins
from search_stand_ins import (
    EVOLUTION,
    SPACE,
    Uneven,
    deadly_score,
    latency,
    picky_score,
    score,
    storeless_score,
    without_times,
)
from torch_stand_in import threads_score

from weakaudio.deploy.benchmark import use_threads
from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.nas.evolution import ancestry, best, pareto_front, search
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace, Stage, changes
from weakaudio.nas.stores import Evaluation, read_log

NUMBER = 60


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "search.jsonl"
    search(EVOLUTION, latency, picky_score, path, NUMBER)
    return path


def every_architecture(space: SearchSpace) -> list[ArchitectureConfig]:
    names = list(space.random(np.random.default_rng(0)).factors())
    found = []
    for values in itertools.product(*map(space.choices, names)):
        stages = tuple(Stage(*values[3 * n : 3 * n + 3]) for n in range(4))
        found.append(ArchitectureConfig(stages, values[-1]))
    return found


def test_the_best_of_a_small_space_is_found(tmp_path: Path) -> None:
    space = replace(SPACE, features=(64,), channels=((8,), (16, 32), (32,), (64, 96)), longest_mix=1)
    inside = {
        architecture.key: score(architecture.to_config())
        for architecture in every_architecture(space)
        if latency(architecture.to_config()) <= 0.01
    }
    assert len(inside) > 300
    ranks = []
    for seed in range(5):
        evolution = replace(EVOLUTION, space=space, budget=0.01, seed=seed)
        found = search(evolution, latency, score, tmp_path / f"{seed}" / "s.jsonl", 80)
        ranks.append(sum(value < best(found).score for value in inside.values()))
    assert sorted(ranks)[2] == 0, ranks


def test_evolution_beats_as_many_random_draws(tmp_path: Path) -> None:
    def found(name: str, population: int, seed: int) -> float:
        evolution = replace(EVOLUTION, budget=0.01, population=population, sample=10, seed=seed)
        return best(search(evolution, latency, score, tmp_path / f"{name}{seed}" / "s.jsonl", 150)).score

    assert max(found("evolved", 30, seed) for seed in range(4)) < min(found("drawn", 150, seed) for seed in range(4))


def test_every_network_is_within_budget_new_and_one_mutation_from_its_parent(undisturbed: Path) -> None:
    _, found = read_log(undisturbed)
    assert [evaluation.number for evaluation in found] == list(range(NUMBER))
    assert len({evaluation.architecture.key for evaluation in found}) == NUMBER
    for evaluation in found:
        assert evaluation.latency == latency(evaluation.architecture.to_config()) <= EVOLUTION.budget
        factors = evaluation.architecture.factors()
        assert all(value in SPACE.choices(factor) for factor, value in factors.items())
        if evaluation.number < EVOLUTION.population:
            assert (evaluation.parent, evaluation.factor) == (None, None)
        else:
            (change,) = changes(found[evaluation.parent].architecture, evaluation.architecture)
            assert change.factor == evaluation.factor


def test_parents_are_the_fittest_of_samples_of_the_youngest(undisturbed: Path) -> None:
    """An independent version from the paper: a queue from which the oldest leaves for each that joins."""
    _, found = read_log(undisturbed)
    queue: list[Evaluation] = []
    rank_of_parents, last = [], 0
    for start in [0, *range(EVOLUTION.population, NUMBER, EVOLUTION.children)]:
        living = {evaluation.number: evaluation.score for evaluation in queue}
        stop = start + EVOLUTION.children if start else EVOLUTION.population
        for evaluation in found[start:stop]:
            if start:
                assert evaluation.parent in living
                worse = sum(value > living[evaluation.parent] for value in living.values())
                assert worse >= EVOLUTION.sample - 1  # the others of the sample
                rank_of_parents.append(worse / len(living))
        for evaluation in found[start:stop]:
            if evaluation.score is not None:
                queue.append(evaluation)
            if len(queue) > EVOLUTION.population:
                queue.pop(0)
        last = stop
    assert last >= NUMBER
    assert np.mean(rank_of_parents) > 0.6


def test_what_cannot_be_trained_is_logged_with_its_reason_and_has_no_children(undisturbed: Path) -> None:
    _, found = read_log(undisturbed)
    failed = {evaluation.number: evaluation.error for evaluation in found if evaluation.score is None}
    assert set(failed.values()) == {"out of memory", "score: nan"}
    assert not failed.keys() & {evaluation.parent for evaluation in found}
    assert all(
        evaluation.score == score(evaluation.architecture.to_config()) for evaluation in found if not evaluation.error
    )


def test_same_seed_same_search_other_seed_another(undisturbed: Path, tmp_path: Path) -> None:
    _, whole = read_log(undisturbed)
    again = search(EVOLUTION, latency, picky_score, tmp_path / "a" / "s.jsonl", NUMBER)
    assert without_times(again) == without_times(whole)
    other = search(replace(EVOLUTION, seed=4), latency, picky_score, tmp_path / "b" / "s.jsonl", NUMBER)
    assert {e.architecture for e in other} != {e.architecture for e in whole}


def test_a_log_cut_anywhere_resumes(undisturbed: Path, tmp_path: Path) -> None:
    _, whole = read_log(undisturbed)
    content = undisturbed.read_bytes()
    ends = [n + 1 for n, byte in enumerate(content) if byte == 10]
    cuts = {0, 1, 20, ends[0] - 1, ends[0], ends[0] + 1, ends[3] - 1, ends[12], ends[13] + 40, ends[40], len(content)}
    path = tmp_path / "search.jsonl"
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        calls = []

        def counted(config: dict[str, Any], calls: list[Any] = calls) -> float:
            calls.append(config)
            return picky_score(config)

        found = search(EVOLUTION, latency, counted, path, NUMBER)
        assert without_times(found) == without_times(whole)
        assert without_times(read_log(path)[1]) == without_times(whole)
        assert len(calls) == NUMBER - max(content[:cut].count(b"\n") - 1, 0)  # none is scored twice


def test_a_search_is_prolonged_as_if_it_had_been_longer(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    for number in (5, 14, 15, 33, NUMBER):  # within the first population, and within cycles
        assert len(search(EVOLUTION, latency, picky_score, path, number)) == number
    assert without_times(read_log(path)[1]) == without_times(read_log(undisturbed)[1])
    assert len(search(EVOLUTION, latency, deadly_score, path, 3)) == NUMBER  # nothing to do


def start(folder: Path, workers: int, stop: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, search_stand_ins.__file__, str(folder), str(NUMBER), str(workers), str(stop)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not what():
        assert time.monotonic() < end, "nothing happened within ten minutes"
        time.sleep(0.002)


def lines(folder: Path) -> int:
    log = folder / "search.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_search_killed_again_and_again_ends_as_undisturbed(undisturbed: Path, tmp_path: Path) -> None:
    for least in (1, 8, 17, 40):
        process = start(tmp_path, workers=1, stop=least + 3)
        wait_for(lambda least=least: lines(tmp_path) >= least)
        process.kill()
        assert process.wait() < 0
        assert lines(tmp_path) <= least + 3
    process = start(tmp_path, workers=1, stop=NUMBER + 1)
    assert process.wait() == 0
    assert without_times(read_log(tmp_path / "search.jsonl")[1]) == without_times(read_log(undisturbed)[1])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_processes_do_not_change_the_result_and_end_with_a_killed_search(undisturbed: Path, tmp_path: Path) -> None:
    def pids() -> list[int]:
        return [int(path.name) for path in tmp_path.glob("pids/*")]

    process = start(tmp_path, workers=2, stop=9)
    wait_for(
        lambda: lines(tmp_path) >= 5 and len(pids()) == 2
    )  # the second may begin after the first has begun to wait
    process.kill()
    process.wait()
    workers = pids()
    assert process.pid not in workers
    wait_for(lambda: not any(map(alive, workers)))
    assert lines(tmp_path) < 20
    found = search(EVOLUTION, latency, Uneven(tmp_path), tmp_path / "search.jsonl", NUMBER, workers=2)
    assert without_times(found) == without_times(read_log(undisturbed)[1])


def test_a_process_that_dies_is_one_clear_error_and_what_is_done_is_kept(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    search(EVOLUTION, latency, picky_score, path, 14)
    before = multiprocessing.active_children()
    with pytest.raises(WeakAudioError, match="a process died"):
        search(EVOLUTION, latency, deadly_score, path, NUMBER, workers=2)
    assert len(read_log(path)[1]) == 14
    wait_for(lambda: multiprocessing.active_children() == before)
    found = search(EVOLUTION, latency, picky_score, path, NUMBER)
    assert without_times(found) == without_times(read_log(undisturbed)[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_file_is_no_fault_of_the_network(tmp_path: Path, workers: int) -> None:
    with pytest.raises(StoreError, match=r"stages.json: damaged"):
        search(EVOLUTION, latency, storeless_score, tmp_path / "search.jsonl", NUMBER, workers)
    assert read_log(tmp_path / "search.jsonl")[1] == []


def test_processes_share_the_threads_of_this_one(tmp_path: Path) -> None:
    with use_threads(6):
        (found,) = search(EVOLUTION, latency, threads_score, tmp_path / "search.jsonl", 1, workers=2)
    assert found.score == 3.0


def test_an_interrupted_search_resumes(undisturbed: Path, tmp_path: Path) -> None:
    def interrupted(config: dict[str, Any]) -> float:
        if lines(tmp_path) > 20:
            raise KeyboardInterrupt
        return picky_score(config)

    with pytest.raises(KeyboardInterrupt):
        search(EVOLUTION, latency, interrupted, tmp_path / "search.jsonl", NUMBER)
    found = search(EVOLUTION, latency, picky_score, tmp_path / "search.jsonl", NUMBER)
    assert without_times(found) == without_times(read_log(undisturbed)[1])


def test_a_budget_that_nothing_meets_names_the_nearest(tmp_path: Path) -> None:
    fastest = min(
        latency(architecture.to_config()) for architecture in every_architecture(replace(SPACE, longest_mix=1))
    )
    with pytest.raises(WeakAudioError, match=r"budget of 0.1 ms; the nearest found takes (\S+) ms") as error:
        search(replace(EVOLUTION, budget=1e-4), latency, score, tmp_path / "s.jsonl", NUMBER)
    told = float(str(error.value).partition("takes ")[2].split()[0])
    assert told == pytest.approx(1000 * fastest, rel=1e-3)
    tight = replace(EVOLUTION, budget=1.02 * fastest, population=3, sample=2)  # what random draws hardly find
    assert len(search(tight, latency, score, tmp_path / "t" / "s.jsonl", 3)) == 3


def test_a_small_space_is_scored_once_and_then_repeats(tmp_path: Path) -> None:
    space = SearchSpace(operators=(("a", "b"),) * 4, blocks=((1,),) * 4, channels=((8,),) * 4, features=(8,))
    calls = []

    def counted(config: dict[str, Any]) -> float:
        calls.append(config)
        return float(sum(row[0] == "a" for row in config["stages"]))

    evolution = replace(EVOLUTION, space=replace(space, longest_mix=1), budget=1.0)
    found = search(evolution, lambda config: 0.5, counted, tmp_path / "s.jsonl", 40)
    assert len(calls) == 16
    repeated = [evaluation for evaluation in found if evaluation.same_as is not None]
    assert len(repeated) == 24
    for evaluation in repeated:
        assert evaluation.architecture.key == found[evaluation.same_as].architecture.key
        assert evaluation.score == found[evaluation.same_as].score
    assert best(found).score == 0


def test_a_network_of_unknown_latency_is_logged(tmp_path: Path) -> None:
    def partly(config: dict[str, Any]) -> float:
        if "attention" in config["stages"][3][0]:
            raise WeakAudioError("table: no attention")
        return latency(config)

    found = search(EVOLUTION, partly, score, tmp_path / "s.jsonl", NUMBER)
    failed = [evaluation for evaluation in found if evaluation.error]
    assert {evaluation.error for evaluation in failed} == {"latency: table: no attention"}
    assert {"attention" in evaluation.architecture.stages[3].operators for evaluation in failed} == {True}
    assert best(found).score is not None
    with pytest.raises(
        WeakAudioError, match=r"none of the first 12 networks has a score; the first: latency: -1.0 s"
    ):
        search(EVOLUTION, lambda config: -1.0, score, tmp_path / "t" / "s.jsonl", NUMBER)


def test_a_log_of_another_search_is_refused_and_stays(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    path.write_bytes(undisturbed.read_bytes())
    for other, said in (
        (replace(EVOLUTION, seed=4), r"seed 3, now 4"),
        (replace(EVOLUTION, budget=0.5), r"budget 0.02, now 0.5"),
        (replace(EVOLUTION, space=replace(SPACE, features=(64,))), r"space.features \[64, 128\], now \[64\]"),
    ):
        with pytest.raises(StoreError, match=said):
            search(other, latency, score, path, NUMBER)
    with pytest.raises(StoreError, match=r"about.steps null, now 300"):
        search(EVOLUTION, latency, score, path, NUMBER, about={"steps": 300})
    assert path.read_bytes() == undisturbed.read_bytes()


def test_a_log_of_the_first_release_is_read(tmp_path: Path) -> None:
    row = {"number": 0, "genome": {"stages": [["dense", 1, 8]] * 4, "n_features": 64}, "parent": None, "factor": None}
    row |= {"latency": 0.01, "score": 2.5, "seconds": 0.1, "seed": 3, "error": None, "same_as": None}
    header = {"kind": "weakaudio search", "version": 1, "settings": {"seed": 3}}
    (tmp_path / "s.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    settings, (evaluation,) = read_log(tmp_path / "s.jsonl")
    assert settings == {"seed": 3}
    assert evaluation.architecture == ArchitectureConfig((Stage("dense", 1, 8),) * 4, 64)
    assert json.loads(evaluation.to_json()) == row


def test_two_searches_do_not_share_a_folder(tmp_path: Path) -> None:
    def greedy(config: dict[str, Any]) -> float:
        with pytest.raises(StoreError, match="another run writes to it"):
            search(EVOLUTION, latency, score, tmp_path / "s.jsonl", NUMBER)
        return score(config)

    assert len(search(EVOLUTION, latency, greedy, tmp_path / "s.jsonl", 2)) == 2


def damaged(content: list[str], line: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    copy = list(content)
    copy[line] = json.dumps(change(json.loads(copy[line])))
    return ("\n".join(copy) + "\n").encode()


def test_a_damaged_log_is_refused_with_its_line(undisturbed: Path, tmp_path: Path) -> None:
    content = undisturbed.read_text().splitlines()
    path = tmp_path / "search.jsonl"
    for bytes_, said in (
        (b"a,b\n1,2\n", "no log of a search"),
        (b"no newline", "no log of a search"),
        (damaged(content, 0, lambda header: {**header, "version": 9}), "another version"),
        (damaged(content, 0, lambda header: {"kind": header["kind"]}), "line 1: damaged"),
        ("\n".join([*content[:4], "{", *content[4:]]).encode() + b"\n", "line 5: damaged"),
        ("\n".join([*content[:4], *content[5:]]).encode() + b"\n", "line 5: evaluations are out of order"),
        (damaged(content, 3, lambda row: {**row, "parent": 2}), "line 4: evaluations are out of order"),
        (damaged(content, 3, lambda row: {**row, "score": None, "error": None}), "line 4: damaged"),
        (damaged(content, 3, lambda row: {**row, "score": "low", "error": None}), "line 4: damaged"),
        (damaged(content, 3, lambda row: {**row, "genome": {}}), "line 4: damaged"),
        (damaged(content, 3, lambda row: {**row, "colour": 1}), "line 4: damaged"),
        (undisturbed.read_bytes().replace(b"stages", b"\xff\xfe"), "damaged"),
    ):
        path.write_bytes(bytes_)
        with pytest.raises(StoreError, match=said):
            search(EVOLUTION, latency, score, path, NUMBER)
        assert path.read_bytes() == bytes_
        with pytest.raises(StoreError, match=said):
            read_log(path)
    for missing in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(StoreError, match=str(missing)):
            read_log(missing)


def test_a_full_disk_is_one_clear_error_and_what_is_done_is_kept(small_disk: Path) -> None:
    path = small_disk / "search.jsonl"
    with pytest.raises(WeakAudioError, match="No space left"):
        search(EVOLUTION, latency, score, path, 1000)
    done = read_log(path)[1]
    assert done
    assert without_times(search(EVOLUTION, latency, score, path, len(done))) == without_times(done)


@pytest.mark.parametrize(
    "change",
    [{"budget": 0.0}, {"budget": float("nan")}, {"population": 0}, {"sample": 13}, {"children": 0}, {"seed": -1}],
)
def test_invalid_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WeakAudioError, match="search: "):
        replace(EVOLUTION, **change)


def test_invalid_counts_are_refused(tmp_path: Path) -> None:
    for evaluations, workers in ((0, 1), (1, 0)):
        with pytest.raises(WeakAudioError, match="1 or more of each"):
            search(EVOLUTION, latency, score, tmp_path / "s.jsonl", evaluations, workers)


def test_the_pareto_front_is_what_nothing_beats(undisturbed: Path) -> None:
    _, found = read_log(undisturbed)
    scored = [(e.latency, e.score) for e in found if e.score is not None]
    unbeaten = sorted(
        (seconds, value)
        for seconds, value in scored
        if not any((a <= seconds and b < value) or (a < seconds and b <= value) for a, b in scored)
    )
    assert [(e.latency, e.score) for e in pareto_front(found)] == unbeaten
    assert pareto_front(found)[-1] == best(found)
    line = ancestry(found, best(found).number)
    assert line[0].parent is None
    assert [e.parent for e in line[1:]] == [e.number for e in line[:-1]]
    assert line[-1] == best(found)
    with pytest.raises(WeakAudioError, match="no network has a score"):
        best([])
