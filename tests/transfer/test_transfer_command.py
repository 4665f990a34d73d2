from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from weakaudio import __version__
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import AudioError, ManifestError, ProtocolError, WeakAudioError
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.command import PREDICTIONS, SCORES, cross_validate_manifest, transfer
from weakaudio.transfer.cross_validation import cross_validate
from weakaudio.transfer.estimators import EmbeddingTransformer, LogMelStatistics


@pytest.fixture
def manifest(tmp_path: Path, rng: np.random.Generator) -> Path:
    """18 clips of 0.1 s at 8 kHz, three from each recording, in three folds: noise and tones, two mislabelled."""
    rows = []
    for n in range(18):
        label, fold = ("noise", "tone")[(n + (n in (4, 9))) % 2], n // 2 % 3 + 1
        tone = np.sin(2 * np.pi * (300 + 20 * n) * np.arange(800) / 8000)
        sf.write(tmp_path / f"{n}.wav", 0.3 * (tone if n % 2 else rng.standard_normal(800).clip(-3, 3)), 8000)
        rows.append({"path": f"{n}.wav", "labels": label, "fold": fold, "source": f"r{n % 6}"})
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"


def rewrite(manifest: Path, row: int, **cells: object) -> None:
    table = pd.read_csv(manifest).astype(object)
    for column, value in cells.items():
        table.loc[row, column] = value
    table.to_csv(manifest, index=False)


@pytest.mark.parametrize("classifier", ["linear-svm", "rbf-svm"])
@pytest.mark.parametrize("model", ["untrained-16k", "logmel-statistics"])
def test_scores_equal_those_of_the_components(manifest: Path, tmp_path: Path, model: str, classifier: str) -> None:
    scores = transfer(manifest, tmp_path / "out", model, "f2", "max", classifier)
    clips = read_manifest(manifest)
    network = model == "untrained-16k"
    features = EmbeddingTransformer(model, "f2", "max") if network else LogMelStatistics()
    X, y = features.fit_transform(clips.paths), [labels[0] for labels in clips.table["labels"]]
    expected = cross_validate(build_classifier(classifier), X, y, clips.table["fold"])
    assert scores.accuracies == expected.accuracies

    found = json.loads((tmp_path / "out" / SCORES).read_text())
    folds = [(fold["fold"], fold["n_clips"], fold["accuracy"]) for fold in found["folds"]]
    assert folds == [(n, 6, expected.accuracies[n]) for n in (1, 2, 3)]
    assert (found["accuracy"]["mean"], found["accuracy"]["std"]) == (expected.mean, expected.std)
    assert found["confusion"] == expected.confusion.tolist()
    assert (found["classes"], found["weakaudio"]) == (["noise", "tone"], __version__)
    assert (found["n_clips"], found["n_features"]) == X.shape
    assert found["arguments"]["classifier"] == classifier
    if network:
        assert found["features"]["checksum"] == model_checksum(load_model(model))
        assert (found["features"]["model"], found["features"]["layer"]) == (model, "f2")
    else:
        assert found["features"]["front_end"]["name"] == "16k"

    table = pd.read_csv(tmp_path / "out" / PREDICTIONS)
    assert table.columns.tolist() == ["path", "fold", "label", "predicted"]
    assert table["path"].tolist() == clips.table["path"].tolist()
    assert table["predicted"].tolist() == expected.predictions.tolist()
    right = table["label"] == table["predicted"]
    assert right.groupby(table["fold"]).mean().to_dict() == scores.accuracies


def test_equal_runs_write_equal_bytes_and_nothing_else(manifest: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        transfer(manifest, tmp_path / name, "logmel-statistics")
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {SCORES, PREDICTIONS}


def test_shared_recordings_are_refused_unless_allowed(manifest: Path, tmp_path: Path) -> None:
    rewrite(manifest, 0, fold=2)
    with pytest.raises(ProtocolError, match="--allow-shared-sources"):
        transfer(manifest, tmp_path / "out", "logmel-statistics")
    transfer(manifest, tmp_path / "out", "logmel-statistics", allow_shared_sources=True)
    assert json.loads((tmp_path / "out" / SCORES).read_text())["shared_sources"] == ["r0"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"labels": "noise;tone"}, r"3\.wav: has the labels \['noise', 'tone'\]"),
        ({"labels": ""}, r"3\.wav: has the labels \[\]"),
        ({"fold": None}, "missing in 1 of 18 rows"),
        ({"labels": "hum"}, "'hum'"),
    ],
)
def test_unfit_manifests_are_refused_before_a_model_is_loaded(
    manifest: Path, tmp_path: Path, cells: dict[str, object], message: str
) -> None:
    rewrite(manifest, 3, **cells)
    with pytest.raises(ProtocolError, match=message):
        transfer(manifest, tmp_path / "out", "no such model")
    assert not (tmp_path / "out").exists()


def test_a_manifest_needs_folds(manifest: Path, tmp_path: Path) -> None:
    pd.read_csv(manifest).drop(columns="fold").to_csv(manifest, index=False)
    with pytest.raises(ProtocolError, match="no column 'fold'"):
        transfer(manifest, tmp_path / "out")
    with pytest.raises(ManifestError):
        transfer(tmp_path / "none.csv", tmp_path / "out")


def test_the_source_column_is_optional(manifest: Path) -> None:
    clips = read_manifest(manifest)
    clips.table = clips.table.drop(columns="source")
    assert set(cross_validate_manifest(clips, LogMelStatistics()).accuracies) == {1, 2, 3}
    with pytest.raises(WeakAudioError, match="rbf-svm"):
        cross_validate_manifest(clips, LogMelStatistics(), "tree")


def test_a_clip_that_cannot_be_read_ends_the_run(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "5.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"5\.wav"):
        transfer(manifest, tmp_path / "out", "logmel-statistics")
    assert not (tmp_path / "out").exists()
