"""Ray gives what one machine gives."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from weakaudio.audio.io import read_audio
from weakaudio.batch import runner
from weakaudio.batch.detect import detect_folder
from weakaudio.batch.embed import embed_folder
from weakaudio.batch.ray import analyse_on_ray
from weakaudio.errors import WeakAudioError
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.model import Model


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'weakaudio[ray]'")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know this file
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture
def model(scored_model: Model) -> Model:
    return scored_model


class DiesOnce(Detector):
    """Its first worker is killed in the middle of its work."""

    mark: Path

    def score(self, windows: list) -> list:
        if len(windows) and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(windows)


@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_same_rows_and_a_killed_worker_loses_nothing(
    model: Model,
    make_wavs: Callable[..., Path],
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [48_000] * 7 + [130 * 16000]
    root = make_wavs({f"{n}.wav": 0.1 * rng.standard_normal(k).astype(np.float32) for n, k in enumerate(lengths)})
    (root / "3.wav").write_bytes(b"broken")
    monkeypatch.setattr(runner, "_CHUNK_FILES", 2)
    first = read_audio(root / "0.wav")[0]
    middle = Embedder(model, "f2").embed_array(first, 16000).segments.mean(0).tolist()
    threshold = dict(zip(model.labels, middle, strict=True))
    detector = DiesOnce(model, threshold)
    detector.mark = tmp_path / "died"
    there = detect_folder(detector, root, tmp_path / "ray" / "e.csv", engine=analyse_on_ray)
    assert detector.mark.exists()
    here = detect_folder(Detector(model, threshold), root, tmp_path / "here" / "e.csv")
    assert there.failures == here.failures
    assert here.n_rows > 5
    tables = [pd.read_csv(summary.out) for summary in (there, here)]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)

    embed_folder(Embedder(model), root, tmp_path / "ray" / "e.h5", engine=analyse_on_ray)
    embed_folder(Embedder(model), root, tmp_path / "here" / "e.h5")
    found, expected = (read_embeddings(tmp_path / where / "e.h5") for where in ("ray", "here"))
    assert found.paths == expected.paths
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WeakAudioError, match=r"pip install 'weakaudio\[ray\]'"):
        list(analyse_on_ray(Detector(model), []))
