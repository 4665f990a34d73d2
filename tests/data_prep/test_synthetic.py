from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from weakaudio_data_prep.synthetic import KINDS, background, prepare, synthesise

from weakaudio.audio.io import audio_info
from weakaudio.data.manifest import read_manifest


def test_corpus_has_every_kind_in_five_folds(tmp_path: Path) -> None:
    summary = prepare(str(tmp_path), per_class=5, seconds=(0.1, 0.2))
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert (summary.n_clips, summary.n_classes, summary.failures) == (60, 12, [])
    assert manifest.label_set.names == sorted(KINDS)
    assert manifest.table.groupby("fold").size().tolist() == [12] * 5
    assert (tmp_path / "labels.txt").read_text().split() == sorted(KINDS)
    infos = [audio_info(path) for path in manifest.paths]
    assert {info.sample_rate for info in infos} == {16000}
    assert all(0.09 <= info.seconds <= 0.21 for info in infos)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        prepare(str(tmp_path / name), per_class=1, seconds=(0.1, 0.2), seed=seed)
    for path in (tmp_path / "a").rglob("*.*"):
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        other = tmp_path / "c" / path.relative_to(tmp_path / "a")
        assert twin.read_bytes() == path.read_bytes()
        assert (other.read_bytes() != path.read_bytes()) == (path.suffix == ".wav")


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sounds_at_every_rate(kind: str, sample_rate: int) -> None:
    for seed in range(20):
        audio = synthesise(kind, np.random.default_rng(seed), 0.5, sample_rate)
        assert (audio.dtype, audio.shape) == (np.float32, (sample_rate // 2,))
        assert np.abs(audio).max() == pytest.approx(0.5)
        assert np.sqrt(np.mean(audio**2)) > 0.005


def test_background_has_its_level() -> None:
    noise = background(np.random.default_rng(0), 16001, 16000)
    assert (noise.dtype, noise.shape) == (np.float32, (16001,))
    assert np.sqrt(np.mean(noise.astype(float) ** 2)) == pytest.approx(0.1, rel=1e-3)
