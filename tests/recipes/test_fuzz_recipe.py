"""The fuzz recipe: damage can be repeated, workers are watched, and what is found is kept and counted."""

from __future__ import annotations

import json
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz_stand_ins as stand_ins
import numpy as np
import pytest

from recipes import results
from recipes.fuzz import mutations, run
from recipes.fuzz.checks import check
from recipes.fuzz.seeds import KINDS, find_seeds, write_seeds
from recipes.fuzz.watch import Answer, Job, WrongError, watch


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    write_seeds(folder)
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """A job on tiny files of the kinds given."""

    def make(*kinds: str, patience: float = 10.0) -> Job:
        (tmp_path / "whole").mkdir()
        for kind in kinds:
            (tmp_path / "whole" / kind).write_bytes(kind.encode() * 20)
        return Job({kind: [kind] for kind in kinds}, tmp_path / "whole", 0, stand_ins.misbehave, patience)

    return make


def test_a_run_of_the_command_finds_no_fault_in_a_few_inputs_of_each_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--inputs", "40", "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "faults").exists()
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in KINDS)


def test_there_are_seeds_of_every_kind_and_suffix(seeds: Path) -> None:
    found = find_seeds(seeds)
    assert found.keys() == KINDS.keys()
    suffixes = {Path(path).suffix for paths in found.values() for path in paths}
    assert suffixes >= {
        ".wav",
        ".w64",
        ".rf64",
        ".aiff",
        ".au",
        ".flac",
        ".ogg",
        ".opus",
        ".mp3",
        ".h5",
        ".safetensors",
    }
    for kind, paths in found.items():
        for path in paths:
            assert check(kind, seeds / path, seeds / path, ()) == "read", path


def test_an_input_hangs_on_its_number_and_the_seed_alone(seeds: Path) -> None:
    found = find_seeds(seeds)
    contents = {path: (seeds / path).read_bytes() for paths in found.values() for path in paths}
    made = [mutations.make_input(found, contents, n, 0) for n in range(130)]
    assert made == [mutations.make_input(found, contents, n, 0) for n in range(130)]
    assert made[5] != mutations.make_input(found, contents, 5, 1)
    assert Counter(one.kind for one in made) == dict.fromkeys(KINDS, 10)
    for one in made:
        assert one.changes
        assert one.content not in contents.values()
    assert {change for one in made for change in one.changes} == {*mutations._CHANGES, "inside"}


def test_damage_inside_leaves_the_container_whole(seeds: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    def zeros(part: bytes) -> bytes:
        return part[:40] + bytes(len(part) - 40)

    ogg = (seeds / "audio/mono.ogg").read_bytes()
    for page in ogg.split(b"OggS")[1:]:  # the checksums of libogg are the oracle
        whole = bytearray(b"OggS" + page)
        stored, whole[22:26] = struct.unpack("<I", whole[22:26])[0], bytes(4)
        assert mutations._ogg_checksum(whole) == stored
    assert mutations._inside_ogg(ogg, zeros, rng) != ogg

    (tmp_path / "a.npz").write_bytes(mutations._inside_zip((seeds / "embeddings/clips.npz").read_bytes(), zeros, rng))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None

    model = (seeds / "models/whole.safetensors").read_bytes()
    changed = mutations._inside_safetensors(model, lambda part: part.replace(b"rain", b"hail and snow"), rng)
    end = 8 + struct.unpack("<Q", changed[:8])[0]
    assert json.loads(json.loads(changed[8:end])["__metadata__"]["weakaudio"])["labels"][1] == "hail and snow"
    assert model.endswith(changed[end:])


def test_a_worker_that_crashes_hangs_or_fails_is_told_and_replaced(job: Callable[..., Job], tmp_path: Path) -> None:
    kinds = ["quiet", *stand_ins.FAULTS]
    work = job(*kinds, patience=1.5)
    answers = list(watch(work, 2 * len(kinds), tmp_path / "scratch", workers=2))
    assert sorted(answer.number for answer in answers) == list(range(2 * len(kinds)))
    for answer in answers:
        assert answer.outcome == stand_ins.FAULTS.get(kinds[answer.number % len(kinds)], "refused")
    reports = {answer.outcome: answer.report for answer in answers}
    assert "os.abort" not in reports["refused"]
    assert "in misbehave" in reports["crash"]  # where, from faulthandler
    assert "in misbehave" in reports["hang"]
    assert any("KeyError: 'thirteen'" in answer.report for answer in answers)
    assert sum("MemoryError" in answer.report for answer in answers) == 2

    found = run.keep(work, answers, tmp_path / "faults")
    assert len(list((tmp_path / "faults").iterdir())) == 2 * len(stand_ins.FAULTS)
    kept = next((tmp_path / "faults").glob("*-crash"))
    made = mutations.make_input(work.seeds, work.contents(), int(kept.name[:5]), 0)
    assert (kept / "crash").read_bytes() == made.content
    assert "in misbehave" in (kept / "report.txt").read_text()

    summary = run.summarise(found)
    assert summary.loc["all", ["inputs", "refused", "read", "faults"]].tolist() == [12, 2, 0, 10]
    assert summary.loc["crash", "faults"] == 2
    for row in run.results(summary, 0):
        results._validate("fuzz", row)


def test_a_worker_that_cannot_begin_is_an_error(job: Callable[..., Job], tmp_path: Path) -> None:
    work = job("quiet")
    broken = Job(work.seeds, work.folder, 0, stand_ins.die)
    with pytest.raises(RuntimeError, match="died before its first input"):
        list(watch(broken, 1, tmp_path / "scratch"))


def test_an_interrupted_run_shows_what_was_done(job: Callable[..., Job], tmp_path: Path) -> None:
    work = job("quiet")

    def interrupted() -> Iterator[Answer]:
        yield from watch(work, 2, tmp_path / "scratch")
        raise KeyboardInterrupt

    found = run.keep(work, interrupted(), tmp_path / "faults")
    assert found["outcome"].tolist() == ["refused", "refused"]


def test_what_passes_for_whole_and_is_not_is_wrong(seeds: Path, tmp_path: Path) -> None:
    """A cut that the reader cannot see (AU that declares no length) and weights of another model are told apart."""
    cut = tmp_path / "cut.au"
    content = bytearray((seeds / "audio/pcm_16.au").read_bytes())
    content[8:12] = b"\xff" * 4  # length unknown: what is there is all
    cut.write_bytes(content[:-4000])
    assert check("AIFF, AU", cut, seeds / "audio/pcm_16.au", ("field", "cut")) == "read"
    with pytest.raises(WrongError, match="cut short"):
        check("AIFF, AU", cut, seeds / "audio/pcm_16.au", ("cut",))
    other = (seeds / "models/half.safetensors", seeds / "models/whole.safetensors")
    with pytest.raises(WrongError, match="not what was saved"):
        check("checkpoint", *other, ("splice",))
