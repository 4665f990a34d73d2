"""The demo runs at a tiny size, writes its page, uses finished parts again, and reports errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recipes.demo import run
from weakaudio.data.corpus import MANIFEST, Corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import MODEL

CONFIGS = {name: Path(run.__file__).parent / f"demo_{name}.yaml" for name in run.SYSTEMS.values()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo."""
    out = tmp_path_factory.mktemp("demo")
    assert run.main(["--quick", f"--out={out}"]) == 0
    return out


@pytest.mark.xdist_group("demo")
def test_the_demo_writes_all_that_it_promises(done: Path) -> None:
    corpus = Corpus(done / "soundscapes")
    assert corpus.manifest.table["split"].value_counts().to_dict() == {"train": 10, "test": 8, "val": 6}
    for name in run.SYSTEMS.values():
        assert load_model(done / name / MODEL).labels == corpus.label_set.names
        assert (done / name / "evaluation" / "metrics.json").is_file()
    table = read_embeddings(done / "embeddings.h5")
    assert sorted(table.paths) == sorted(read_manifest(done / "recordings" / MANIFEST).table["path"])
    html = (done / run.REPORT).read_text(encoding="utf-8")
    assert all(system in html for system in run.SYSTEMS)
    assert html.count("<img") == html.count("<audio") + 3


@pytest.mark.xdist_group("demo")
def test_a_second_demo_uses_what_is_finished(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [done / "weak" / MODEL, done / "slat" / MODEL, done / "embeddings.h5", done / "soundscapes" / MANIFEST]
    before = {path: path.stat().st_mtime_ns for path in kept}
    page = (done / run.REPORT).read_bytes()
    (done / run.REPORT).unlink()
    capsys.readouterr()
    assert run.main(["--quick", f"--out={done}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert (done / run.REPORT).read_bytes() == page
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert all(system in shown for system in run.SYSTEMS)


@pytest.mark.xdist_group("demo")
def test_sounds_of_the_transfer_took_no_part_in_training(done: Path) -> None:
    trained = {path.read_bytes() for path in (done / "sounds").rglob("*.wav")}
    transferred = {path.read_bytes() for path in (done / "recordings").rglob("*.wav")}
    assert transferred
    assert not trained & transferred


def test_a_failure_is_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "soundscapes").mkdir()
    (tmp_path / "soundscapes" / MANIFEST).write_text("path,labels\n")  # no classes, no store
    assert run.main(["--quick", f"--out={tmp_path}"]) == 2
    assert "not a prepared corpus" in capsys.readouterr().err


def test_both_systems_get_the_same_but_network_and_loss() -> None:
    weak, slat = (yaml.safe_load(path.read_text()) for path in CONFIGS.values())
    for config in (weak, slat):
        del config["model"]["network"], config["model"]["loss"], config["out"]
    assert weak == slat
