"""AudioSet's own lists against a fake folder: 20,371 segments, 15 % of the files missing, 1 % corrupt."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from killable import Killable
from weakaudio_data_prep import summary
from weakaudio_data_prep.audioset import prepare

from weakaudio.data.corpus import Corpus, verify_corpus
from weakaudio.data.ontology import read_ontology

pytestmark = pytest.mark.real

RATE = 8000
NAMINGS = (
    "{0}.wav",
    "Y{0}.wav",
    "{0}_{1:.0f}_{2:.0f}.wav",
    "{0}_{1:.3f}_{2:.3f}.wav",
    "{0}_{1:.0f}000_{2:.0f}000.wav",
)


@dataclass
class Fake:
    """A folder of hard links to fifty tiny WAVs and a corrupt one, and what is in it, by key."""

    root: Path
    labels: dict[str, list[str]]
    """class ids of all listed clips"""
    sound: dict[str, int]
    """which WAV, of the clips that are whole"""
    corrupt: set[str]


def wav(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(-9999, 9999, 40 + n, dtype=np.int16)


def fake(real_data: Path, root: Path, count: int | None = None) -> Fake:
    """Of the evaluation list, or of its first rows; the list is read here by Python's csv."""
    root.mkdir()
    for name in ("class_labels_indices.csv", "ontology.json"):
        shutil.copy(real_data / "audioset" / name, root / name)
    lines = (real_data / "audioset" / "eval_segments.csv").read_text().splitlines()
    lines = lines[: count + 3 if count else None]
    (root / "eval_segments.csv").write_text("\n".join(line for line in lines if "num_segs" not in line) + "\n")
    (root / "tiny").mkdir()
    for n in range(50):
        sf.write(root / "tiny" / f"{n}.wav", wav(n), RATE)
    (root / "tiny" / "corrupt.wav").write_bytes((root / "tiny" / "49.wav").read_bytes()[:90])
    made, rng = Fake(root, {}, {}, set()), np.random.default_rng(0)
    for n, (ytid, start, end, ids) in enumerate(csv.reader(lines[3:], skipinitialspace=True)):
        key = f"{ytid}_{start}_{end}"
        made.labels[key] = ids.split(",")
        fate = rng.random()
        if fate < 0.15:
            continue
        if fate < 0.16:
            made.corrupt.add(key)
        else:
            made.sound[key] = n % 50
        folder = root / "audio" / f"{n % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        source = "corrupt.wav" if key in made.corrupt else f"{n % 50}.wav"
        os.link(root / "tiny" / source, folder / NAMINGS[n % 5].format(ytid, float(start), float(end)))
    return made


def test_the_summary_is_right_to_the_clip(real_data: Path, tmp_path: Path) -> None:
    made = fake(real_data, tmp_path / "root")
    listed, corrupt, whole = len(made.labels), len(made.corrupt), len(made.sound)
    assert listed == 20371
    assert 150 < corrupt < 260
    assert 0.83 < whole / listed < 0.85
    out = tmp_path / "out"
    summary = prepare(str(made.root), str(out), str(made.root / "audio"), ["eval"], sample_rate=RATE)
    assert (summary.n_clips, summary.n_classes, summary.missing) == (whole, 527, listed - whole - corrupt)
    assert {key for key, _ in summary.failures} == made.corrupt
    assert summary.seconds == pytest.approx(sum(40 + n for n in made.sound.values()) / RATE)

    with (made.root / "class_labels_indices.csv").open() as file:
        names = {row["mid"]: row["display_name"] for row in csv.DictReader(file)}
    corpus = Corpus(out)
    assert corpus.manifest.table["path"].tolist() == list(made.sound)
    assert corpus.store.keys == list(made.sound)
    for n, key in enumerate(corpus.store.keys):
        assert set(corpus.store.labels[n]) == {names[label] for label in made.labels[key]}
        np.testing.assert_array_equal(corpus.store.audio(n) * 32768, wav(made.sound[key]))
    missing = set(made.labels) - set(made.sound) - made.corrupt
    assert set(pd.read_csv(out / "missing_clips.csv")["path"]) == missing
    expected = {
        column: Counter(names[label] for key in keys for label in made.labels[key])
        for column, keys in {
            "listed": list(made.labels),
            "missing": list(missing),
            "unreadable": list(made.corrupt),
            "packed": list(made.sound),
        }.items()
    }
    table = pd.read_csv(out / "missing_per_class.csv", keep_default_na=False).set_index("class")
    assert list(table.index) == list(names.values())
    for column, counts in expected.items():
        assert table[column].to_dict() == {name: counts[name] for name in names.values()}
    assert verify_corpus(out).empty


def test_audioset_fits_its_ontology(real_data: Path) -> None:
    ontology = read_ontology(real_data / "audioset" / "ontology.json")
    classes = pd.read_csv(real_data / "audioset" / "class_labels_indices.csv").set_index("display_name")["mid"]
    ontology.check_classes(classes)
    assert len(ontology.parents) == 632
    above = {name for name, mid in classes.items() if mid in ontology.ancestors(classes["Bow-wow"])}
    assert above == {"Dog", "Domestic animals, pets", "Animal"}


class SmallShards(summary.StoreWriter):
    def __init__(self, folder: Path, sample_rate: int) -> None:
        super().__init__(folder, sample_rate, shard_samples=4000)


def prepare_small(tell: Callable[[str], None], root: Path, out: Path, workers: int) -> None:
    summary.StoreWriter = SmallShards  # type: ignore[misc]
    tell("ready")
    prepare(str(root), str(out), str(root / "audio"), ["eval"], sample_rate=16000, workers=workers)


def test_twenty_kills_at_random_moments_lose_and_double_nothing(real_data: Path, tmp_path: Path) -> None:
    made = fake(real_data, tmp_path / "root", 3000)
    out = tmp_path / "out"

    def start(workers: int) -> Killable:
        run = Killable(prepare_small, made.root, out, workers)
        assert run.receive() == "ready"
        return run

    def finish(workers: int) -> dict[str, bytes]:
        """The corpus."""
        assert start(workers).wait() == 0
        files = (path for path in out.rglob("*") if path.is_file())
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}

    undisturbed = finish(1)
    assert len([name for name in undisturbed if name.endswith(".h5")]) > 20
    shutil.rmtree(out)
    rng, kills, while_packing = np.random.default_rng(1), 0, 0
    while kills < 20:
        shards = len(list(out.glob("store/*.h5")))
        run = start(1 + kills % 2)
        wanted = shards + rng.integers(0, 5)
        while len(list(out.glob("store/*.h5"))) < wanted and run.process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        code = run.kill()
        kills += code == -signal.SIGKILL
        while_packing += len(list(out.glob("store/*.h5"))) > shards and not (out / "manifest.csv").exists()
        if code == 0:  # it was done before the kill: begin again
            assert finish(2) == undisturbed
            shutil.rmtree(out)
    assert while_packing >= 3
    assert finish(2) == undisturbed
    corpus = Corpus(out)
    assert corpus.store.keys == list(made.sound)
    assert len(set(corpus.store.keys)) == len(corpus.store) == len(made.sound)
    assert verify_corpus(out).empty
