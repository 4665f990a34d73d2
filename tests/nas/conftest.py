"""What the tests of `weakaudio search` share: a few sounds, teachers, and a search among few networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from command_stand_ins import CLIPS, SMALL, SPACE, measured
from weakaudio_data_prep.unlabelled import prepare

from weakaudio.nas.blockwise import BlockwiseDistillation
from weakaudio.nas.proxies import ShortTraining
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model

Run = Callable[..., tuple[int, str, str]]


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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of a few networks, and proxies with little audio."""
    monkeypatch.setattr("weakaudio.nas.search_space.SearchSpace", lambda: SPACE)
    little = {"seconds": 0.4, "batch_size": 4, "precision": "32-true"}
    monkeypatch.setattr(
        "weakaudio.nas.blockwise.BlockwiseDistillation", partial(BlockwiseDistillation, mixtures=8, **little)
    )
    monkeypatch.setattr("weakaudio.nas.proxies.ShortTraining", partial(ShortTraining, **little))


@pytest.fixture
def searching(run: Run, root: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`search run` with a table and a corpus, into a folder."""
    measured().save(tmp_path / "table.json")

    def call(out: str, *options: str | Path, budget: float = 30.0) -> tuple[int, str, str]:
        given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", *CLIPS, *SMALL, "--steps", "2")
        corpus = ("--corpus", f"{root / 'corpus'}=0.5")
        return run("search", "run", *given, "--budget-ms", str(budget), *corpus, "-o", out, *options)

    return call
