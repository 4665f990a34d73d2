"""The recipe runs on tiny clips in the layout of its data set, and records what the protocol scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from recipes import results
from recipes.transfer import curve, run, systems
from recipes.transfer.corpora import CORPORA, Corpus
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import ProtocolError
from weakaudio.networks import FlashCNN, Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.transfer.classifiers import linear_svm
from weakaudio.transfer.command import cross_validate_manifest
from weakaudio.transfer.cross_validation import cross_validate
from weakaudio.transfer.estimators import EmbeddingTransformer, LogMelStatistics
from weakaudio.transfer.transductive import spread_labels


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """ESC-10 as it lies on disk, 10 classes of 40 clips, with 50 ms tones for recordings, 100 Hz a class."""
    for n in range(10):
        folder = tmp_path / "data" / "esc10-44k" / f"{n + 1:03d} - Class {n}"
        folder.mkdir(parents=True)
        for clip in range(40):
            tone = np.sin(2 * np.pi * (200 + 100 * n + rng.uniform(-40, 40)) * np.arange(400) / 8000)
            sf.write(folder / f"{clip % 5 + 1}-{40 * n + clip}-A.wav", 0.5 * tone, 8000)
    (tmp_path / "recipes" / "transfer").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path, randomise: Callable[[Network], Network]) -> Path:
    """A small network in a folder named like its training run."""
    path = tmp_path / "weak-20" / "model.safetensors"
    save_model(Model(randomise(WeakCNN(3, 64, 0.0625, depth=1)), "16k", ["a", "b", "c"]), path)
    return path


def measured(data: Path, *more: str) -> dict[tuple[str, str], results.Row]:
    args = ["--data", str(data), "--work", str(data.parent / "work"), "--corpus", "ESC-10", *more]
    assert run.main(args, root=data.parent) == 0
    rows = results.load("transfer", data.parent)
    assert all("--corpus" in row["command"] for row in rows)
    return {(row["system"], row["metric"]): row for row in rows}


def test_references_are_what_the_protocol_scores(data: Path) -> None:
    rows = measured(data)
    names = ["log-mel statistics (paper-44k), RBF SVM", "N_S untrained-16k, F1 mean", "N_S untrained-44k, F1 mean"]
    assert list(rows) == [(name, metric) for name in names for metric in (run.ALL, "fold 5 alone (%)")]
    clips = read_manifest(data.parent / "work" / "esc10-44k" / "manifest.csv")
    scores = cross_validate_manifest(clips, LogMelStatistics("paper-44k"), "rbf-svm")
    five, last = (rows[names[0], metric] for metric in (run.ALL, "fold 5 alone (%)"))
    assert (five["value"], five["n"]) == (pytest.approx(100 * scores.mean), 5)
    assert five["spread"] == pytest.approx(100 * scores.std)
    assert last["value"] == pytest.approx(100 * scores.accuracies[5])


def test_a_model_is_measured_frozen_and_fine_tuned(data: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for judge in systems.JUDGES:
        monkeypatch.setitem(systems.JUDGES, judge, lambda X, y, unseen: np.repeat(y[:1], len(unseen)))
    rows = measured(data, "--model", str(model), "--preset", "II", "--epochs", "1")
    names = list(dict.fromkeys(system for system, _ in rows))
    assert names == [
        *(f"weak-20, {layer} {pooling}" for layer in ("F1", "F2") for pooling in ("mean", "max")),
        "weak-20, F1 mean and logits",
        *(f"weak-20, F1 mean, {judge} (transductive)" for judge in systems.JUDGES),
        *(
            f"weak-20, fine-tuned (II){use}, {how}"
            for use in ("", ", norms (transductive)", ", entropy (transductive)")
            for how in ("F1 max", "own head")
        ),
    ]
    value = {name: rows[name, run.ALL]["value"] for name in names}
    assert value["weak-20, F1 mean, self-training (transductive)"] == pytest.approx(10.0)
    assert value["weak-20, fine-tuned (II), F1 max"] > 20  # one in ten by chance
    notes = {rows[name, run.ALL]["note"] for name in names}
    assert len(notes) == 1
    assert "only fold 5 is unseen" in notes.pop()

    table = read_manifest(data.parent / "work" / "esc10-44k" / "manifest.csv")
    y = [labels[0] for labels in table.table["labels"]]
    for layer in ("f1", "f2"):
        for pooling in ("mean", "max"):
            X = EmbeddingTransformer(model, layer, pooling).fit_transform(table.paths)
            own = cross_validate(linear_svm(), X, y, table.table["fold"])
            assert value[f"weak-20, {layer.upper()} {pooling}"] == pytest.approx(100 * own.mean)


def test_logits_are_those_of_the_probabilities_of_clips(data: Path, model: Path) -> None:
    seen = []

    def keep(estimator: object, X: np.ndarray, **facts: object) -> object:
        seen.append(X)
        return cross_validate(estimator, X, **facts)  # type: ignore[arg-type]

    corpus = next(corpus for corpus in CORPORA if corpus.name == "ESC-10")
    clips = corpus.read(data, data.parent / "work")
    subject = systems.Subject.open(str(model), clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "cross_validate", keep)
        found = systems.frozen(subject)
        for _ in range(5):
            next(found)
    probs = EmbeddingTransformer(model, "f2").fit_transform(clips.paths).astype(np.float64)
    np.testing.assert_allclose(seen[4][:, -3:], np.log(probs / (1 - probs)), rtol=0, atol=1e-4)


def test_labels_are_spread_over_more_neighbours_where_ten_reach_too_few(rng: np.random.Generator) -> None:
    """Fifteen clips of one recording are each other's ten neighbours; the nearest labelled ones are a step beyond."""
    y = np.array(["low"] * 20 + ["high"] * 20)
    X = np.concatenate([rng.normal(-1, 0.01, (20, 2)), rng.normal(1, 0.01, (20, 2))])
    alike = rng.normal([0.9, 3.9], 1e-6, (15, 2))
    with pytest.raises(ProtocolError, match="15 clips are not connected to a labelled one"):
        spread_labels(X, y, alike)
    assert (systems.spread(X, y, alike) == "high").all()


def test_folds_of_other_corpora_are_not_those_of_esc(data: Path) -> None:
    """A corpus without an unseen fold has no figure of one fold alone."""
    esc10 = next(corpus for corpus in CORPORA if corpus.name == "ESC-10")
    other: Corpus = replace(esc10, name="other", unseen_fold=None, untrained=())
    clips: Manifest = other.read(data, data.parent / "work")
    (_, scores), *_ = systems.references(other, clips)
    assert [row["metric"] for row in run.rows(other, "a system", scores, None)] == [run.ALL]


def test_the_learning_curve_is_what_adapt_estimates(
    data: Path, tmp_path: Path, randomise: Callable[[Network], Network]
) -> None:
    path = tmp_path / "tiny.safetensors"
    stages = [("dense", 1, 4), ("dense", 0, 8), ("dense", 0, 8), ("dense", 1, 16)]
    save_model(Model(randomise(FlashCNN(3, 64, stages, 8)), "16k", ["a", "b", "c"]), path)
    args = ["--data", str(data), "--work", str(tmp_path / "work"), "--corpus", "esc10-44k", "--model", str(path)]
    assert curve.main(args, root=tmp_path) == 0
    rows = {(row["system"], row["metric"]): row for row in results.load("transfer", tmp_path)}
    whole = "all (4 of 5 folds)"
    accuracy = "tiny: accuracy (%)"
    assert list(rows) == [
        *((f"{n} labels per class", accuracy) for n in (5, 10, 20)),
        (whole, accuracy),
        (whole, "tiny: seconds, command"),
    ]
    assert rows[whole, accuracy]["value"] > rows["5 labels per class", accuracy]["value"] > 10
    assert all(row["data"] == "400 clips of 10 classes, esc10-44k" for row in rows.values())
